"""An evaluation kept in the run directory, so that what evaluates and what reports need not be the same process.

`evaluation.json` has the figures and what they are of; `evaluation.npz` the pictures. They are taken for what they say they are of, and nothing else:
after another checkpoint, other data or another configuration they are as good as absent.
"""

import os

import numpy as np

from mtc import files
from mtc.evaluation.held_out import Evaluation, Picture

FIGURES, PICTURES = "evaluation.json", "evaluation.npz"
_ARRAYS = ("image", "truth", "predicted", "valid")


def save(run_dir, evaluation, of):
    """Write an `Evaluation`; of: JSON-able description of all that it follows from. Returns the paths. Errors: OSError."""
    path = os.path.join(run_dir, PICTURES)
    with files.atomic_file(path) as f:
        named = {"{}_{}".format(i, name): getattr(p, name) for i, p in enumerate(evaluation.pictures) for name in _ARRAYS}
        np.savez_compressed(f, **named)
    pictures = [{"name": picture.name, "hits": picture.hits} for picture in evaluation.pictures]
    document = {"v": 1, "of": of, "figures": evaluation.figures, "pictures": pictures, "pictures_sha256": files.sha256(path)}
    files.write_json(os.path.join(run_dir, FIGURES), document)
    return [os.path.join(run_dir, FIGURES), path]


def load(run_dir, of):
    """Return the `Evaluation` that was saved of exactly this, or None."""
    try:
        found = files.read_json(os.path.join(run_dir, FIGURES))
        path = os.path.join(run_dir, PICTURES)
        if not found or found["of"] != of or files.sha256(path) != found["pictures_sha256"]:
            return None
        with np.load(path, allow_pickle=False) as arrays:
            pictures = [
                Picture(name=p["name"], hits=p["hits"], **{name: arrays["{}_{}".format(i, name)] for name in _ARRAYS})
                for i, p in enumerate(found["pictures"])
            ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Evaluation(found["figures"], pictures)
