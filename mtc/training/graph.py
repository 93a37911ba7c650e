"""The training graph: placeholders for a batch, network, losses, one optimiser step.

Shapes are static (accelerators compile one graph). The host sends a crop and a mask in bytes and a few joints a sample; targets are made on
the device. A step returns nothing: its losses are kept in a small table on the device, which the loop reads in blocks. Global variables are
those of the published snapshots: weights, biases, Adam's two slots of each, beta1_power, beta2_power and global_step (int32), and with train.ema the
weights' moving averages; the table is a local one.

A step whose loss or gradient is no number changes nothing but global_step, and that only as long as train.skip_non_finite allows: one too many, and
no step changes anything any more, so that the loop, which learns of it some steps later, finds the state from before the fault.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import losses
from mtc.losses import terms
from mtc.nets import convolution, cpm
from mtc.training import optimizer

# Conditions as TensorFlow 1 builds them, in the graph itself. Those of TensorFlow 2 are functions, which start its eager runtime beside the session:
# on a # GPU that takes the memory that the session is to have, and a process that has it cannot fork.
tf.disable_control_flow_v2()

BLOCK = 100
"""Most steps whose losses wait on the device."""

EXAMINED = 8
"""Samples that are examined at once."""

MADE, SKIPPED, REFUSED = 0, 1, 2
"""What became of a step: made; skipped, its gradient being no number; not made, because that had happened too often."""

FORWARD, LOSS, GRADIENT, OPTIMISER, REST = "forward", "loss and targets", "gradient", "optimiser", "rest"
"""The parts of a step, as the marks have them."""

AVERAGE = "/ExponentialMovingAverage"
"""What TensorFlow appends to a weight's name for its moving average."""

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
    used: Dict[str, tf.Tensor]
    """What the network computes with: `inputs`, or what was staged of them. Fed, it takes the place of both."""
    activations: Dict[str, List[tf.Tensor]]
    """{layer: its output}, in the order of computation; where the batch is divided, its parts in order."""
    losses: losses.Losses
    gradients: Dict[str, tf.Tensor]
    """{variable's name: gradient of the whole batch's loss}."""
    marks: List[Tuple[int, str]]
    """[(n, part)]: the operations before the n-th, in order of creation, that are before no earlier mark belong to this part of a step."""
    table: tf.Tensor
    """(BLOCK, 7) float32: `mtc.losses.Losses` of the last steps, the gradient's Euclidean norm, and MADE, SKIPPED or REFUSED."""
    initialise: tf.Operation
    """Makes the table and the counter of skipped steps, once in a session."""
    skipped: tf.Tensor
    """How many steps were skipped before this session; `initialise` takes it."""
    layers: Any
    assign: Dict[str, Any]
    """{variable's name: (placeholder, assign op)} of all global variables."""
    values: Dict[str, tf.Tensor]
    """{variable's name: its value} of all global variables."""
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
        marks: List[Tuple[int, str]] = []
        _mark(marks, REST)
        loss, gradients, activations = _gradients(used, weights, skeleton, config, options, device, marks)
        global_step = tf.get_variable("global_step", [], tf.int32, tf.zeros_initializer(), trainable=False)
        update, code, norm, skipped, counter = _update(gradients, loss.total, rate, global_step, config)
        _mark(marks, OPTIMISER)
        row = tf.stack(list(loss) + [norm, tf.cast(code, tf.float32)])
        columns = row.shape[0].value if hasattr(row.shape[0], "value") else row.shape[0]
        table = tf.Variable(tf.zeros([BLOCK, columns]), trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES], name="losses")
        here = tf.tile(tf.equal(tf.range(BLOCK), place)[:, None], [1, columns])
        note = tf.assign(table, tf.where_v2(here, tf.tile(row[None], [BLOCK, 1]), table))
        assign = {}
        for variable in tf.global_variables():
            placeholder = tf.placeholder(variable.dtype.base_dtype, variable.shape)
            assign[variable.op.name] = placeholder, tf.assign(variable, placeholder).op
        values = {variable.op.name: variable.value() for variable in tf.global_variables()}
        return TrainingGraph(
            graph=graph,
            inputs=inputs,
            rate=rate,
            place=place,
            stage=stage,
            train=tf.group(update, note),
            used=used,
            activations=activations,
            losses=loss,
            gradients={variable.op.name: gradient for gradient, variable in gradients},
            marks=marks,
            table=table.value(),
            initialise=tf.variables_initializer([table, counter]),
            skipped=skipped,
            layers=layers,
            assign=assign,
            values=values,
            examine=_examine(weights, config) if config.evaluation.samples or config.previews.every else None,
        )


