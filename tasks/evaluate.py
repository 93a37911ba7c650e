"""`python -m tasks.evaluate`: judges a checkpoint on held-out samples: PCK, AUC, EPE, angles of the part orientation fields.

Takes the newest good checkpoint of the run directory, or `--checkpoint`: a directory step-…, here or in a storage (file://, s3://), which is brought
to the run directory first. Leaves evaluation.json and evaluation.npz, which `tasks.report` uses where they are of the checkpoint that it reports.
"""

import hashlib
import os
import sys

from mtc import config as configuration
from mtc import files, quiet, storage
from mtc.errors import UserError
from mtc.training import checkpoints, remote
from tasks import step


def inputs(context):
    """Return what the result depends on. Errors: UserError where there is no such checkpoint."""
    return subject(context, _checkpoint(context))


def subject(context, checkpoint):
    """Return what an evaluation of a checkpoint's directory (or None) follows from."""
    config = configuration.to_dict(context.config)
    preprocessed = step.read_record(context.run_dir, "preprocess") or step.read_shared(context, "preprocess") or {}
    return {
        "checkpoint": files.sha256(os.path.join(checkpoint, checkpoints.MANIFEST)) if checkpoint else None,
        "config": {key: config[key] for key in ("model", "targets", "compat", "report")},
        "ema": config["train"]["ema"],
        "data": {"root": os.path.abspath(config["data"]["root"]), "mix": config["data"]["mix"]},
        "labels": sorted(output["sha256"] for output in preprocessed.get("outputs", [])),
    }


def run(context):
    """Evaluate, keep and print the figures."""
    quiet.import_tensorflow()
    from mtc.evaluation import held_out, stored  # TensorFlow takes seconds to load: not before it is known that there is something to do

    checkpoint = _checkpoint(context)
    evaluation = held_out.evaluate(context.config, checkpoints.bundle_prefix(checkpoint))
    paths = stored.save(context.run_dir, evaluation, subject(context, checkpoint))
    found, number = evaluation.figures, checkpoints.step_of(checkpoint)
    print("step          {:,}, {} held-out samples".format(number, found["samples"]["held_out"]))
    print("PCK           {}".format(_by_network(found.get("pck") or {})))
    print("AUC           {}".format(_by_network(found.get("auc") or {})))
    print("EPE, pixels   {}".format(_by_network({name: value and value["mean"] for name, value in (found.get("epe") or {}).items()})))
    figures = {"step": number, "checkpoint": os.path.abspath(checkpoint), "samples": found["samples"]["held_out"]}
    figures.update({key: (found.get(key) or {}).get("trained") for key in ("pck", "auc", "epe")})
    return step.Result(paths, figures)


def arguments(parser):
    """Add what only evaluation takes."""
    text = "the checkpoint to evaluate: a directory step-… or its address in a storage; default: the newest good one of the run directory"
    parser.add_argument("--checkpoint", default="", metavar="DIR_OR_URI", help=text)


def _checkpoint(context):
    """Return the directory of the checkpoint that is asked for, brought here where it is elsewhere."""
    wanted = context.arguments.checkpoint
    if not wanted:
        found = checkpoints.newest_good(context.run_dir)
        if found is None:
            raise UserError("{} has no good checkpoint: run python -m tasks.train first, or name one with --checkpoint".format(context.run_dir))
        return found
    place, _, name = wanted.rstrip("/").rpartition("/")
    if not name.startswith("step-") or not name[5:].isdigit():
        raise UserError("--checkpoint {}: expected a directory step-…".format(wanted))
    if os.path.isdir(wanted):
        why = checkpoints.problem(wanted)
        if why:
            raise UserError("--checkpoint {} is no good checkpoint: {}".format(wanted, why))
        return wanted.rstrip("/")
    if not place.endswith("/checkpoints"):
        raise UserError("--checkpoint {}: there is no such directory; expected …/<run>/checkpoints/step-…".format(wanted))
    root, _, prefix = place[: -len("/checkpoints")].rpartition("/")
    if not root or not prefix:
        raise UserError("--checkpoint {}: expected …/<run>/checkpoints/step-…".format(wanted))
    store = storage.open_storage(root, context.config.storage.endpoint, context.config.storage.region)
    manifest = store.read("{}/checkpoints/{}/{}".format(prefix, name, checkpoints.MANIFEST))
    # In a folder of its own: the run directory, or an earlier training of that name, may have another checkpoint of this name.
    folder = os.path.join(context.run_dir, "fetched", hashlib.sha256(manifest or b"").hexdigest()[:12])
    brought = remote.fetch(store, prefix, name, folder) if manifest is not None else None
    if brought is None:
        raise UserError("--checkpoint {}: it is not there, or damaged".format(wanted))
    return brought


def _by_network(values):
    known = [(name.replace("_", " "), value) for name, value in sorted(values.items(), key=lambda pair: pair[0] != "trained") if value is not None]
    return ", ".join("{} {}".format(name, _shown(value)) for name, value in known)


def _shown(value):
    if isinstance(value, dict):
        return " ".join("{:.3f} (@{})".format(score, threshold) for threshold, score in sorted(value.items()))
    return "{:.3f}".format(value)


STEP = step.Step(
    name="evaluate",
    description="Judge a checkpoint on held-out samples.",
    inputs=inputs,
    run=run,
    arguments=arguments,
)


def main(argv=None):
    """Return the exit code."""
    return step.main(STEP, argv)


if __name__ == "__main__":
    sys.exit(main())
