"""`COCO.json`: one record for every person that is accepted for training, in the form that OpenPose's training tools write.

Accepted is who has at least five labelled keypoints, an outline of at least 32 x 32 pixels, and a box centre that is not nearer than 0.3 box sizes to
an earlier accepted person of the same image. Fields and order are those of openpose_train; empty and single lists stay lists. `read_records` also
takes what MATLAB's jsonlab makes of them: an empty list as an object, a list of one without its brackets, floats for whole numbers, missing keys.
"""

import contextlib
import json
import math
import os
from typing import NamedTuple, Tuple

import numpy as np

from mtc import files
from mtc.coco.annotations import ImageAnnotations, Person
from mtc.errors import UserError
from mtc.skeleton import COCO_JOINTS

MIN_KEYPOINTS = 5
MIN_AREA = 32 * 32
MIN_DISTANCE = 0.3
"""In longer box sides of the earlier person."""

RULES = ("fewer than 5 keypoints", "area below 32 x 32", "too close to another")
"""Why a labelled person gets no record."""

VISIBLE = 1
"""Flag of a visible joint in `joint_self`; 0: labelled but hidden, 2: not labelled, 4: not in this data set."""

_OPENING, _CLOSING = b'{"root":[\n', b"]}\n"

FILES = {"train": "COCO.json", "val": "COCO_val.json"}


class Accepted(NamedTuple):
    """A person to train on."""

    image: ImageAnnotations
    person: Person
    numbers: Tuple[int, int]
    """Number of the image in the list and of the person in the image, from 1."""


class Record(NamedTuple):
    """What training needs of a record."""

    file_name: str
    """Name of the image without folders and prefixes: 12 digits and extension."""
    bbox: np.ndarray
    """(4,) float64 x, y, width, height in pixels, of the person."""
    joints: np.ndarray
    """(17, 3) float64 x, y, flag in COCO's order."""
    bbox_other: np.ndarray
    """(n, 4) float64 boxes of the other labelled people of the image; n may be 0."""


def select(images):
    """Return the list of `Accepted` people of the `ImageAnnotations`, and how many labelled people each rule rejects."""
    accepted, rejected = [], dict.fromkeys(RULES, 0)
    for rank, image in enumerate(images, 1):
        accepted += select_of(image, rank, rejected)
    return accepted, rejected


def select_of(image, rank, rejected):
    """Return the list of `Accepted` people of the image at this place in the list, from 1; count those that a rule rejects in `rejected`."""
    earlier, accepted = [], []
    for position, person in enumerate(image.people, 1):
        reason = _rejection(person, earlier)
        if reason is None:
            earlier.append(person)
            accepted.append(Accepted(image, person, (rank, position)))
        elif person.num_keypoints:
            rejected[reason] += 1
    return accepted


def line(accepted):
    """Return the record of an `Accepted` person as bytes of JSON."""
    return json.dumps(build(accepted), separators=(",", ":"), allow_nan=False).encode("ascii")


@contextlib.contextmanager
def writing(path):
    """Write `{"root": [...]}`, one record a line, atomically: yields a function that takes the `line`s of records."""
    separator = b""

    def add(one):
        nonlocal separator
        f.write(separator + one)
        separator = b",\n"

    with files.atomic_file(path) as f:
        f.write(_OPENING)
        yield add
        f.write(b"\n" + _CLOSING)


def write(path, accepted):
    """Write the records of `Accepted` people; the same people give the same bytes."""
    with writing(path) as add:
        for one in accepted:
            add(line(one))


def read_records(path):
    """Return the `Record`s of a file that `write`, openpose_train or genJSON.m made.

    Errors: UserError names the file, the record, the field and what to do.
    """
    try:
        with open(path, "rb") as f:
            return [_parse(record, "{}: record {}".format(path, index)) for index, record in enumerate(_stream(f, path))]
    except FileNotFoundError:
        raise UserError("{} does not exist: run python -m tasks.preprocess".format(path)) from None
    except OSError as error:
        raise UserError("{} cannot be read: {}; check data.root and its permissions".format(path, error.strerror or error)) from None
    except ValueError as error:
        raise UserError("{} is not valid JSON ({}): delete it and run python -m tasks.preprocess".format(path, error)) from None


