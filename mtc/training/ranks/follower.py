"""What the ranks other than 0 do: they make the steps that rank 0 tells, of their own part of each batch, and write nothing."""

import contextlib
import logging

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import devices
from mtc.data import pipeline, readers
from mtc.errors import RunFailed, Stopped, UserError
from mtc.skeleton import SKELETONS
from mtc.training import graph as graphs
from mtc.training import signals
from mtc.training.ranks import gathering
from mtc.training.steps import Steps
from mtc.training.versions import versions

log = logging.getLogger("mtc.training")


def follow(config, world, abandon):
    """Train with the other ranks of a `World` until rank 0 ends. abandon(text, code): ends the process at once.

    Errors: what rank 0 ended with; RunFailed where it is gone.
    """
    skeleton = SKELETONS[config.model.kind]
    world = gathering.checked(world, config)
    config = gathering.with_a_share_of_the_cores(config)
    with contextlib.ExitStack() as stack:
        samples = readers.training(config)
        device = devices.select(config, config.train.replicas)
        team = stack.enter_context(gathering.follow(world, config, device, samples, versions(), abandon))
        stack.enter_context(signals.caught(team.wish))
        log.info("rank %d of %d: TensorFlow %s on %s", world.rank, world.size, tf.__version__, device.name)
        if team.collectives is None:
            return _end(team.receive())
        training = graphs.build(config, skeleton, device, team.collectives)
        session = stack.enter_context(team.collectives.session(training.graph))
        training.set_variables(session, graphs.initial_values(training, config))
        begin = team.receive()
        if begin["do"] == "end":
            return _end(begin)
        session.run(training.share)
        part = {"first": begin["sample"], "rank": world.rank, "ranks": world.size}
        batches = stack.enter_context(pipeline.Pipeline(samples, config, skeleton, **part))
        steps = Steps(session, training, batches, last=begin["last"], skipped=begin["skipped"], device=device, team=team)
        stack.callback(steps.close)
        mirrored = {
            "table": lambda: session.run(training.table),
            "values": lambda: session.run(training.values),
            "examine": lambda: session.run(training.examine[1], {training.examine[0]: np.zeros(training.examine[0].shape.as_list(), np.uint8)}),
        }
        ready = False
        while True:
            if not ready:
                made, waited = steps.prepare()
                team.ready(names=[batch.names for batch in made], bad=[[list(entry) for entry in batch.bad] for batch in made], waited=waited)
                ready = True
            message = team.receive()
            if message["do"] == "step":
                steps.make(message["number"], message["rates"], message["place"])
                ready = False
            elif message["do"] == "end":
                return _end(message)
            else:
                mirrored[message["do"]]()


def _end(message):
    """End as rank 0 did."""
    text = "rank 0 has ended: {}".format(message["text"] or message["status"])
    if message["status"] == "success":
        log.info("%s", text)
        return
    if message["status"] == "stopped":
        raise Stopped(text, requested_by=message["requested_by"])
    raise (UserError if message["status"] == "user_error" else RunFailed)(text)
