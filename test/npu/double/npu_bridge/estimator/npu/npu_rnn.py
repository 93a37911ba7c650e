"""Double of npu_bridge.estimator.npu.npu_rnn: nothing of it is in the test double."""
