"""The training graph: placeholders for a batch, network, losses, one optimiser step.

Shapes are static (accelerators compile one graph). The host sends a crop and a mask in bytes and a few joints a sample; targets are made on
the device. A step returns nothing: its losses are kept in a small table on the device, which the loop reads in blocks. Global variables are
those of the published snapshots: weights, biases, Adam's two slots of each, beta1_power, beta2_power and global_step (int32); the table is
a local one.
"""

from typing import Any, Dict, NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import losses
from mtc.losses import terms
from mtc.nets import convolution, cpm
from mtc.training import optimizer

BLOCK = 100
"""Most steps whose losses wait on the device."""

_FIRST = {"beta1_power": 0.9, "beta2_power": 0.999}
"""What Adam's scalars hold before the first step."""


class TrainingGraph(NamedTuple):
    """What the loop feeds and runs."""

    graph: tf.Graph
    inputs: Dict[str, tf.Tensor]
    """Placeholders by the names of `mtc.data.pipeline.Batch`'s fields."""
    rate: tf.Tensor
    place: tf.Tensor
    """Row of the table that the step's losses go to, 0 to BLOCK - 1."""
    stage: Optional[tf.Operation]
    """Sends the fed batch to the device, for the step after; None where each step takes what it is fed."""
    train: tf.Operation
    table: tf.Tensor
    """(BLOCK, 5) float32: `mtc.losses.Losses` of the last steps."""
    initialise: tf.Operation
    """Makes the table, once in a session."""
    layers: Any
    saver: tf.train.Saver
    finite: tf.Tensor
    """Whether all weights are numbers; not part of a step."""
    assign: Dict[str, Any]
    """{variable's name: (placeholder, assign op)} of all global variables."""

    def feed(self, batch):
        """Return the part of a feed_dict that is the batch."""
        return {tensor: getattr(batch, name) for name, tensor in self.inputs.items()}

    def set_variables(self, session, values):
        """Assign {name: array} in the session."""
        session.run([self.assign[name][1] for name in values], {self.assign[name][0]: value for name, value in values.items()})

    def variable_shapes(self):
        """Return {name: shape} of all global variables."""
        return {name: tuple(placeholder.shape.as_list()) for name, (placeholder, _) in self.assign.items()}


def build(config, skeleton, device="cpu"):
    """Return the `TrainingGraph` of a `mtc.sections.Config` for a kind of device ("cpu", "gpu", "npu")."""
    batch, size, joints = config.train.batch_size, config.model.crop, len(skeleton.joints)
    graph = tf.Graph()
    with graph.as_default():
        inputs = {
            "image": tf.placeholder(tf.uint8, [batch, size, size, 3], "image"),
            "mask": tf.placeholder(tf.uint8, [batch, size, size], "mask"),
            "uv": tf.placeholder(tf.float32, [batch, joints, 2], "uv"),
            "xyz": tf.placeholder(tf.float32, [batch, joints, 3], "xyz"),
            "valid": tf.placeholder(tf.bool, [batch, joints], "valid"),
            "is_3d": tf.placeholder(tf.bool, [batch], "is_3d"),
        }
        rate = tf.placeholder(tf.float32, [], "learning_rate")
        place = tf.placeholder(tf.int32, [], "place")
        # The next batch travels while this one is computed: worth a copy only where the device has a memory of its own.
        stage, used = _staged(inputs) if device == "gpu" else (None, inputs)
        layers = cpm.plan(skeleton, config.model.stages, config.model.width)
        weights = cpm.create(layers)
        options = {"convolve": convolution.fastest(device), "recompute": config.train.recompute == "stages"}
        loss, gradients = _gradients(used, weights, skeleton, config, options)
        global_step = tf.get_variable("global_step", [], tf.int32, tf.zeros_initializer(), trainable=False)
        # TensorFlow 1 changes weights in place: none may change before the last gradient that reads one is there.
        gradients = zip(tf.tuple([gradient for gradient, _ in gradients]), [variable for _, variable in gradients])
        update = optimizer.adam(rate).apply_gradients(gradients, global_step=global_step)
        table = tf.Variable(tf.zeros([BLOCK, len(loss)]), trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES], name="losses")
        here = tf.tile(tf.equal(tf.range(BLOCK), place)[:, None], [1, len(loss)])
        note = tf.assign(table, tf.where_v2(here, tf.tile(tf.stack(loss)[None], [BLOCK, 1]), table))
        finite = tf.reduce_all([tf.reduce_all(tf.is_finite(variable)) for variable in tf.trainable_variables()])
        assign = {}
        for variable in tf.global_variables():
            placeholder = tf.placeholder(variable.dtype.base_dtype, variable.shape)
            assign[variable.op.name] = placeholder, tf.assign(variable, placeholder).op
        saver = tf.train.Saver(tf.global_variables(), max_to_keep=None, save_relative_paths=True)
        return TrainingGraph(
            graph, inputs, rate, place, stage, tf.group(update, note), table.value(), tf.variables_initializer([table]), layers, saver, finite, assign
        )


def initial_values(training, config):
    """Return {name: array} of all global variables before the first step; equal on every TensorFlow for a seed."""
    values = cpm.initial_values(training.layers, config.train.seed)
    for name, shape in training.variable_shapes().items():
        if name not in values:
            values[name] = np.full(shape, _FIRST.get(name, 0.0), np.float32)
    values["global_step"] = config.train.start_step
    return values


def dead_terms(config, skeleton):
    """Return the names of loss terms that cannot be anything but 0 in this configuration."""
    return ["loss_pof"] if terms.of_config(config, skeleton).pof_is_dead else []


def _gradients(inputs, weights, skeleton, config, options):
    """Return (`Losses` of the batch, [(gradient, variable)]), computed for `train.micro_batch` samples at a time, one after another."""
    batch = config.train.batch_size
    part = config.train.micro_batch or batch
    variables = tf.trainable_variables()
    shares = losses.shares(inputs, batch // part, skeleton, config)
    total, gradients = None, None
    for i, share in enumerate(shares):
        with tf.control_dependencies(gradients or []):  # the part before is done, and its activations are gone
            some = inputs if part == batch else {name: tf.identity(tensor[i * part : (i + 1) * part]) for name, tensor in inputs.items()}
            maps = cpm.forward(cpm.normalise(some["image"]), weights, config.model.stages, **options)
            loss = losses.scale(losses.batch_losses(maps, some, skeleton, config), share, config.train.pof_weight)
            found = tf.gradients(loss.total, variables)
        # What no loss depends on has a gradient of 0, not none: Adam's moments of it go on, as in the reference.
        found = [tf.zeros_like(variable) if gradient is None else gradient for gradient, variable in zip(found, variables)]
        total = loss if total is None else losses.Losses(*(a + b for a, b in zip(total, loss)))
        gradients = found if gradients is None else [a + b for a, b in zip(gradients, found)]
    return total, list(zip(gradients, variables))


def _staged(inputs):
    """Return (op that puts a fed batch into a buffer on the device, the batch that was put there before)."""
    names = sorted(inputs)
    buffer = {"capacity": 2, "shared_name": "batch"}
    put = tf.raw_ops.Stage(values=[inputs[name] for name in names], **buffer)
    taken = tf.raw_ops.Unstage(dtypes=[inputs[name].dtype for name in names], **buffer)
    for name, tensor in zip(names, taken):
        tensor.set_shape(inputs[name].shape)
    return put, dict(zip(names, taken))