def build(accepted):
    """Return the record of an `Accepted` person: a dict with openpose_train's fields in its order."""
    image, person, (rank, position) = accepted
    others = [other for other in image.people if other is not person and other.num_keypoints > 0]
    return {
        "dataset": "COCO",
        "img_paths": image.file_name,
        "img_width": image.width,
        "img_height": image.height,
        "objpos": _center(person),
        "image_id": image.id,
        "bbox": person.bbox,
        "segment_area": person.area,
        "num_keypoints": person.num_keypoints,
        "joint_self": _joints(person),
        "scale_provided": _scale(person),
        "joint_others": [_joints(other) for other in others],
        "scale_provided_other": [_scale(other) for other in others],
        "objpos_other": [_center(other) for other in others],
        "bbox_other": [other.bbox for other in others],
        "segment_area_other": [other.area for other in others],
        "num_keypoints_other": [other.num_keypoints for other in others],
        "annolist_index": rank,
        "people_index": position,
        "numOtherPeople": len(others),
    }


def _stream(f, path):
    """Yield the parsed records of a file: one at a time where `write` made it, else after reading the whole (gigabytes for all of COCO)."""
    if f.readline() == _OPENING:
        for line in f:
            if line == _CLOSING:
                return
            yield json.loads(line.rstrip(b",\n").decode("utf-8"))
        raise ValueError("its end is missing")
    f.seek(0)
    document = json.loads(f.read().decode("utf-8"))
    root = document.get("root") if isinstance(document, dict) else None
    if isinstance(root, dict):  # jsonlab: a list of one
        root = [root]
    if not isinstance(root, list):
        raise UserError("{}: 'root' is missing or not a list: delete the file and run python -m tasks.preprocess".format(path))
    yield from root


def _rejection(person, earlier_people):
    """Return why a person gets no record, or None."""
    if person.num_keypoints < MIN_KEYPOINTS:
        return RULES[0]
    if person.area < MIN_AREA or not min(person.bbox[2:]) > 0:  # a box without extent holds no area, whatever the file says
        return RULES[1]
    x, y = _center(person)
    for earlier in earlier_people:
        ex, ey = _center(earlier)
        if math.sqrt((x - ex) ** 2 + (y - ey) ** 2) < MIN_DISTANCE * max(earlier.bbox[2:]):
            return RULES[2]
    return None


def _center(person):
    x, y, width, height = person.bbox
    return [x + width / 2, y + height / 2]


def _scale(person):
    return person.bbox[3] / 368


def _joints(person):
    flags = (2, 0, 1, 4)  # not labelled, hidden, visible, not in this data set
    points = person.keypoints
    return [[points[i], points[i + 1], flags[int(points[i + 2])]] for i in range(0, len(points), 3)]


def _parse(record, where):
    if not isinstance(record, dict):
        raise UserError("{}: expected an object, got {:.80}".format(where, repr(record)))
    for key in ("img_paths", "bbox", "joint_self"):
        if key not in record:
            raise UserError("{} has no '{}': delete the file and run python -m tasks.preprocess".format(where, key))
    name = os.path.basename(str(record["img_paths"]).replace("\\", "/"))[-16:]
    if not name[:12].isdigit() or len(name) != 16:
        raise UserError("{}: img_paths={!r}: expected a name that ends in 12 digits and .jpg".format(where, record["img_paths"]))
    joints = _array(record["joint_self"], (len(COCO_JOINTS), 3), where, "joint_self")
    bbox = _array(record["bbox"], (1, 4), where, "bbox")[0]
    if not (bbox[2:] > 0).all():
        raise UserError("{}: bbox={}: width and height must be above 0; correct or remove the record".format(where, record["bbox"]))
    others = record.get("bbox_other")
    if isinstance(others, dict) or not others:  # jsonlab: an empty matrix
        others = []
    return Record(name, bbox, joints, _array(others, (-1, 4), where, "bbox_other"))


def _array(values, shape, where, field):
    """Return a float64 array of `shape`; a list of one may come without its outer brackets."""
    try:
        array = np.array(values, np.float64)
        array = array.reshape(shape)
    except (TypeError, ValueError):
        raise UserError("{}: {}: expected {} numbers, got {:.80}; correct the file".format(where, field, _sizes(shape), repr(values))) from None
    if not np.isfinite(array).all():
        raise UserError("{}: {}: a number is not finite: {:.80}; correct the file".format(where, field, repr(values)))
    return array


def _sizes(shape):
    return " x ".join("n" if size < 0 else str(size) for size in shape)
