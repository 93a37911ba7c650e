"""`python -m tasks.train`: trains, or goes on from the newest good checkpoint of the run directory.

Needs preprocessed data (`python -m tasks.fetch coco`, `python -m tasks.preprocess`). Exits 3 when SIGTERM or SIGINT ended it after a
checkpoint was saved: the same command goes on.
"""

import contextlib
import functools
import os
import sys

from mtc import config as configuration
from mtc import quiet
from mtc.errors import RunFailed, UserError
from mtc.fetch import pretrained
from mtc.training import checkpoints
from mtc.training.ranks import team
from mtc.training.ranks import world as worlds
from tasks import step

_HOW = ("log_every", "device", "threads", "micro_batch", "recompute", "compile", "replicas", "deterministic", "profile")
"""Keys of `train` that say how a run is computed, not what it is; compat.loss is another such key."""


def inputs(context):
    """The configuration that decides the result, the labels, the snapshot."""
    config = configuration.to_dict(context.config)
    config["train"] = {key: value for key, value in config["train"].items() if key not in _HOW}
    del config["compat"]["loss"]
    used = {key: config[key] for key in ("model", "targets", "augment", "compat", "train", "storage", "snapshot")}
    used["data"] = configuration.identity(context.config)["data"]
    if not checkpoints.listed(context.run_dir):  # a run that goes on from its own checkpoint does not need the snapshot any more
        pretrained.locate(context.config.snapshot)
    advice = "run python -m tasks.fetch coco and python -m tasks.preprocess with this configuration first"
    return {"config": used, "labels": {path: step.sha256(path, advice) for path in _labels(context.config)}}


def run(context):
    """Train to the last step."""
    quiet.import_tensorflow()
    from mtc.report import predictions
    from mtc.training import loop  # TensorFlow takes seconds to load: not before the configuration is known to be good

    draw = functools.partial(predictions.write, context.run_dir, context.config.name)
    several = {"world": _world, "abandon": step.abandon}
    figures = loop.train(context.config, context.run_dir, context.lock, take_over=context.arguments.take_over, draw=draw, **several)
    last = figures["checkpoint"]
    return step.Result(outputs=[os.path.join(last, name) for name in sorted(os.listdir(last))], figures=figures)


def _follow(context):
    """Train as a rank that is not the first."""
    from mtc.training.ranks import follower

    follower.follow(context.config, _world, step.abandon)
    return step.Result(outputs=[], figures={"rank": _world.rank, "ranks": _world.size})


def _labels(config):
    names = {"coco": "COCO.json", "synthetic3d": "synthetic3d/train.json", "synthetic_hand": "synthetic_hand/train.json"}
    return [os.path.join(config.data.root, names[source]) for source, share in sorted(config.data.mix.items()) if share]


def arguments(parser):
    """Add what only training takes."""
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="replace a trainer of the same run on another machine that is gone: once its lease in the storage has run out",
    )


STEP = step.Step(
    name="train",
    description="Train the network, resuming where the run directory left off.",
    inputs=inputs,
    run=run,
    arguments=arguments,
    lock=step.RUN_LOCK,
)


FOLLOWER = STEP._replace(record=os.environ.get("MTC_RANK_RECORD", ""), inputs=None, run=_follow, follows=True)
"""The same command as one of several ranks, but for the first one. It leaves a record where it is asked to (`tasks.launch --record`)."""

_world = None
"""`mtc.training.ranks.world.World` of this process, where it is one of several ranks."""


def main(argv=None):
    """Return the exit code."""
    global _world
    if not worlds.says_several():
        return step.main(STEP, argv)
    config, code = step.configured(STEP, argv)
    if config is None:
        return code
    quiet.import_tensorflow()
    from mtc import devices
    from mtc.training.ranks import hccl

    with contextlib.ExitStack() as stack:
        try:
            _world = worlds.of_environment(devices.kind_of(config))
            if _world and _world.rank is None:
                _world = hccl.identified(_world, devices.select(config), stack)
        except (UserError, RunFailed) as error:
            sys.stderr.write("error: {}\n".format(error))
            return step.USER_ERROR if isinstance(error, UserError) else step.FAILED
        if _world and _world.rank:
            return step.main(FOLLOWER, argv)
        code = step.main(STEP, argv)
        if _world and not team.Leader.made:  # no training, so nobody has told the others
            team.dismiss(_world, config.distributed, code, "there was nothing to train" if code == step.SUCCESS else "see its messages")
        return code


if __name__ == "__main__":
    found = main()
    step.leave(found) if _world else sys.exit(found)
