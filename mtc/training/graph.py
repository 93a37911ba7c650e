"""The training graph: placeholders for a batch, network, losses, one optimiser step.

Shapes are static (accelerators compile one graph). The host sends a crop and a mask in bytes and a few joints a sample; targets are made on
the device. A step returns nothing: its losses are kept in a small table on the device, which the loop reads in blocks. Global variables are
those of the published snapshots: weights, biases, Adam's two slots of each, beta1_power, beta2_power and global_step (int32), and with train.ema the
weights' moving averages, and with a dynamic loss scale its three; the table is a local one. Which steps are made: `mtc.training.update`.
"""

import contextlib
from typing import Any, Dict, NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import losses
from mtc.devices import Device
from mtc.losses import terms
from mtc.nets import convolution, cpm
from mtc.training import loss_scale, observed, optimizer, update
from mtc.training.observed import Observed
from mtc.training.sink import Sink
from mtc.training.update import AVERAGE

# Conditions as TensorFlow 1 builds them, in the graph itself. Those of TensorFlow 2 are functions, which start its eager runtime beside the session:
# on a GPU that takes the memory that the session is to have, and a process that has it cannot fork.
tf.disable_control_flow_v2()

BLOCK = 100
"""Most steps whose losses wait on the device."""

EXAMINED = 8
"""Samples that are examined at once."""

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
    sink: Optional[Sink]
    """Takes batches, rates and places where a call of the session makes several steps; the placeholders are not used then."""
    train: tf.Operation
    observed: Observed
    """What it shows of itself to whoever looks on."""
    table: tf.Tensor
    """(BLOCK, 8) float32: of the last steps `mtc.losses.Losses` and `mtc.training.update.Update.facts`."""
    initialise: tf.Operation
    """Makes the table, the counter of skipped steps and what else is of a session only, once in it."""
    skipped: tf.Tensor
    """How many steps were skipped before this session; `initialise` takes it."""
    layers: Any
    assign: Dict[str, Any]
    """{variable's name: (placeholder, assign op)} of all global variables."""
    values: Dict[str, tf.Tensor]
    """{variable's name: its value} of all global variables."""
    share: Optional[tf.Operation]
    """Gives all global variables the values they have on rank 0, where there are several; all ranks run it together."""
    examine: Any
    """(placeholder of a batch of crops, [heat, pof] of the last stage) to judge and draw the weights (their averages, with train.ema) by; None
    where unused."""

    def feed(self, batch):
        """Return the part of a feed_dict that is the batch."""
        return {tensor: getattr(batch, name) for name, tensor in self.inputs.items()}

    def set_variables(self, session, values):
        """Assign {name: array} in the session."""
        session.run([self.assign[name][1] for name in values], {self.assign[name][0]: value for name, value in values.items()})

    def variable_shapes(self):
        """Return {name: shape} of all global variables."""
        return {name: tuple(placeholder.shape.as_list()) for name, (placeholder, _) in self.assign.items()}


