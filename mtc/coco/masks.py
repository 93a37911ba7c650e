"""Masks of the pixels that count in the loss, for every image with a person: as run lengths in one file of a split, or as PNGs of 0 and 255.

`miss`: everything but unlabelled people and crowds, where a right answer would be called wrong. `all`: the pixels of people and crowds only (what the
Ascend port trains on). All outlines of a person count; a crowd gives way to the people in it; the order of annotations does not matter. Outlines are
rasterised and united by pycocotools as run lengths; only the unions are decoded.

A file of run lengths has a line of JSON for each image, in ascending id, between a line that says what it is and one with their number and CRC-32.
"""

import contextlib
import json
import os
import re
import zlib
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mtc import files
from mtc.errors import UserError

KINDS = ("miss", "all")
FOLDER = "mask2017"

_NAME = re.compile(r"(train|val)2017_mask_(miss|all)_([0-9]{12})\.png$")
_PNG = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT]
"""One bit a pixel, as the reference's masks: read as 0 and 255 like eight, in a third of the time."""
_REGIONS = {"miss": ("ignored", True), "all": ("all", False)}
"""{kind: (its key in `regions`, whether the pixels outside of the region are those that count)}."""


class Region(NamedTuple):
    """A mask that is kept as run lengths."""

    path: str
    """Of the file that it is in."""
    image_id: int
    height: int
    width: int
    counts: bytes
    """pycocotools' compressed form; b"": nothing."""
    outside: bool
    """Whether the pixels outside of the region are those that count."""

    def __str__(self):
        return "of image {} in {}".format(self.image_id, self.path)

    def pixels(self):
        """Return the (height, width) uint8 of 0 and 255. Errors: ValueError where the run lengths cannot be read."""
        return _pixels(self.height, self.width, self.counts, self.outside)


def store_path(root, split):
    """Path of a split's run lengths."""
    return os.path.join(root, FOLDER, split + "2017.rle")


def line(image):
    """Return the line of an `ImageAnnotations` in the file of run lengths, as bytes."""
    found = {key: counts.decode("ascii") for key, counts in regions(image).items()}
    return json.dumps(dict(found, id=image.id, size=[image.height, image.width]), sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


@contextlib.contextmanager
def writing(path, split):
    """Write a file of run lengths atomically: yields a function that takes the `line`s of images in ascending id."""
    count = crc = 0

    def add(one):
        nonlocal count, crc
        count += 1
        crc = zlib.crc32(one, crc)
        f.write(one)

    with files.atomic_file(path) as f:
        f.write(_header(split))
        yield add
        f.write(b'{"images":%d,"crc32":%d}\n' % (count, crc))


def read_store(root, split, kind):
    """Return {image id: `Region`} of a split's run lengths, or None where there is no such file. Errors: UserError where it is damaged."""
    path, found = store_path(root, split), {}
    key, outside = _REGIONS[kind]
    try:
        with open(path, "rb") as f:
            if f.readline() != _header(split):
                raise ValueError("it is no file of masks")
            crc = 0
            for text in f:
                entry = json.loads(text.decode("ascii"))
                if "images" in entry:
                    if entry["images"] != len(found) or entry["crc32"] != crc:
                        raise ValueError("its checksum is wrong")
                    return found
                crc = zlib.crc32(text, crc)
                height, width = entry["size"]
                found[entry["id"]] = Region(path, entry["id"], height, width, entry[key].encode("ascii"), outside)
            raise ValueError("its end is missing")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError("{} cannot be read: {}; check data.root and its permissions".format(path, error.strerror or error)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("{} is damaged ({}): delete it and run python -m tasks.preprocess".format(path, error)) from None


def _header(split):
    return b'{"masks":"%s2017","v":1}\n' % split.encode("ascii")


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


def regions(image):
    """Return {"all": people and crowds, "ignored": what does not count} of an `ImageAnnotations`.

    They are run lengths in pycocotools' compressed form, b"" where there is nothing.
    """
    people = _outlines(image, (p for p in image.people if not p.crowd))
    unlabelled = _outlines(image, (p for p in image.people if not p.crowd and p.num_keypoints == 0))
    crowd = _outlines(image, (p for p in image.people if p.crowd))
    ignored = unlabelled
    if crowd and people:  # a crowd gives way to the people in it
        alone = coco_mask.decode(coco_mask.merge(crowd)) > coco_mask.decode(coco_mask.merge(people))
        ignored = unlabelled + [coco_mask.encode(np.asfortranarray(alone.view(np.uint8)))]
    elif crowd:
        ignored = unlabelled + crowd
    return {"all": _merged(people + crowd), "ignored": _merged(ignored)}


def rasterise(image):
    """Return {kind: (height, width) uint8 of 0 and 255} of an `ImageAnnotations`."""
    found = regions(image)
    return {kind: _pixels(image.height, image.width, found[key], outside) for kind, (key, outside) in _REGIONS.items()}


def write_image(folder, split, image):
    """Write both masks of an image as PNG files; return "written" or "kept" for each.

    A file that is truncated, of another size or of other annotations is replaced. It is not flushed to the disk: the caller does that once for all.
    """
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


def _pixels(height, width, counts, outside):
    """Return the (height, width) uint8 of a region: 255 inside and 0 outside, or the other way round; row by row in memory."""
    if not counts:
        return np.full((height, width), 255 if outside else 0, np.uint8)
    columns = coco_mask.decode({"size": [height, width], "counts": counts}).T
    return cv2.transpose(cv2.compare(columns, 0, cv2.CMP_EQ if outside else cv2.CMP_NE))


def _outlines(image, people):
    """Return the run lengths of people's outlines, each in pycocotools' compressed form."""
    outlines = []
    for person in people:
        if person.polygons:
            outlines += coco_mask.frPyObjects(list(person.polygons), image.height, image.width)
        if person.rle is not None:
            outlines.append(coco_mask.frPyObjects({"counts": person.rle, "size": [image.height, image.width]}, image.height, image.width))
    return outlines


def _merged(outlines):
    """Return the run lengths of a union; b"" where nothing is in it."""
    if not outlines:
        return b""
    merged = coco_mask.merge(outlines)
    return merged["counts"] if coco_mask.area(merged) else b""


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
