"""Reads samples with 3D labels: `<root>/<name>/{train,val}.json` with images beside it, as `mtc.data.synthetic` writes them.

A sample has joints in world axes and a camera (K, R, t, distortion k1 k2 p1 p2 k3); it is yielded in the camera's frame, all joints valid,
as the reference does with its 3D data.
"""

import os

import numpy as np

from mtc import files
from mtc.data.sample import Camera, Sample
from mtc.errors import UserError
from mtc.geometry import project


def read(root, name, split, distortion="exact"):
    """Return the `Sample`s of a source ("synthetic3d", "synthetic_hand") and split ("train", "val").

    Errors: UserError where the file is missing, broken, or lacks a field.
    """
    path = os.path.join(root, name, split + ".json")
    try:
        document = files.read_json(path)
    except (OSError, ValueError) as error:
        raise UserError("{} cannot be read: {}; fetch the data again".format(path, error)) from None
    if document is None:
        raise UserError(
            "{} does not exist: fetch data that has 3D samples (python -m tasks.fetch coco), or take {} out of data.mix".format(path, name)
        )
    try:
        return [_sample(root, name, entry, distortion) for entry in document["samples"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("{}: a sample has no usable {}; fetch the data again".format(path, error)) from None


def _sample(root, name, entry, distortion):
    world = np.array(entry["joints"], np.float64)
    camera = Camera(**{key: np.array(entry["camera"][key], np.float64) for key in Camera._fields})
    return Sample(
        name="{}/{}".format(name, entry["image"]),
        image=os.path.join(root, name, entry["image"]),
        mask=None,
        uv=project(world, camera, distortion).astype(np.float32),
        valid=np.ones(len(world), bool),
        others=np.zeros((0, 4), np.int32),
        box=np.array(entry["box"], np.float32),
        xyz=(world @ camera.R.T + camera.t).astype(np.float32),
        camera=camera._replace(R=np.eye(3), t=np.zeros(3)),
        mirror=bool(entry["right"]),
    )
