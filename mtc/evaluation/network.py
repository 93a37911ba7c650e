"""A network that answers: the maps of the last stage, from a checkpoint of a run or from initial weights."""

import contextlib
import dataclasses

import tensorflow.compat.v1 as tf

from mtc import devices
from mtc.nets import cpm
from mtc.skeleton import SKELETONS


class Predictor:
    """The network of a configuration, ready to run. Use as a context manager."""

    def __init__(self, config, bundle=None):
        """bundle: path prefix of a checkpoint's Saver bundle, or None: the untrained network, as the run's seed makes it."""
        size = config.model.crop
        self._graph = tf.Graph()
        with self._graph.as_default():
            self._image = tf.placeholder(tf.uint8, [None, size, size, 3])
            maps, layers = cpm.build(cpm.normalise(self._image), SKELETONS[config.model.kind], config.model.stages, config.model.width)
            self._answer = [maps.heat[-1], maps.pof[-1]]
            variables = {v.op.name: v for v in tf.trainable_variables()}
            average = "/ExponentialMovingAverage" if config.train.ema else ""  # what a run with train.ema trains for
            saver = tf.train.Saver({name + average: variable for name, variable in variables.items()})
            given = {name: tf.placeholder(tf.float32, variable.shape) for name, variable in variables.items()}
            assign = [tf.assign(variables[name], given[name]).op for name in variables]
            # One device, and float32 wherever it has that: what is judged are the weights.
            alone = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="fp32", compile="none"))
            self._open = contextlib.ExitStack()
            self._session = self._open.enter_context(devices.select(alone, replicas=1).session(self._graph))
            if bundle:
                saver.restore(self._session, bundle)
            else:
                values = cpm.initial_values(layers, config.train.seed)
                self._session.run(assign, {given[name]: values[name] for name in variables})

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._open.close()

    def maps(self, images):
        """Return (heat (B, S/8, S/8, J + 1), pof (B, S/8, S/8, 3 L)), float32, of (B, S, S, 3) uint8 RGB crops."""
        return self._session.run(self._answer, {self._image: images})
