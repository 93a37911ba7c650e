"""`python -m tasks.train`: trains, or goes on from the newest good checkpoint of the run directory.

Needs preprocessed data (`python -m tasks.fetch coco`, `python -m tasks.preprocess`). Exits 3 when SIGTERM or SIGINT ended it after a
checkpoint was saved: the same command goes on.
"""

import os
import sys

from mtc import config as configuration
from mtc import files
from mtc.errors import UserError
from mtc.fetch import pretrained
from tasks import step


def inputs(context):
    """The configuration that decides the result, the labels, the snapshot."""
    config = configuration.to_dict(context.config)
    config["train"] = {key: value for key, value in config["train"].items() if key not in ("log_every", "device", "threads")}
    used = {key: config[key] for key in ("model", "targets", "compat", "train", "storage")}
    used["data"] = configuration.identity(context.config)["data"]
    used["snapshot"] = pretrained.locate(context.config.snapshot)
    return {"config": used, "labels": {path: files.sha256(path) for path in _labels(context.config)}}


def run(context):
    """Train to the last step."""
    from mtc.training import loop  # TensorFlow takes seconds to load: not before the configuration is known to be good

    figures = loop.train(context.config, context.run_dir)
    last = figures["checkpoint"]
    return step.Result(outputs=[os.path.join(last, name) for name in sorted(os.listdir(last))], figures=figures)


def _labels(config):
    names = {"coco": "COCO.json", "synthetic3d": "synthetic3d/train.json", "synthetic_hand": "synthetic_hand/train.json"}
    paths = [os.path.join(config.data.root, names[source]) for source, share in sorted(config.data.mix.items()) if share]
    for path in paths:
        if not os.path.isfile(path):
            raise UserError(
                "{} does not exist: run python -m tasks.fetch coco and python -m tasks.preprocess with this configuration first".format(path)
            )
    return paths


STEP = step.Step(name="train", description="Train the network, resuming where the run directory left off.", inputs=inputs, run=run)


def main(argv=None):
    """Return the exit code."""
    return step.main(STEP, argv)


if __name__ == "__main__":
    sys.exit(main())
