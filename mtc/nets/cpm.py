"""Convolutional pose machine with two branches: heat-maps and 3D part orientation fields (POF) of one person crop.

A VGG-19 front end (conv1_1 to conv4_2, two more layers) makes features F at 1/8 resolution; stage 1 reads F, every later stage reads [POF,
heat, F] of the stage before. Layers, variable names, shapes and order are those of the published snapshots (`CPM/<layer>/weights`, HWIO,
and `CPM/<layer>/biases`), so that they load by name. Source: facts of the reference; arXiv 1812.01598, section 5.
"""

import zlib
from typing import List, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from mtc.nets import convolution, recomputation

SCOPE = "CPM"
_BIAS = 0.0001
_BRANCHES = ("L1", "L2")
"""POF, heat-maps."""


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


FRONT = (
    (("conv1_1", 64), ("conv1_2", 64)),
    (("conv2_1", 128), ("conv2_2", 128)),
    (("conv3_1", 256), ("conv3_2", 256), ("conv3_3", 256), ("conv3_4", 256)),
    (("conv4_1", 512), ("conv4_2", 512), ("conv4_3_CPM", 256), ("conv4_4_CPM", 128)),
)
"""Blocks of the front end, ((layer, channels), …), kernels of 3; a pooling layer follows each block but the last."""

FIRST_STAGE = ((1, 3, 128), (2, 3, 128), (3, 3, 128), (4, 1, 512), (5, 1, None))
"""(Number of the layer, kernel, channels; None: those of the answer) of either branch."""

LATER_STAGES = ((1, 7, 128), (2, 7, 128), (3, 7, 128), (4, 7, 128), (5, 7, 128), (6, 1, 128), (7, 1, None))
"""The same of every stage after the first."""


def normalise(image):
    """Return the network's input, float32 in [-0.5, 0.5], of uint8 RGB."""
    return tf.cast(image, tf.float32) / 255.0 - 0.5


def build(image, skeleton, stages=6, width=1.0, **options):
    """Build the network with new variables on `image`, (B, S, S, 3) float32 in [-0.5, 0.5] with S divisible by 8.

    stages counts the first one; width multiplies every hidden layer's channels; options are those of `forward`. Returns (`Maps` with `stages` entries
    each, list of `Layer`s in creation order).
    """
    layers = plan(skeleton, stages, width)
    return forward(image, create(layers), stages, **options), layers


def plan(skeleton, stages=6, width=1.0):
    """Return the list of `Layer`s in creation order."""
    layers = []

    def add(name, kernel, inputs, outputs):
        layers.append(Layer(name, kernel, inputs, outputs))
        return outputs

    def hidden(channels):
        return max(1, int(round(channels * width)))

    x = 3
    for name, channels in [layer for block in FRONT for layer in block]:
        x = add(name, 3, x, hidden(channels))
    features = x
    answers = {"L1": skeleton.pof_channels, "L2": skeleton.heat_channels}
    for branch in _BRANCHES:
        x = features
        for name, (_, kernel, channels) in zip(_stage(1, branch), FIRST_STAGE):
            x = add(name, kernel, x, hidden(channels) if channels else answers[branch])
    for stage in range(2, stages + 1):
        seen = dict.fromkeys(_BRANCHES, sum(answers.values()) + features)
        for i, (_, kernel, channels) in enumerate(LATER_STAGES):  # the branches take turns
            for branch in _BRANCHES:
                seen[branch] = add(_stage(stage, branch)[i], kernel, seen[branch], hidden(channels) if channels else answers[branch])
    return layers


def create(layers, initializer=None):
    """Create the variables of layers. Returns {layer's name: (weights, biases)}. Their values come from `initial_values` or a checkpoint.

    initializer: TensorFlow's function of a shape that makes a tensor, for all of them.
    """
    made = {}
    with tf.variable_scope(SCOPE):
        for layer in layers:
            with tf.variable_scope(layer.name):
                shape = [layer.kernel, layer.kernel, layer.inputs, layer.outputs]
                weights = tf.get_variable("weights", shape, tf.float32, initializer or tf.zeros_initializer())
                biases = tf.get_variable("biases", [layer.outputs], tf.float32, initializer or tf.constant_initializer(_BIAS))
            made[layer.name] = weights, biases
    return made


