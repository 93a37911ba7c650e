"""The images that pipelines and steps are measured on: a data set of the user's, or a synthetic one of 640-pixel JPEGs.

Synthetic images have noisy backgrounds, so that their JPEGs are about as large as COCO's (110 to 160 KB; the mean of train2017 is 160 KB) and take
about as long to decode.
"""

import os
import subprocess

from benchmarks.child import ROOT
from mtc.errors import UserError

IMAGES = 100
_SETTINGS = (
    "synthetic.width=640",
    "synthetic.train_images={}".format(IMAGES),
    "synthetic.val_images=1",
    "synthetic.samples_3d=0",
    "data.mix={coco: 1}",
)


def prepare(folder, data, python):
    """Return (data root, description), with all its images and masks in the file cache.

    folder: where a synthetic data set is made, once; data: a preprocessed data root (data.root), or None for the synthetic one.
    Errors: UserError where `data` is none, or the synthetic one cannot be made.
    """
    root = os.path.abspath(data or os.path.join(folder, "synthetic-640"))
    if data is None:
        for step in (["fetch", "coco"], ["preprocess"]):
            settings = [word for setting in _SETTINGS + ("data.root={}".format(root),) for word in ("--set", setting)]
            command = [python, "-m", "tasks." + step[0]] + step[1:] + ["--config", "demo", "--run-dir", os.path.join(folder, "synthetic-640-run")]
            done = subprocess.run(command + settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, check=False)
            if done.returncode:
                raise UserError("the synthetic data set cannot be made in {}: {}".format(root, done.stdout.decode("utf-8", "replace").strip()))
    if not os.path.isfile(os.path.join(root, "COCO.json")):
        raise UserError("{} holds no COCO.json: name a data root that python -m tasks.preprocess has prepared".format(root))
    images = _read_all(os.path.join(root, "train2017"))
    _read_all(os.path.join(root, "mask2017"))
    return root, {"root": data or "synthetic, 640 px", "images": len(images), "mean_kilobytes": round(sum(images) / 1e3 / max(1, len(images)), 1)}


def _read_all(folder):
    """Read every file of a folder, at most 5000. Returns their sizes in bytes."""
    sizes = []
    for name in sorted(os.listdir(folder))[:5000]:
        with open(os.path.join(folder, name), "rb") as f:
            sizes.append(len(f.read()))
    return sizes
