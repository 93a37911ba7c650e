"""Double of npu_bridge.estimator.npu_ops."""

import numbers

import tensorflow.compat.v1 as tf
from npu_double import collective
from npu_double.recorder import recorded

from npu_bridge.helper import helper

gen_npu_ops = helper.get_gen_ops()


@recorded("npu_ops.initialize_system", phase="graph")
def initialize_system(name=None):
    """Return the operation NPUInit; options come from the session that runs it."""
    return helper.npu_init(name)


@recorded("npu_ops.shutdown_system", phase="graph")
def shutdown_system(name=None):
    """Return the operation NPUShutdown."""
    return helper.npu_shutdown(name)


NPUInit, NPUShutdown = initialize_system, shutdown_system


@recorded("npu_ops.dropout")
def dropout(x, keep_prob, noise_shape=None, seed=None, name=None):
    """Dropout by the probability to keep. Errors: ValueError for another dtype than floating, or keep_prob outside (0, 1]."""
    collective.no_eager("dropout")
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise ValueError("dropout: x is {}, expected a floating dtype".format(x.dtype.name))
    if isinstance(keep_prob, numbers.Real):
        if not 0 < keep_prob <= 1:
            raise ValueError("dropout: keep_prob={}, expected (0, 1]".format(keep_prob))
        if isinstance(keep_prob, float) and keep_prob == 1.0:
            return x
    return tf.nn.dropout(x, rate=1 - keep_prob, noise_shape=noise_shape, seed=seed, name=name)


def _missing(name):
    @recorded("npu_ops." + name)
    def function(*args, **kwargs):
        raise NotImplementedError("{} is not in the test double".format(name))

    function.__name__ = name
    return function


LARSV2, npu_onnx_graph_op = _missing("LARSV2"), _missing("npu_onnx_graph_op")
outfeed_dequeue_op, outfeed_enqueue_op, stop_outfeed_dequeue_op = map(
    _missing, ("outfeed_dequeue_op", "outfeed_enqueue_op", "stop_outfeed_dequeue_op")
)
