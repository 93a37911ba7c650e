"""Building a training graph takes seconds and depends on the configuration alone: many runs of one test share it, as do children that are forked."""

import functools

from mtc import config as configuration
from mtc import files
from mtc.nets import cpm


def cached(build):
    """Return `mtc.training.graph.build` with a memory."""
    made = {}

    @functools.wraps(build)
    def remembered(config, skeleton, device=None, ranks=None):
        assert ranks is None
        values = configuration.to_dict(config)
        values["data"] = {"mix": values["data"]["mix"]}
        for key in ("seed", "steps", "start_step", "lr", "lr_steps", "snapshot_every", "log_every", "threads", "profile"):
            del values["train"][key]
        values["evaluation"] = bool(values["evaluation"]["samples"])
        for section in ("name", "augment", "synthetic", "snapshot", "checkpoint", "dump", "storage", "fetch", "report"):
            del values[section]
        network = cpm.forward.__module__, cpm.forward.__qualname__, cpm.FRONT, cpm.FIRST_STAGE, cpm.LATER_STAGES  # of a test, perhaps
        key = files.digest([values, network, device.kind if device else "cpu", device.rounds_to if device else None])
        if key not in made:
            made[key] = build(config, skeleton, device)
        return made[key]

    return remembered
