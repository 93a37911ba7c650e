"""Masks of the pixels that count in the loss, one PNG of 0 and 255 for every image with a person.

`miss`: everything but unlabelled people and crowds, where a right answer would be called wrong. `all`: the pixels of people and crowds only (what the
Ascend port trains on). All outlines of a person count; a crowd gives way to the people in it; the order of annotations does not matter. Outlines are
rasterised and united by pycocotools as run lengths; only the unions are decoded.
"""

import contextlib
import itertools
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from mtc import files
from mtc.errors import UserError

log = logging.getLogger(__name__)

KINDS = ("miss", "all")
FOLDER = "mask2017"

_NAME = re.compile(r"(train|val)2017_mask_(miss|all)_([0-9]{12})\.png$")
_PNG = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT]
"""One bit a pixel, as the reference's masks: read as 0 and 255 like eight, in a third of the time."""
_AT_ONCE = 512
"""Images handed to the threads at a time: a signal waits for no more than these."""


def file_name(split, kind, image_id):
    """Name of a mask in `FOLDER`: train2017_mask_miss_000000000785.png."""
    return "{}2017_mask_{}_{:012d}.png".format(split, kind, image_id)


def found(root):
    """Return {(split, kind): set of image ids} of the masks that are there, by their names alone."""
    ids = {(split, kind): set() for split in ("train", "val") for kind in KINDS}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(os.path.join(root, FOLDER)):
            match = _NAME.match(name)
            if match:
                ids[match.group(1), match.group(2)].add(int(match.group(3)))
    return ids


def rasterise(image):
    """Return {kind: (height, width) uint8 of 0 and 255} of an `ImageAnnotations`."""
    people = _union(image, (p for p in image.people if not p.crowd))
    unlabelled = _union(image, (p for p in image.people if not p.crowd and p.num_keypoints == 0))
    crowd = _union(image, (p for p in image.people if p.crowd))
    usable = ~(unlabelled | (crowd & ~people))
    return {"miss": usable * np.uint8(255), "all": (people | crowd) * np.uint8(255)}


def write(root, split, images, workers=0):
    """Write both masks of all images; return how many files were written and how many kept because they already hold the right pixels.

    workers: threads, 0 for one a core; the files are the same for any number. Errors: UserError where the folder cannot be written.
    """
    folder = os.path.join(root, FOLDER)
    counts = {"written": 0, "kept": 0}
    remaining = iter(images)
    try:
        os.makedirs(folder, exist_ok=True)
        bar = tqdm(total=len(images), desc=split + " masks", unit="image", disable=None)
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool, bar:
            for some in iter(lambda: list(itertools.islice(remaining, _AT_ONCE)), []):
                for verbs in pool.map(lambda image: _write_image(folder, split, image), some):
                    for verb in verbs:
                        counts[verb] += 1
                    bar.update()
        # Flushed once for all: a flush a file would cost more than the masks. The step's record is written after this, so it never speaks of
        # masks that a power failure can still take.
        os.sync()
    except OSError as error:
        raise UserError(
            "masks cannot be written to {}: {}; free space or permissions are needed, or another data.root".format(folder, error.strerror or error)
        ) from None
    return counts


def _union(image, people):
    """Return the (height, width) bool union of the people's outlines."""
    outlines = []
    for person in people:
        if person.polygons:
            outlines += coco_mask.frPyObjects(list(person.polygons), image.height, image.width)
        if person.rle is not None:
            outlines.append(coco_mask.frPyObjects({"counts": person.rle, "size": [image.height, image.width]}, image.height, image.width))
    if not outlines:
        return np.zeros((image.height, image.width), bool, order="F")  # as pycocotools decodes
    return coco_mask.decode(coco_mask.merge(outlines)).view(bool)


def _write_image(folder, split, image):
    """Return "written" or "kept" for each mask. A file that is truncated, of another size or of other annotations is replaced."""
    verbs = []
    for kind, mask in rasterise(image).items():
        path = os.path.join(folder, file_name(split, kind, image.id))
        if _holds(path, mask):
            verbs.append("kept")
            continue
        ok, png = cv2.imencode(".png", mask, _PNG)
        assert ok, path
        files.write_bytes(path, png.tobytes(), durable=False)
        verbs.append("written")
    return verbs


def _holds(path, mask):
    try:
        with open(path, "rb") as f:
            data = f.read()
    except FileNotFoundError:
        return False
    # A decoder fills in what is missing from a truncated file; the end mark tells.
    if b"IEND" not in data[-12:]:
        return False
    there = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return there is not None and np.array_equal(there, mask)
