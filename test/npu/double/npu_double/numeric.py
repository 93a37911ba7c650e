"""Arithmetic like the 910's, where a test wants it: convolutions and matrix products take fp16, what does not fit saturates and sets the register.

Done when nodes are made: each float32 input of such a node goes through fp16 and back, gradients too (the gradient of a Cast is a Cast). Accumulation
stays fp32, and other operations do. So the graph has more nodes than the real one: not for comparing graphs.
"""

import os

import numpy as np
import tensorflow.compat.v1 as tf

from npu_double import collective, device, recorder

CUBE = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "DepthwiseConv2dNative", "DepthwiseConv2dNativeBackpropInput",
        "DepthwiseConv2dNativeBackpropFilter", "MatMul", "BatchMatMul", "BatchMatMulV2")  # fmt: skip
LARGEST = 65504.0

_state = {"on": False, "inside": False, "patched": False}


@recorder.at_reset
def _restart():
    _state["on"] = os.environ.get("NPU_DOUBLE_FP16") == "1"
    if _state["on"]:
        _patch()


def emulate_fp16(on=True):
    """Have graphs that are built from now on calculate so."""
    _state["on"] = on
    _patch()


def _patch():
    if _state["patched"]:
        return
    _state["patched"] = True
    original = tf.Graph._create_op_internal

    def create(self, op_type, inputs, *args, **kwargs):
        if _state["on"] and op_type in CUBE and not _state["inside"]:
            _state["inside"] = True
            try:
                inputs = [_rounded(tensor) if tensor.dtype.base_dtype == tf.float32 else tensor for tensor in inputs]
            finally:
                _state["inside"] = False
        return original(self, op_type, inputs, *args, **kwargs)

    tf.Graph._create_op_internal = create


def _rounded(tensor):
    """Return the tensor with fp16's precision and range; the register is set where it does not fit."""

    def saturate(array):
        if np.any(np.abs(array) > LARGEST) or not np.all(np.isfinite(array)):
            device.overflowed()
        return np.clip(np.nan_to_num(array), -LARGEST, LARGEST)

    with tf.get_default_graph().gradient_override_map({"PyFunc": "NpuDoubleSaturate"}), tf.name_scope("npu_fp16"):
        fits = collective.node("Cast", saturate, [tensor], tf.float32, tensor.shape, "saturate")
        return tf.cast(tf.cast(fits, tf.float16), tf.float32)


@tf.RegisterGradient("NpuDoubleSaturate")
def _saturate_gradient(op, gradient):
    return gradient


_restart()
