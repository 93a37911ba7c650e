"""Double of npu_bridge.estimator.npu.npu_cpu_ops: nothing of it is in the test double."""
