"""COCO people as `Sample`s, from the `COCO.json` and the masks that preprocessing makes (or that OpenPose's training tools made).

A person is used where at least four joints are visible; joints that are labelled but hidden do not count. Neck and chest are means of shoulders and
hips; nobody has a head-top. The boxes of all other labelled people are left out of the loss, because only this person's joints are drawn as targets.
"""

import logging
import os
from collections import Counter

import numpy as np

from mtc.coco import masks, records
from mtc.data.sample import Sample
from mtc.errors import UserError
from mtc.skeleton import COCO_JOINTS, COCO_TO_BODY

log = logging.getLogger(__name__)

MIN_VISIBLE = 4

_SHOULDERS = [COCO_JOINTS.index("left_shoulder"), COCO_JOINTS.index("right_shoulder")]
_HIPS = [COCO_JOINTS.index("left_hip"), COCO_JOINTS.index("right_hip")]


def read(root, split, mask_kind):
    """Return the list of `Sample`s of a split, in the order of its records.

    split: "train" (COCO.json, images of train2017) or "val" (COCO_val.json, val2017). mask_kind: "miss" or "all".
    Errors: UserError where there is no COCO.json, no image folder, or nobody to train on.
    """
    path = os.path.join(root, records.FILES[split])
    people = records.read_records(path)
    images = os.path.join(root, split + "2017")
    there = _names(images)
    if there is None:
        raise UserError("image folder {} does not exist or cannot be read: run python -m tasks.fetch coco or set data.root".format(images))
    find_mask = _mask_finder(root, split, mask_kind)
    samples, numbers, lost, without_mask = [], Counter(), [], 0
    uv, valid = to_body(np.array([person.joints for person in people]).reshape(-1, len(COCO_JOINTS), 3))
    visible = np.array([np.sum(person.joints[:, 2] == records.VISIBLE) for person in people])
    for index, person in enumerate(people):
        number = numbers[person.file_name]
        numbers[person.file_name] += 1
        if visible[index] < MIN_VISIBLE:
            continue
        if person.file_name not in there:
            lost.append(person.file_name)
            continue
        mask = find_mask(person.file_name)
        without_mask += mask is None
        samples.append(
            Sample(
                name="{}#{}".format(person.file_name, number),
                image=os.path.join(images, person.file_name),
                mask=mask,
                uv=uv[index],
                valid=valid[index],
                others=corners(person.bbox_other),
                box=person.bbox.astype(np.float32),
            )
        )
    if lost:
        log.warning("%s: %d people are left out: their images are not in %s (the first: %s)", path, len(lost), images, lost[0])
    if not samples:
        raise UserError(
            "{}: none of its {} people has {} visible joints and an image in {}: nothing to use; is it the right data set?".format(
                path, len(people), MIN_VISIBLE, images
            )
        )
    if without_mask:
        log.warning(
            "%d of %d people have no '%s' mask under %s: all pixels of their images count; run python -m tasks.preprocess",
            without_mask, len(samples), mask_kind, root,
        )  # fmt: skip
    return samples


def to_body(joints):
    """Return (uv (n, 20, 2) float32 pixels, valid (n, 20) bool) in the body's joint order for (n, 17, 3) x, y, flag in COCO's.

    Coordinates are truncated to whole pixels.
    """
    points = np.trunc(joints[:, :, :2])
    visible = joints[:, :, 2] == records.VISIBLE
    torso = _SHOULDERS + _HIPS
    neck, chest = points[:, _SHOULDERS].mean(axis=1), points[:, torso].mean(axis=1)
    points = np.concatenate([points, np.stack([neck, np.zeros_like(neck), chest], axis=1)], axis=1)
    has_neck, has_chest = visible[:, _SHOULDERS].all(axis=1), visible[:, torso].all(axis=1)
    visible = np.concatenate([visible, np.stack([has_neck, np.zeros_like(has_neck), has_chest], axis=1)], axis=1)
    order = list(COCO_TO_BODY)
    return points[:, order].astype(np.float32), visible[:, order]


def corners(boxes):
    """Return (n, 4) int32 x1, y1, x2, y2 of (n, 4) x, y, width, height, truncated towards 0."""
    boxes = boxes.astype(np.float32)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.int32)


def _mask_finder(root, split, kind):
    """Return a function of an image's file name that gives its mask, or None: run lengths, the reference's names, openpose_train's."""
    stored = masks.read_store(root, split, kind)
    if stored is not None:
        return lambda file_name: stored.get(int(file_name[:12]))
    folder = os.path.join(root, masks.FOLDER)
    older = os.path.join(root, {"miss": masks.FOLDER, "all": "segmentation2017"}[kind], split + "2017")
    here, there = _names(folder) or set(), _names(older) or set()

    def find(file_name):
        stem = file_name[:12]
        name = masks.file_name(split, kind, int(stem))
        if name in here:
            return os.path.join(folder, name)
        return os.path.join(older, stem + ".png") if stem + ".png" in there else None

    return find


def _names(folder):
    """Return the set of names in a folder, or None where it cannot be listed: one listing instead of 100,000 look-ups."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return None
