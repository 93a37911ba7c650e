"""Convolutional pose machine with two branches: heat-maps and 3D part orientation fields (POF) of one person crop.

A VGG-19 front end (conv1_1 to conv4_2, two more layers) makes features F at 1/8 resolution; stage 1 reads F, every later stage reads [POF,
heat, F] of the stage before. Layers, variable names, shapes and order are those of the published snapshots (`CPM/<layer>/weights`, HWIO,
and `CPM/<layer>/biases`), so that they load by name. Source: facts of the reference; arXiv 1812.01598, section 5.
"""

import zlib
from typing import List, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

SCOPE = "CPM"
_BIAS = 0.0001


class Layer(NamedTuple):
    """One convolution (stride 1, zero padding SAME)."""

    name: str
    kernel: int
    inputs: int
    outputs: int


class Maps(NamedTuple):
    """Answers of all stages, each at 1/8 of the crop's resolution, first stage first."""

    heat: List[tf.Tensor]
    """(B, S/8, S/8, J + 1) float32, background last."""
    pof: List[tf.Tensor]
    """(B, S/8, S/8, 3 L) float32, limb k in channels 3k (x), 3k + 1 (y), 3k + 2 (z)."""


class _Builder:
    """Makes each convolution and keeps the list of layers in creation order."""

    def __init__(self):
        self.layers = []

    def conv(self, x, name, kernel, outputs, relu=True):
        inputs = int(x.shape[-1])
        self.layers.append(Layer(name, kernel, inputs, outputs))
        with tf.variable_scope(name):
            limit = (6.0 / (kernel * kernel * (inputs + outputs))) ** 0.5
            weights = tf.get_variable("weights", [kernel, kernel, inputs, outputs], tf.float32, tf.random_uniform_initializer(-limit, limit))
            biases = tf.get_variable("biases", [outputs], tf.float32, tf.constant_initializer(_BIAS))
        x = tf.nn.bias_add(tf.nn.conv2d(x, weights, [1, 1, 1, 1], "SAME"), biases, name=name)
        return tf.nn.relu(x) if relu else x


def cpm(image, skeleton, stages=6, width=1.0):
    """Build the network on `image`, (B, S, S, 3) float32 in [-0.5, 0.5] with S divisible by 8.

    stages counts the first one; width multiplies every hidden layer's channels. Returns `Maps` with `stages` entries each.
    """
    maps, _ = build(image, skeleton, stages, width)
    return maps


def build(image, skeleton, stages=6, width=1.0):
    """As `cpm`, and the list of `Layer`s in creation order."""
    net = _Builder()

    def hidden(channels):
        return max(1, int(round(channels * width)))

    def chain(x, names, kernel, channels):
        for name in names:
            x = net.conv(x, name, kernel, hidden(channels))
        return x

    with tf.variable_scope(SCOPE):
        # -- front end: VGG-19 to conv4_2, then two layers of its own
        x = image
        for block, layers, channels in ((1, 2, 64), (2, 2, 128), (3, 4, 256)):
            x = chain(x, ["conv{}_{}".format(block, i + 1) for i in range(layers)], 3, channels)
            x = tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], "VALID", name="pool{}".format(block))
        x = chain(x, ["conv4_1", "conv4_2"], 3, 512)
        x = net.conv(x, "conv4_3_CPM", 3, hidden(256))
        features = net.conv(x, "conv4_4_CPM", 3, hidden(128))

        # -- stage 1: both branches read the features
        outputs = {"L1": skeleton.pof_channels, "L2": skeleton.heat_channels}
        answers = {"L1": [], "L2": []}
        for branch in ("L1", "L2"):
            x = chain(features, ["conv5_{}_CPM_{}".format(i, branch) for i in (1, 2, 3)], 3, 128)
            x = net.conv(x, "conv5_4_CPM_" + branch, 1, hidden(512))
            answers[branch].append(net.conv(x, "conv5_5_CPM_" + branch, 1, outputs[branch], relu=False))

        # -- refinement stages: both branches read the stage before
        for stage in range(2, stages + 1):
            seen = tf.concat([answers["L1"][-1], answers["L2"][-1], features], 3, name="concat_stage{}".format(stage))
            x = {"L1": seen, "L2": seen}
            for layer, kernel in ((1, 7), (2, 7), (3, 7), (4, 7), (5, 7), (6, 1)):
                for branch in ("L1", "L2"):
                    x[branch] = net.conv(x[branch], "Mconv{}_stage{}_{}".format(layer, stage, branch), kernel, hidden(128))
            for branch in ("L1", "L2"):
                answers[branch].append(net.conv(x[branch], "Mconv7_stage{}_{}".format(stage, branch), 1, outputs[branch], relu=False))
    return Maps(heat=answers["L2"], pof=answers["L1"]), net.layers


def variables(layers):
    """Return [(name, shape)] of all trainable variables in creation order."""
    named = []
    for layer in layers:
        named.append(("{}/{}/weights".format(SCOPE, layer.name), (layer.kernel, layer.kernel, layer.inputs, layer.outputs)))
        named.append(("{}/{}/biases".format(SCOPE, layer.name), (layer.outputs,)))
    return named


def initial_values(layers, seed):
    """Return {name: float32 array}: Glorot-uniform kernels and 0.0001 biases, equal on every TensorFlow version for a seed."""
    values = {}
    for name, shape in variables(layers):
        if name.endswith("/biases"):
            values[name] = np.full(shape, _BIAS, np.float32)
            continue
        kernel, _, inputs, outputs = shape
        limit = (6.0 / (kernel * kernel * (inputs + outputs))) ** 0.5
        rng = np.random.RandomState([seed & 0xFFFFFFFF, zlib.crc32(name.encode("utf-8")) & 0xFFFFFFFF])
        values[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return values


def forward_flop(layers, crop):
    """Return the floating-point operations (two a multiply-add) of one image's forward pass through the convolutions."""
    sides = {"conv1": crop, "conv2": crop // 2, "conv3": crop // 4}
    total = 0
    for layer in layers:
        side = sides.get(layer.name.partition("_")[0], crop // 8)
        total += 2 * side * side * layer.kernel * layer.kernel * layer.inputs * layer.outputs
    return total