def initial_values(training, config):
    """Return {name: array} of all global variables before the first step; equal on every TensorFlow for a seed."""
    values = cpm.initial_values(training.layers, config.train.seed)
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


def _mark(marks, part):
    """Say that all operations of the default graph that no mark claims yet belong to a part of the step."""
    marks.append((len(tf.get_default_graph().get_operations()), part))


def _gradients(inputs, weights, skeleton, config, options, device, marks):
    """Return (`Losses` of the batch, [(gradient, variable)], {layer: [its outputs]}).

    The batch is divided among train.replicas devices of the same kind, and on each computed for `train.micro_batch` samples at a time, one after
    another. Parts are added up in their order in the batch, so that the sums are the same in every run.
    """
    batch, replicas = config.train.batch_size, config.train.replicas
    part = config.train.micro_batch or batch // replicas
    variables = tf.trainable_variables()
    shares = losses.shares(inputs, batch // part, skeleton, config)
    _mark(marks, LOSS)
    made, seen, activations = [], [], {}
    for i, share in enumerate(shares):
        replica, turn = divmod(i, batch // replicas // part)
        before = made[-1][1] if turn else []
        place = "/{}:{}".format(device, replica) if replicas > 1 else None
        with tf.device(place), tf.control_dependencies(before):  # the replica's part before is done, and its activations are gone
            some = inputs if part == batch else {name: tf.identity(tensor[i * part : (i + 1) * part]) for name, tensor in inputs.items()}
            seen.clear()
            maps = cpm.forward(cpm.normalise(some["image"]), weights, config.model.stages, observe=lambda *output: seen.append(output), **options)
            for layer, output in seen:  # now: train.recompute makes them again for the gradient
                activations.setdefault(layer, []).append(output)
            _mark(marks, FORWARD)
            loss = losses.scale(losses.batch_losses(maps, some, skeleton, config), share, config.train.pof_weight)
            _mark(marks, LOSS)
            found = tf.gradients(loss.total, variables)
            # What no loss depends on has a gradient of 0, not none: Adam's moments of it go on, as in the reference.
            found = [tf.zeros_like(variable) if gradient is None else gradient for gradient, variable in zip(found, variables)]
            if turn:
                loss, found = losses.Losses(*(a + b for a, b in zip(made[-1][0], loss))), [a + b for a, b in zip(made[-1][1], found)]
            _mark(marks, GRADIENT)
        made.append((loss, found))
    ends = made[batch // replicas // part - 1 :: batch // replicas // part]
    total, gradients = ends[0]
    for loss, found in ends[1:]:
        total, gradients = losses.Losses(*(a + b for a, b in zip(total, loss))), [a + b for a, b in zip(gradients, found)]
    _mark(marks, GRADIENT)
    return total, list(zip(gradients, variables)), activations


def _update(gradients, loss, rate, global_step, config):
    """Return (op that makes the step where its numbers allow it, MADE/SKIPPED/REFUSED, the gradient's norm, placeholder of steps skipped so far,
    the counter's variable).
    """
    variables = [variable for _, variable in gradients]
    adam = optimizer.Adam(rate)
    adam.create_slots(variables)
    averages = []
    if config.train.ema:
        for variable in variables:
            averages.append(tf.get_variable(variable.op.name + AVERAGE, variable.shape, tf.float32, tf.zeros_initializer(), trainable=False))
    norm = tf.sqrt(2.0 * tf.add_n([tf.nn.l2_loss(gradient) for gradient, _ in gradients]))
    finite = tf.logical_and(tf.is_finite(loss), tf.is_finite(norm))
    skipped = tf.placeholder(tf.int32, [], "skipped")
    counter = tf.Variable(skipped, trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES], name="skipped_steps")
    so_far, most = tf.identity(counter), config.train.skip_non_finite
    counted = so_far + tf.cast(tf.logical_and(tf.logical_not(finite), so_far <= most), tf.int32)  # most + 1: it is over
    over = counted > most
    code = tf.where_v2(over, REFUSED, tf.where_v2(finite, MADE, SKIPPED))

    def make():
        # TensorFlow 1 changes weights in place: none may change before the last gradient that reads one is there, which `code` waits for.
        applied = adam.apply_gradients(gradients)
        if not averages:
            return applied
        with tf.control_dependencies([applied]):
            moved = [tf.assign_sub(a, (1 - config.train.ema) * (a - v.read_value())) for a, v in zip(averages, variables)]
        return tf.group(*[tensor.op for tensor in moved])

    update = tf.cond(tf.equal(code, MADE), make, tf.no_op)
    counting = tf.assign(counter, counted)
    advance = tf.assign_add(global_step, tf.cast(tf.logical_not(over), tf.int32))
    return tf.group(update, counting, advance), code, norm, skipped, counter


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
