"""TensorFlow's rewrite to 16 bits: what it does to a training graph, looked at without a device that would profit from it."""

import importlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import device_properties_pb2

from mtc.config import load
from mtc.devices import Device, precision
from mtc.skeleton import BODY
from mtc.training import graph

NETWORK = {
    "Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "BiasAdd", "BiasAddGrad", "Relu", "ReluGrad", "MaxPool", "MaxPoolGrad",
}  # fmt: skip
MOVES = {
    "AddN", "Cast", "ConcatV2", "Identity", "NotEqual", "Pack", "Pad", "Reshape", "Select", "SelectV2", "ShapeN", "Slice", "StopGradient",
    "StridedSlice", "StridedSliceGrad", "Switch", "Tile", "Transpose",
}  # fmt: skip
"""What computes no new numbers; AddN adds the gradients of the network's branches."""


@pytest.fixture
def lists(monkeypatch):
    for name in ("WHITELIST_REMOVE", "ALLOWLIST_REMOVE"):
        monkeypatch.setenv("TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_" + name, "")


def in_float16(training, session_config):
    """Return {name: type} of operations in float16 after the rewrite for a GPU, which there need not be: grappler takes its description."""
    cluster, optimizer = (importlib.import_module("tensorflow.python.grappler." + name) for name in ("cluster", "tf_optimizer"))
    gpu = device_properties_pb2.NamedDevice(name="/job:localhost/replica:0/task:0/device:GPU:0")
    gpu.properties.type, gpu.properties.frequency, gpu.properties.num_cores = "GPU", 1000, 80
    gpu.properties.environment.update({"architecture": "7.0", "cuda": "11020", "cudnn": "8100"})
    with training.graph.as_default():
        for fetch in (training.train, training.table):
            tf.add_to_collection("train_op", fetch)
        meta = tf.train.export_meta_graph(graph=training.graph)
    for node in meta.graph_def.node:
        node.device = gpu.name
    rewrites = session_config.graph_options.rewrite_options
    rewrites.optimizers.append("auto_mixed_precision")
    rewrites.min_graph_nodes = -1
    found = optimizer.OptimizeGraph(session_config, meta, cluster=cluster.Cluster(devices=[gpu]))
    half = tf.float16.as_datatype_enum
    return {node.name: node.op for node in found.node if any(value.type == half for value in node.attr.values())}


def test_the_network_is_rewritten_and_no_sum_of_the_loss(lists):
    config = load(
        "demo",
        ["model.crop=32", "model.width=0.02", "train.batch_size=2", "data.mix={coco: 1, synthetic3d: 1}", "compat.ignore_paf_2d=false"],
    )
    session_config = tf.ConfigProto()
    precision.switch_on(session_config, "auto_mixed_precision")
    found = in_float16(graph.build(config, BODY, Device("gpu")), session_config)
    kinds = set(found.values())
    assert {"Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "Relu"} <= kinds
    assert kinds - NETWORK - MOVES == set()
    convolutions = sum(op == "Conv2D" for op in found.values())
    assert convolutions >= 36  # all of a network with two stages


def test_kernels_are_asked_for_by_running_them(lists):
    assert precision.has_kernels("float32", "/cpu:0", tf.ConfigProto())
    assert not precision.has_kernels("bfloat16", "/device:GPU:0", tf.ConfigProto(device_count={"GPU": 0}))


def test_a_rewrite_that_does_nothing_here_is_not_taken_for_one(lists):
    assert precision._takes_place("auto_mixed_precision", "float16", tf.ConfigProto(device_count={"GPU": 0}).SerializeToString()) is False


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_switched_on_computes_in_that_type(lists, dtype):
    """On a processor with 16-bit convolutions it is a rewrite, on others none: in both cases numbers tell."""
    session_config = tf.ConfigProto(device_count={"GPU": 0})
    name = precision.rewrite(dtype, session_config)
    assert (name is None) or precision.RewriterConfig.DESCRIPTOR.fields_by_name[name]
    with tf.Graph().as_default() as built:
        x, kernel = tf.placeholder(tf.float32, [1, 16, 16, 16]), tf.placeholder(tf.float32, [3, 3, 16, 16])
        y = tf.nn.relu(tf.nn.conv2d(tf.nn.relu(x), kernel, [1, 1, 1, 1], "SAME"))
        session_config.graph_options.rewrite_options.min_graph_nodes = -1
        with tf.Session(graph=built, config=session_config) as session:
            value = np.float32(1 + 2.0**-13)
            found = session.run(y, {x: np.full([1, 16, 16, 16], value), kernel: np.full([3, 3, 16, 16], 1 / 1024.0)})
    assert (found[0, 8, 8, 0] == 9 * 16 / 1024.0) == (name is not None)
