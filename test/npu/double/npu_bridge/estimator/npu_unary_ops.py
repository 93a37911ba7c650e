"""Double of npu_bridge.estimator.npu_unary_ops: the module that npu_init exports is the raw operation library."""

import math
import types

import tensorflow.compat.v1 as tf
from npu_double import collective
from npu_double.recorder import recorded


@recorded("npu_unary_ops.gelu")
def gelu(x, name=None):
    """Gaussian error linear unit, in the form with tanh."""
    x = tf.convert_to_tensor(x)
    cubic = tf.cast(math.sqrt(2 / math.pi), x.dtype) * (x + tf.cast(0.044715, x.dtype) * x * x * x)
    return collective.stamped(tf.identity(x * 0.5 * (1 + tf.tanh(cubic)), name=name or "Gelu"), "Gelu")


npu_unary_ops = types.SimpleNamespace(gelu=gelu)
