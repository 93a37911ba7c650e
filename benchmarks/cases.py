"""What can be measured: each case is made from options and runs a number of iterations, each one timed.

All cases take a preset and overrides (`mtc.config`); those of the reference's shape read from it sizes, widths, jitter and the data set only.
"""

import contextlib
import os
import tempfile
import time
from typing import Any, Callable, Dict, List, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from benchmarks import ours
from benchmarks.reference import loss as reference_loss
from benchmarks.reference import reader, targets, training
from mtc import config as configuration
from mtc.data import readers
from mtc.skeleton import SKELETONS

tf.logging.set_verbosity(tf.logging.ERROR)


class Case(NamedTuple):
    """Something that can be run again and again."""

    run: Callable[[int], List[float]]
    """Makes so many iterations; returns the seconds of each."""
    close: Callable[[], None]
    facts: Dict[str, Any]


def reference_input(options):
    """An iteration makes a batch with the reference's pipeline; nothing is copied out of TensorFlow."""
    config = _config(options)
    stack = contextlib.ExitStack()
    with tf.Graph().as_default() as graph:
        iterator = reader.iterator(_records(config, stack), config, SKELETONS[config.model.kind])
        made = tf.group(*[tensor.op for tensor in iterator.get_next().values()])
    session = stack.enter_context(tf.Session(graph=graph, config=training.session_config()))
    session.run(iterator.initializer)
    return Case(_timed(lambda: session.run(made)), stack.close, {})


def our_input(options):
    """An iteration makes a batch with ours."""
    config = _config(options)
    stack = contextlib.ExitStack()
    batches = stack.enter_context(ours.batches(config))
    size = sum(value.nbytes for value in next(batches)._asdict().values() if isinstance(value, np.ndarray))
    return Case(_timed(lambda: next(batches)), stack.close, {"bytes_per_sample": size // config.train.batch_size})


def reference_step(options):
    """An iteration is a step of the reference, input included."""
    config = _config(options)
    stack = contextlib.ExitStack()
    built = training.build(_records(config, stack), config, SKELETONS[config.model.kind])
    session = stack.enter_context(tf.Session(graph=built.graph, config=training.session_config()))
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    with built.graph.as_default():
        writer = tf.summary.FileWriter(folder)
    stack.callback(writer.close)
    session.run([built.initialize, built.iterator.initializer])

    def step():
        summary, _, total, _, _ = session.run(built.fetches)
        writer.add_summary(summary)
        _require_number(total)

    return Case(_timed(step), stack.close, {})


def our_step(options):
    """An iteration is a step of ours, input included; losses are fetched in blocks, as the training loop does."""
    config = _config(options)
    step = ours.Step(config)

    def run(count):
        seconds = _timed(step.run)(count)
        started = time.perf_counter()
        for total in step.fetch():
            _require_number(total)
        return seconds[:-1] + [seconds[-1] + time.perf_counter() - started]

    return Case(run, step.close, {"flop_per_image": step.flop})


def our_network(options):
    """An iteration is what a step of ours cannot do without: the network forward and backward, and Adam."""
    session, train = ours.network(_config(options))
    return Case(_timed(lambda: session.run(train)), session.close, {})


def loss(options):
    """An iteration makes targets and loss of given maps and labels, and the gradient by the maps.

    options: form ("reference", or a value of compat.loss), seed. Maps are held in TensorFlow, labels are fed.
    """
    config = _config(options)
    reference = options["form"] == "reference"
    if not reference:
        config.compat.loss = options["form"]
    skeleton = SKELETONS[config.model.kind]
    rng = np.random.RandomState(options["seed"])
    values = ours.labels(config, rng)
    cells = config.model.crop // 8
    with tf.Graph().as_default() as graph:
        inputs = {name: tf.placeholder(value.dtype, value.shape) for name, value in values.items()}

        def maps(channels):
            first = [
                0.3 * rng.standard_normal([config.train.batch_size, cells, cells, channels]).astype(np.float32) for _ in range(config.model.stages)
            ]
            return [tf.Variable(value) for value in first]

        heat, pof = maps(skeleton.heat_channels), maps(skeleton.pof_channels)
        total = (_reference_loss if reference else ours.loss)([m.value() for m in heat], [m.value() for m in pof], inputs, config)
        gradients = [gradient for gradient in tf.gradients(total, heat + pof) if gradient is not None]
        done = tf.group(*[gradient.op for gradient in gradients])
        initialize = tf.global_variables_initializer()
    session = tf.Session(graph=graph, config=training.session_config()) if reference else ours.session(graph, config)
    session.run(initialize)
    feed = {inputs[name]: value for name, value in values.items()}
    value, *found = session.run([total] + gradients, feed)
    facts = {"loss": float(value), "largest_gradient": max(float(np.abs(gradient).max()) for gradient in found)}
    return Case(_timed(lambda: session.run([total, done], feed)), session.close, facts)


def matrix_product(options):
    """An iteration multiplies an (m, k) by a (k, n) float32 matrix in a session with the settings of a training. options: shape (m, k, n)."""
    config = _config(options)
    m, k, n = options["shape"]
    with tf.Graph().as_default() as graph:
        a, b = (tf.Variable(tf.random_uniform(shape, -1.0, 1.0, seed=1)) for shape in ([m, k], [k, n]))
        product = tf.matmul(a, b).op
        initialize = tf.global_variables_initializer()
    session = ours.session(graph, config)
    session.run(initialize)
    return Case(_timed(lambda: session.run(product)), session.close, {"flop": 2.0 * m * k * n})


CASES = {
    "reference_input": reference_input,
    "our_input": our_input,
    "reference_step": reference_step,
    "our_step": our_step,
    "our_network": our_network,
    "loss": loss,
    "matrix_product": matrix_product,
}


def _config(options):
    return configuration.load(options["preset"], options["overrides"])


def _timed(iteration):
    def run(count):
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            iteration()
            seconds.append(time.perf_counter() - started)
        return seconds

    return run


def _records(config, stack):
    """Write the data set's labels to a temporary TFRecord file, which goes with `stack`. Returns its path."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    path = os.path.join(folder, "sample.tfrecords")
    reader.write_records(readers.training(config)["coco"], path)
    return path


def _reference_loss(heat, pof, inputs, config):
    skeleton = SKELETONS[config.model.kind]
    size, people = config.model.crop, [{name: inputs[name][i] for name in ("uv", "xyz", "valid")} for i in range(config.train.batch_size)]
    widths = config.targets
    return reference_loss.losses(
        heat,
        pof,
        tf.stack([targets.heatmaps(p["uv"], p["valid"], size, widths.sigma) for p in people]),
        tf.stack([targets.orientation_fields(p["uv"], p["xyz"], p["valid"], skeleton.limbs, size, widths.limb_width) for p in people]),
        tf.cast(inputs["mask"], tf.float32) / 255.0,
        inputs["valid"],
        inputs["is_3d"],
        limbs=skeleton.limbs,
        background_weight=skeleton.background_weight,
        ignore_2d=config.compat.ignore_paf_2d,
        pof_weight=config.train.pof_weight,
    )[0]


def _require_number(value):
    if not np.isfinite(value):
        raise RuntimeError("the loss is {}: what was timed is no training".format(value))
