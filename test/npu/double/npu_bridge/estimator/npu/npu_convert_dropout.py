"""Double of npu_bridge.estimator.npu.npu_convert_dropout: importing it would replace Keras's dropout."""

from npu_double import recorder

recorder.note("event", api="npu_convert_dropout.import")
