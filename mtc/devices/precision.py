"""16-bit convolutions by TensorFlow's own rewrite of the graph (grappler's auto mixed precision): whether it takes place here, and on what.

The rewrite puts matrix products into 16 bits, too. Here they are the loss, whose quadratic form subtracts large numbers from each other
(`mtc.losses.low_resolution`), and the network has none; so they are taken off the rewrite's list of operations that gain by it. Then what it
changes of a loss are moves of maps that left the network in 16 bits anyway, and no sum (`test/devices/test_rewrite.py` looks at all of it).
"""

import functools
import os

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

_KEPT = ("MatMul", "BatchMatMul", "BatchMatMulV2")
_PREFIX = "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_"
_ON_CPU = {"bfloat16": ("auto_mixed_precision_onednn_bfloat16", "auto_mixed_precision_mkl"), "float16": ("auto_mixed_precision_cpu",)}
"""Fields of RewriterConfig, newest first; which there are depends on the release, and what they do on the build and the processor."""


def switch_on(session_config, field):
    """Switch a rewrite on in a ConfigProto, for all but matrix products."""
    setattr(session_config.graph_options.rewrite_options, field, RewriterConfig.ON)
    for name in ("WHITELIST_REMOVE", "ALLOWLIST_REMOVE"):  # of TensorFlow 1.15, and of newer ones; read when a graph is rewritten
        listed = [op for op in os.environ.get(_PREFIX + name, "").split(",") if op]
        os.environ[_PREFIX + name] = ",".join(listed + [op for op in _KEPT if op not in listed])


def rewrite(dtype, session_config):
    """Have a CPU compute convolutions in "bfloat16" or "float16", where TensorFlow does that. Returns the rewrite's name, or None: it does not.

    session_config: ConfigProto, in which it is switched on. TensorFlow says nothing about a rewrite that it leaves out, so a small graph shows it.
    """
    for field in _ON_CPU[dtype]:
        if field in RewriterConfig.DESCRIPTOR.fields_by_name and _takes_place(field, dtype, session_config.SerializeToString()):
            switch_on(session_config, field)
            return field
    return None


def has_kernels(dtype, place, session_config):
    """Return whether this TensorFlow can compute convolutions and their gradients in a type ("bfloat16") at a place ("/gpu:0")."""
    config = tf.ConfigProto()
    config.CopyFrom(session_config)
    config.allow_soft_placement = False  # it would find a kernel elsewhere
    with tf.Graph().as_default() as graph, tf.device(place):
        fetches, feed = _convolution(dtype)
        with tf.Session(graph=graph, config=config) as session:
            try:
                session.run(fetches, feed)
            except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnimplementedError):
                return False
    return True


def _convolution(dtype):
    """Return (a convolution's answer and gradients, computed in a type, and what to feed)."""
    shapes = {tf.placeholder(dtype, [1, 16, 16, 16]): (1, 16, 16, 16), tf.placeholder(dtype, [3, 3, 16, 16]): (3, 3, 16, 16)}
    x, kernel = shapes
    y = tf.nn.relu(tf.nn.conv2d(tf.nn.relu(x), kernel, [1, 1, 1, 1], "SAME"))
    return [y] + tf.gradients(y, [x, kernel]), {tensor: np.ones(shape) for tensor, shape in shapes.items()}


@functools.lru_cache(maxsize=None)
def _takes_place(field, dtype, session_config):
    """Whether a convolution and its gradients are in a type after the rewrite, as the executed graph has them."""
    config = tf.ConfigProto.FromString(session_config)
    switch_on(config, field)
    ran, options = tf.RunMetadata(), tf.RunOptions(output_partition_graphs=True)
    with tf.Graph().as_default() as graph:
        fetches, feed = _convolution(tf.float32)
        with tf.Session(graph=graph, config=config) as session:
            session.run(fetches, feed, options=options, run_metadata=ran)
    types = [node.attr["T"].type for part in ran.partition_graphs for node in part.node if "Conv2D" in node.op]
    return bool(types) and set(types) == {tf.as_dtype(dtype).as_datatype_enum}