def build(config, skeleton, device=None, ranks=None):
    """Return the `TrainingGraph` of a `mtc.sections.Config` for a `mtc.devices.Device`; None: a CPU, in float32.

    ranks: `mtc.training.ranks.collectives.Collectives` or `ranks.hccl.Hccl`, where this process has a part of each batch alone.
    """
    device = device or Device("cpu", convolve=convolution.fastest("cpu"))
    batch, size, joints = config.train.batch_size // (ranks.size if ranks else 1), config.model.crop, len(skeleton.joints)
    graph = tf.Graph()
    with graph.as_default(), ranks.scope() if ranks else contextlib.nullcontext():
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
        stage, used = _staged(inputs) if device.sends_ahead else (None, inputs)
        sink = Sink(inputs, BLOCK) if device.steps_per_run > 1 else None
        if sink:
            used, rate, place = sink.inputs, sink.rate, sink.place
        layers = cpm.plan(skeleton, config.model.stages, config.model.width)
        weights = cpm.create(layers, optimizer.given)
        global_step = tf.get_variable("global_step", [], tf.int32, tf.zeros_initializer(), trainable=False)
        shown = Observed()
        shown.used = used
        shown.mark(observed.REST)

        def gradients_of(factor):
            shown.factor = factor
            return _gradients(used, weights, skeleton, config, device, ranks, factor, shown)

        made = update.build(gradients_of, rate, global_step, config, device, ranks.size if ranks else 1)
        shown.mark(observed.OPTIMISER)
        row = tf.concat([tf.stack(list(made.losses)), made.facts], axis=0)
        columns = int(row.shape[0])
        table = tf.Variable(tf.zeros([BLOCK, columns]), trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES], name="losses")
        here = tf.tile(tf.equal(tf.range(BLOCK), place)[:, None], [1, columns])
        note = tf.assign(table, tf.where_v2(here, tf.tile(row[None], [BLOCK, 1]), table))
        step = [made.op, note.op]
        if sink:
            step.append(sink.count_on(after=step))
        assign = {}
        for variable in tf.global_variables():
            value, op = variable.initial_value, variable.initializer
            if value.op.type != "Placeholder":  # counters, and what TensorFlow or an adapter makes
                value = tf.placeholder(variable.dtype.base_dtype, variable.shape)
                op = tf.assign(variable, value).op
            assign[variable.op.name] = value, op
        values = {variable.op.name: variable.value() for variable in tf.global_variables()}
        return TrainingGraph(
            graph=graph,
            inputs=inputs,
            rate=rate,
            place=place,
            stage=stage,
            sink=sink,
            train=tf.group(*step),
            observed=shown,
            table=table.value(),
            initialise=tf.variables_initializer([table] + made.local_variables + (sink.variables if sink else [])),
            skipped=made.skipped,
            layers=layers,
            assign=assign,
            values=values,
            share=ranks.from_first(sorted(tf.global_variables(), key=lambda variable: variable.op.name)) if ranks else None,
            examine=_examine(weights, config) if config.evaluation.samples or config.previews.every else None,
        )


def initial_values(training, config):
    """Return {name: array} of all global variables before the first step; equal on every TensorFlow for a seed."""
    values = dict(cpm.initial_values(training.layers, config.train.seed), **loss_scale.initial_values(loss_scale.of_config(config)))
    for name, shape in training.variable_shapes().items():
        if name.endswith(AVERAGE):
            values[name] = values[name[: -len(AVERAGE)]]
        elif name not in values:
            values[name] = np.full(shape, _FIRST.get(name, 0.0), np.float32)
    values["global_step"] = np.array(config.train.start_step, np.int32)
    return values


def with_averages(values, training):
    """Return {name: array} with the averages of weights that have none in `values`: the weights themselves."""
    starts = {
        name: values[name[: -len(AVERAGE)]] for name in training.variable_shapes() if name.endswith(AVERAGE) and name[: -len(AVERAGE)] in values
    }
    return {**starts, **values}


def dead_terms(config, skeleton):
    """Return the names of loss terms that cannot be anything but 0 in this configuration."""
    return ["loss_pof"] if terms.of_config(config, skeleton).pof_is_dead else []


