"""The training graph: placeholders for a batch, network, targets, losses, one optimiser step.

Shapes are static (accelerators compile one graph); targets are made on the device from joints, so the host sends a crop, a mask and 20
points a sample. Global variables are those of the published snapshots: weights, biases, Adam's two slots of each, beta1_power, beta2_power
and global_step (int32).
"""

from typing import Any, Dict, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import losses, targets
from mtc.nets import cpm
from mtc.training import optimizer

_FIRST = {"beta1_power": 0.9, "beta2_power": 0.999}
"""What Adam's scalars hold before the first step."""


class TrainingGraph(NamedTuple):
    """What the loop feeds and runs."""

    graph: tf.Graph
    inputs: Dict[str, tf.Tensor]
    """Placeholders by the names of `mtc.data.pipeline.Batch`'s fields."""
    rate: tf.Tensor
    losses: losses.Losses
    train: tf.Operation
    layers: Any
    saver: tf.train.Saver
    finite: tf.Tensor
    """Whether all weights are numbers; not part of a step."""
    assign: Dict[str, Any]
    """{variable's name: (placeholder, assign op)} of all global variables."""

    def feed(self, batch, rate):
        """Return the feed_dict of one step."""
        return {self.rate: rate, **{tensor: getattr(batch, name) for name, tensor in self.inputs.items()}}

    def set_variables(self, session, values):
        """Assign {name: array} in the session."""
        session.run([self.assign[name][1] for name in values], {self.assign[name][0]: value for name, value in values.items()})

    def variable_shapes(self):
        """Return {name: shape} of all global variables."""
        return {name: tuple(placeholder.shape.as_list()) for name, (placeholder, _) in self.assign.items()}


def build(config, skeleton):
    """Return the `TrainingGraph` of a `mtc.sections.Config`."""
    batch, size, joints = config.train.batch_size, config.model.crop, len(skeleton.joints)
    weight = config.compat.background_weight
    graph = tf.Graph()
    with graph.as_default():
        inputs = {
            "image": tf.placeholder(tf.float32, [batch, size, size, 3], "image"),
            "mask": tf.placeholder(tf.float32, [batch, size, size], "mask"),
            "uv": tf.placeholder(tf.float32, [batch, joints, 2], "uv"),
            "xyz": tf.placeholder(tf.float32, [batch, joints, 3], "xyz"),
            "valid": tf.placeholder(tf.bool, [batch, joints], "valid"),
            "is_3d": tf.placeholder(tf.bool, [batch], "is_3d"),
        }
        rate = tf.placeholder(tf.float32, [], "learning_rate")
        maps, layers = cpm.build(inputs["image"], skeleton, config.model.stages, config.model.width)
        loss = losses.losses(
            maps,
            targets.heatmaps(inputs["uv"], inputs["valid"], size, config.targets.sigma),
            targets.orientation_fields(inputs["uv"], inputs["xyz"], inputs["valid"], skeleton.limbs, size, config.targets.limb_width),
            inputs["mask"],
            losses.joint_weights(inputs["valid"], skeleton.background_weight if weight < 0 else weight),
            targets.limb_validity(inputs["valid"], skeleton.limbs),
            inputs["is_3d"],
            ignore_2d=config.compat.ignore_paf_2d,
            pof_weight=config.train.pof_weight,
            heat_upsampling=skeleton.heat_upsampling,
        )
        global_step = tf.get_variable("global_step", [], tf.int32, tf.zeros_initializer(), trainable=False)
        train = optimizer.adam(rate).minimize(loss.total, global_step=global_step)
        finite = tf.reduce_all([tf.reduce_all(tf.is_finite(variable)) for variable in tf.trainable_variables()])
        assign = {}
        for variable in tf.global_variables():
            placeholder = tf.placeholder(variable.dtype.base_dtype, variable.shape)
            assign[variable.op.name] = placeholder, tf.assign(variable, placeholder).op
        saver = tf.train.Saver(tf.global_variables(), max_to_keep=None, save_relative_paths=True)
    return TrainingGraph(graph, inputs, rate, loss, train, layers, saver, finite, assign)


def initial_values(training, config):
    """Return {name: array} of all global variables before the first step; equal on every TensorFlow for a seed."""
    values = cpm.initial_values(training.layers, config.train.seed)
    for name, shape in training.variable_shapes().items():
        if name not in values:
            values[name] = np.full(shape, _FIRST.get(name, 0.0), np.float32)
    values["global_step"] = config.train.start_step
    return values


def dead_terms(config):
    """Return the names of loss terms that cannot be anything but 0 in this configuration."""
    only_2d = not any(share for source, share in config.data.mix.items() if source != "coco")
    return ["loss_pof"] if only_2d and config.compat.ignore_paf_2d else []
