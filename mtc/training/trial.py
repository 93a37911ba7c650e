"""Does a device compute what it should? Three steps of a small network on it and on this host's CPU, from the same weights and samples."""

import dataclasses
import time
from typing import List, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import devices
from mtc.data.pipeline import Batch
from mtc.skeleton import SKELETONS
from mtc.training import graph as graphs
from mtc.training.steps import Steps

STEPS = 3
TOLERANCE = 1e-2
"""Largest relative difference of a loss; 16-bit formats stay well below in so few steps."""


class Trial(NamedTuple):
    """What came of it."""

    losses: List[float]
    """Of the device's steps."""
    expected: List[float]
    """Of the CPU's."""
    first_seconds: float
    """Of the device's first step, compilation included."""
    seconds: float
    """Of its last one."""

    @property
    def difference(self):
        """Largest difference of two losses, relative to the CPU's; infinite where one is no number."""
        if not np.isfinite(self.losses + self.expected).all():
            return float("inf")
        return max(abs(found - wanted) / max(abs(wanted), 1e-12) for found, wanted in zip(self.losses, self.expected))


def run(config, device):
    """Return the `Trial` of a `mtc.devices.Device`, with the precision of a `mtc.sections.Config`."""
    small = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, width=0.125, stages=2, crop=64),
        train=dataclasses.replace(config.train, batch_size=2, micro_batch=0, replicas=1, recompute="none", ema=0.0, seed=0, start_step=0),
        evaluation=dataclasses.replace(config.evaluation, samples=0),
        previews=dataclasses.replace(config.previews, every=0),
        npu=dataclasses.replace(config.npu, iterations_per_loop=1),
    )
    plain = dataclasses.replace(small, train=dataclasses.replace(small.train, precision="fp32"))
    plain = dataclasses.replace(plain, loss_scale=dataclasses.replace(small.loss_scale, mode="none"))
    losses, seconds = _losses(small, dataclasses.replace(device, steps_per_run=1), device.session)
    expected, _ = _losses(plain, None, _on_the_host)
    return Trial(losses, expected, seconds[0], seconds[-1])


def _losses(config, device, open_session):
    """Return ([loss of each step], [its seconds])."""
    skeleton = SKELETONS[config.model.kind]
    training = graphs.build(config, skeleton, device)
    batches = [_batch(config, skeleton, number) for number in range(STEPS)]
    with open_session(training.graph) as session:
        training.set_variables(session, graphs.initial_values(training, config))
        steps, losses, seconds = Steps(session, training, iter(batches), last=STEPS), [], []
        for number in range(1, STEPS + 1):
            started = time.perf_counter()
            steps.run(number, [1e-4])
            (made,) = steps.done()
            losses.append(made.losses.total)
            seconds.append(time.perf_counter() - started)
    return losses, seconds


def _on_the_host(graph):
    options = devices.host_only(tf.ConfigProto(device_count={"GPU": 0}, allow_soft_placement=True))
    return tf.Session(graph=graph, config=options)


def _batch(config, skeleton, number):
    """Return a `Batch` of random crops with all joints in them, 2D and 3D as the configuration's sources have them."""
    size, joints, rng = config.model.crop, len(skeleton.joints), np.random.RandomState(number)
    two = config.train.batch_size
    kinds = [source != "coco" for source, share in sorted(config.data.mix.items()) if share]
    uv = rng.uniform(0.2 * size, 0.8 * size, (two, joints, 2)).astype(np.float32)
    return Batch(
        names=["random"] * two,
        image=rng.randint(0, 256, (two, size, size, 3)).astype(np.uint8),
        mask=np.full((two, size, size), 255, np.uint8),
        uv=uv,
        xyz=np.concatenate([uv, rng.uniform(-50, 50, (two, joints, 1)).astype(np.float32)], axis=2),
        valid=np.ones((two, joints), bool),
        is_3d=np.array([kinds[k % len(kinds)] for k in range(two)]),
        bad=[],
        first=number * two,
    )