def _gradients(inputs, weights, skeleton, config, device, ranks, factor, shown):
    """Return (`Losses` of the batch, [(gradient of the total, times factor, variable)]). factor: scalar tensor, or None for 1; shown: `Observed`.

    The batch is divided among ranks, a rank's part among train.replicas devices of the same kind, and on each it is computed for `train.micro_batch`
    samples at a time, one after another. Parts are added up in their order in the batch, so that the sums are the same in every run.
    """
    batch, replicas = int(inputs["image"].shape[0]), config.train.replicas
    part = config.train.micro_batch or batch // replicas
    variables = tf.trainable_variables()
    options = {"convolve": device.convolve, "recompute": config.train.recompute == "stages"}
    with device.in_float32():
        shares = losses.shares(inputs, batch // part, skeleton, config, ranks and ranks.sum)
    shown.mark(observed.LOSS)
    made = []
    for i, share in enumerate(shares):
        replica, turn = divmod(i, batch // replicas // part)
        before = made[-1][1] if turn else []
        place = device.place(replica) if replicas > 1 else ""
        with tf.device(place), tf.control_dependencies(before):  # the replica's part before is done, and its activations are gone
            some = inputs if part == batch else {name: tf.identity(tensor[i * part : (i + 1) * part]) for name, tensor in inputs.items()}
            shown.begin_forward()
            maps = cpm.forward(cpm.normalise(some["image"]), weights, config.model.stages, observe=shown.output, **options)
            shown.end_forward()
            answers = list(maps.heat) + list(maps.pof)
            with device.in_float32():  # the loss and its gradient by the maps, which a gradient of the whole would put outside
                loss = losses.scale(losses.batch_losses(maps, some, skeleton, config), share, config.train.pof_weight)
                shown.mark(observed.LOSS)
                upstream = tf.gradients(loss.total if factor is None else loss.total * factor, answers)
            live = [(answer, gradient) for answer, gradient in zip(answers, upstream) if gradient is not None]
            found = tf.gradients([answer for answer, _ in live], variables, [gradient for _, gradient in live])
            # What no loss depends on has a gradient of 0, not none: Adam's moments of it go on, as in the reference.
            found = [tf.zeros_like(variable) if gradient is None else gradient for gradient, variable in zip(found, variables)]
            if turn:
                loss, found = losses.Losses(*(a + b for a, b in zip(made[-1][0], loss))), [a + b for a, b in zip(made[-1][1], found)]
            shown.mark(observed.GRADIENT)
        made.append((loss, found))
    ends = made[batch // replicas // part - 1 :: batch // replicas // part]
    total, gradients = ends[0]
    for loss, found in ends[1:]:
        total, gradients = losses.Losses(*(a + b for a, b in zip(total, loss))), [a + b for a, b in zip(gradients, found)]
    shown.mark(observed.GRADIENT)
    if ranks:
        # In the order in which the backward pass makes them, so that the first are on their way while the last are computed.
        *late, stacked = ranks.sum(gradients[::-1] + [tf.stack(list(total))])
        total, gradients = losses.Losses(*tf.unstack(stacked)), late[::-1]
    shown.mark(observed.RANKS if ranks else observed.GRADIENT)
    shown.losses, shown.gradients = total, {variable.op.name: gradient for gradient, variable in zip(gradients, variables)}
    return total, list(zip(gradients, variables))


def _examine(weights, config):
    """Return (placeholder (B, S, S, 3) uint8, [heat, pof] of the last stage) of the network as it would be used."""
    size = config.model.crop
    image = tf.placeholder(tf.uint8, [EXAMINED, size, size, 3], "examined")
    if config.train.ema:
        average = {variable.op.name: variable for variable in tf.global_variables() if variable.op.name.endswith(AVERAGE)}
        weights = {layer: tuple(average[part.op.name + AVERAGE] for part in parts) for layer, parts in weights.items()}
    maps = cpm.forward(cpm.normalise(image), weights, config.model.stages)
    return image, [maps.heat[-1], maps.pof[-1]]


def _staged(inputs):
    """Return (op that puts a fed batch into a buffer on the device, the batch that was put there before)."""
    names = sorted(inputs)
    buffer = {"capacity": 2, "shared_name": "batch"}
    put = tf.raw_ops.Stage(values=[inputs[name] for name in names], **buffer)
    taken = tf.raw_ops.Unstage(dtypes=[inputs[name].dtype for name in names], **buffer)
    for name, tensor in zip(names, taken):
        tensor.set_shape(inputs[name].shape)
    return put, dict(zip(names, taken))
