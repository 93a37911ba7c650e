"""`python -m tasks.train`: trains, or goes on from the newest good checkpoint of the run directory.

Needs preprocessed data (`python -m tasks.fetch coco`, `python -m tasks.preprocess`). Exits 3 when SIGTERM or SIGINT ended it after a
checkpoint was saved: the same command goes on.
"""

import functools
import os
import sys

from mtc import config as configuration
from mtc import quiet
from mtc.fetch import pretrained
from mtc.training import checkpoints
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
    figures = loop.train(context.config, context.run_dir, context.lock, take_over=context.arguments.take_over, draw=draw)
    last = figures["checkpoint"]
    return step.Result(outputs=[os.path.join(last, name) for name in sorted(os.listdir(last))], figures=figures)


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


def main(argv=None):
    """Return the exit code."""
    return step.main(STEP, argv)


if __name__ == "__main__":
    sys.exit(main())