def forward(image, weights, stages, convolve=convolution.convolve, recompute=False, observe=None):
    """Return the `Maps` of an image, (B, S, S, 3) float32 in [-0.5, 0.5].

    weights: {layer's name: (weights, biases)}; convolve: one of `mtc.nets.convolution`. recompute: keep only what goes into each block of
    the front end and each branch of a stage, and compute the rest again for the gradient: a third more work, much less memory. The large
    maps of the first blocks are then there for one sample at a time. observe: called with each layer's name and output as they are made, where
    recompute divides the samples or comes back to a layer more than once.
    """

    def run(names, inputs, pool="", linear_end=False, samples_at_once=0):
        """A chain of layers on the concatenated inputs."""

        def chain(values, of_layer):
            x = tf.concat(values, 3) if len(values) > 1 else values[0]
            for name, (kernel, biases) in zip(names, of_layer):
                x = tf.nn.bias_add(convolve(x, kernel), biases, name=name)
                x = x if linear_end and name == names[-1] else tf.nn.relu(x)
                if observe:
                    observe(name, x)
            return tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], "VALID", name=pool) if pool else x

        of_layer = [weights[name] for name in names]
        return recomputation.recomputed(chain, inputs, of_layer, samples_at_once) if recompute else chain(inputs, of_layer)

    x = image
    for block, of_block in enumerate(FRONT):
        last = block + 1 == len(FRONT)
        x = run([name for name, _ in of_block], [x], pool="" if last else "pool{}".format(block + 1), samples_at_once=0 if last else 1)
    features = x
    pof, heat = ([run(_stage(1, branch), [features], linear_end=True)] for branch in _BRANCHES)
    for stage in range(2, stages + 1):
        answers = [run(_stage(stage, branch), [pof[-1], heat[-1], features], linear_end=True) for branch in _BRANCHES]
        pof.append(answers[0])
        heat.append(answers[1])
    return Maps(heat=heat, pof=pof)


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
    for layer, ((name, shape), (bias_name, bias_shape)) in zip(layers, zip(*[iter(variables(layers))] * 2)):
        rng = np.random.RandomState([seed & 0xFFFFFFFF, zlib.crc32(name.encode("utf-8")) & 0xFFFFFFFF])
        values[name] = rng.uniform(-_glorot(layer), _glorot(layer), shape).astype(np.float32)
        values[bias_name] = np.full(bias_shape, _BIAS, np.float32)
    return values


def forward_flop(layers, crop):
    """Return the floating-point operations (two a multiply-add) of one image's forward pass through the convolutions."""
    return sum(_flop(layer, crop) for layer in layers)


def training_flop(layers, crop, pof_is_dead=False):
    """Return those of one image's forward and backward pass: three times the forward pass, but for the gradient by the image, which nobody needs.

    pof_is_dead: nothing asks for the POF of the last stage, so its layers are not computed.
    """
    stages = 1 + sum(layer.name.startswith("Mconv7") for layer in layers) // len(_BRANCHES)
    unused = _stage(stages, "L1") if pof_is_dead else []
    live = [layer for layer in layers if layer.name not in unused]
    return 3 * forward_flop(live, crop) - _flop(layers[0], crop)


def _stage(stage, branch):
    """Names of a branch's layers in a stage, from 1."""
    if stage == 1:
        return ["conv5_{}_CPM_{}".format(number, branch) for number, _, _ in FIRST_STAGE]
    return ["Mconv{}_stage{}_{}".format(number, stage, branch) for number, _, _ in LATER_STAGES]


def _glorot(layer):
    return (6.0 / (layer.kernel * layer.kernel * (layer.inputs + layer.outputs))) ** 0.5


def _flop(layer, crop):
    side = {"conv1": crop, "conv2": crop // 2, "conv3": crop // 4}.get(layer.name.partition("_")[0], crop // 8)
    return 2 * side * side * layer.kernel * layer.kernel * layer.inputs * layer.outputs
