"""What is measured of ours: the only file here that knows how `mtc` builds its graphs, steps and batches."""

import dataclasses

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import devices, losses
from mtc.data import readers
from mtc.data.pipeline import Pipeline
from mtc.nets import cpm
from mtc.skeleton import SKELETONS
from mtc.training import graph as graphs
from mtc.training import optimizer
from mtc.training.steps import Steps

RATE = 1e-5


def session(graph, config):
    """Return a session with the settings of a training."""
    return tf.Session(graph=graph, config=_device(config).session_config)


def batches(config):
    """Return the pipeline: a context manager and an iterator of batches."""
    return Pipeline(readers.training(config), config, SKELETONS[config.model.kind])


class Step:
    """A training without checkpoints and journal: input pipeline, step, losses fetched in blocks."""

    def __init__(self, config):
        self._training = graphs.build(config, SKELETONS[config.model.kind], _device(config))
        self._session = session(self._training.graph, config)
        self._training.set_variables(self._session, graphs.initial_values(self._training, config))
        self._pipeline = batches(config).__enter__()
        self._steps = Steps(self._session, self._training, self._pipeline, last=2**62)
        self._number = 0
        dead = bool(graphs.dead_terms(config, SKELETONS[config.model.kind]))
        self.flop = cpm.training_flop(self._training.layers, config.model.crop, pof_is_dead=dead)
        """Of one image, forward and backward."""

    def run(self):
        """Make a step. Returns its loss when it was fetched, every so many steps."""
        self._number += 1
        self._steps.run(self._number, [RATE])
        return self.fetch() if self._steps.full() else None

    def fetch(self):
        """Return the losses of the steps since the last call."""
        return [done.losses.total for done in self._steps.done()]

    def close(self):
        """Free everything."""
        self._pipeline.__exit__(None, None, None)
        self._session.close()


def network(config):
    """Return (session, operation): forward and backward pass and Adam, for the maps that the loss of `config` needs; half their squares is the loss.

    The same layers, convolutions and session settings as `Step`; the image is on the device already.
    """
    skeleton = SKELETONS[config.model.kind]
    size, batch = config.model.crop, config.train.batch_size
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(config.train.seed)
        image = tf.get_variable("image", [batch, size, size, 3], tf.float32, tf.random_uniform_initializer(-0.5, 0.5), trainable=False)
        layers = cpm.plan(skeleton, config.model.stages, config.model.width)
        weights = cpm.create(layers)
        options = {"convolve": _device(config).convolve, "recompute": config.train.recompute == "stages"}
        maps = cpm.forward(image, weights, config.model.stages, **options)
        needed = maps.heat if graphs.dead_terms(config, skeleton) else maps.heat + maps.pof
        variables = tf.trainable_variables()
        gradients = tf.gradients(tf.add_n([tf.nn.l2_loss(answer) for answer in needed]), variables)
        gradients = [tf.zeros_like(variable) if gradient is None else gradient for gradient, variable in zip(gradients, variables)]
        train = optimizer.Adam(RATE).apply_gradients(list(zip(gradients, variables)))
        opened = session(graph, config)
        opened.run(tf.global_variables_initializer())
        starting = cpm.initial_values(layers, config.train.seed)
        for variable in variables:
            variable.load(starting[variable.op.name], opened)
    return opened, train


def loss(heat, pof, inputs, config):
    """Return the total loss as `compat.loss` says. heat, pof: lists of maps; inputs: tensors by the names of a batch's fields."""
    return losses.batch_losses(cpm.Maps(heat=heat, pof=pof), inputs, SKELETONS[config.model.kind], config).total


def labels(config, rng):
    """Return {field: array} of a batch's labels and mask, made up: joints all over the crop, four of five valid.

    Labels are 2D or 3D as `data.mix` says; where both kinds come, they alternate, 3D first.
    """
    skeleton = SKELETONS[config.model.kind]
    batch, size, joints = config.train.batch_size, config.model.crop, len(skeleton.joints)
    uv = rng.uniform(0.05, 0.95, [batch, joints, 2]).astype(np.float32) * size
    kinds = {source == "coco" for source, share in config.data.mix.items() if share}
    is_3d = np.array([False in kinds and (True not in kinds or i % 2 == 0) for i in range(batch)])
    flat = np.concatenate([uv, np.zeros_like(uv[..., :1])], axis=2)
    xyz = np.where(is_3d[:, None, None], rng.uniform(-50, 50, flat.shape), flat).astype(np.float32)
    blocks = (rng.uniform(size=[batch, size // 8, size // 8]) < 0.6).astype(np.uint8) * 255
    return {
        "mask": blocks.repeat(8, axis=1).repeat(8, axis=2),
        "uv": uv,
        "xyz": xyz,
        "valid": rng.uniform(size=[batch, joints]) < 0.8,
        "is_3d": is_3d,
    }


def _device(config):
    return devices.select(dataclasses.replace(config, train=dataclasses.replace(config.train, deterministic="no")))
