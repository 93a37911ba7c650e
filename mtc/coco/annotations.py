"""Reads `person_keypoints_*.json` of COCO, checks every field that is used, and groups the people by image.

Images come in ascending id, the people of an image in file order: the distance rule of `records` depends on it. What breaks the file (a key that is
missing, a wrong length) is refused with its place; what breaks one outline or one person only is left out of the masks or taken as unlabelled,
and reported as a finding. Format: cocodataset.org, "Keypoint Detection" and "Object Detection" of the data format page.

COCO has 260,000 people: the parsed document is given up piece by piece, and outlines are kept as arrays, so that memory stays near the document's.
"""

import json
import os
import re
from collections import defaultdict
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from mtc.errors import UserError
from mtc.skeleton import COCO_JOINTS

PERSON = 1
"""COCO's category id of people."""

FAR = 10
"""A polygon with a vertex more than so many image sizes away is no outline; drawing it would take memory without bound."""


HUGE = 1e12
"""A number this large, infinite or not a number is not a measurement."""


class Person(NamedTuple):
    """One annotation. A crowd is one annotation of many people that have no keypoints."""

    id: int
    bbox: List[float]
    """x, y, width, height in pixels."""
    area: float
    """Pixels of the outline."""
    keypoints: List[float]
    """17 times x, y, v in COCO's order; v: 0 not labelled, 1 labelled but hidden, 2 visible, 3 not in this data set."""
    num_keypoints: int
    """0: unlabelled."""
    crowd: bool
    polygons: Tuple[np.ndarray, ...]
    """Outlines x, y, x, y, … in float64, each of at least three points; their union is the person."""
    rle: Optional[List[int]]
    """Or run lengths of the image's pixels column by column, zeros first; they add up to width * height."""


class ImageAnnotations(NamedTuple):
    """An image and its people, at least one."""

    id: int
    file_name: str
    """12 digits of the id and the extension: "000000000785.jpg"."""
    width: int
    height: int
    people: Tuple[Person, ...]


class Annotations(NamedTuple):
    """What a file holds, and what in it could not be used."""

    images: List[ImageAnnotations]
    findings: Dict[str, dict]
    """Reason -> {"count": number of cases, "first": descriptions of the first three}."""


def read(path):
    """Return the `Annotations` of a person_keypoints JSON file.

    Errors: UserError names the file, the annotation or image, the field and what to do; also where no image has a person.
    """
    document = _load(path)
    sizes = _images(document, path)
    findings, people = {}, defaultdict(list)
    remaining = document.pop("annotations")[::-1]
    for index in range(len(remaining)):
        annotation = remaining.pop()
        where = "{}: annotation {}".format(path, annotation.get("id", "number {}".format(index)) if isinstance(annotation, dict) else index)
        _require_keys(annotation, where)
        image = sizes.get(_hashable(annotation["image_id"]))
        if image is None:
            raise UserError("{}: image_id {} is not among the file's images: fetch the annotations again".format(where, annotation["image_id"]))
        if annotation.get("category_id", PERSON) != PERSON:
            _note(findings, "not a person", "annotation {} of category {}".format(annotation["id"], annotation["category_id"]))
            continue
        people[image.id].append(_person(annotation, image, where, findings))
    if not people:
        raise UserError("{}: no image has a person annotation: nothing to train on; is it the right file?".format(path))
    return Annotations([sizes[i]._replace(people=tuple(people[i])) for i in sorted(people)], findings)


def _load(path):
    try:
        with open(path, encoding="utf-8") as f:
            document = json.load(f)
    except FileNotFoundError:
        raise UserError("{} does not exist: fetch COCO 2017 (python -m tasks.fetch coco) or set data.root to its folder".format(path)) from None
    except OSError as error:
        raise UserError("{} cannot be read: {}; check data.root and its permissions".format(path, error.strerror or error)) from None
    except ValueError as error:
        raise UserError("{} is not valid JSON ({}): it is truncated or damaged, fetch it again".format(path, error)) from None
    for key in ("images", "annotations"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise UserError("{}: '{}' is missing or not a list: expected COCO's person_keypoints_*.json".format(path, key))
    return document


def _images(document, path):
    sizes = {}
    for index, image in enumerate(document["images"]):
        where = "{}: image {}".format(path, image.get("id", "number {}".format(index)) if isinstance(image, dict) else index)
        if not isinstance(image, dict):
            raise UserError("{}: expected an object with id, file_name, width and height".format(where))
        for key in ("id", "width", "height"):
            if not _is_integer(image.get(key)) or image[key] < (0 if key == "id" else 1):
                raise UserError("{}: {}={!r}: expected a whole number above 0; fetch the annotations again".format(where, key, image.get(key)))
        name = os.path.basename(str(image.get("file_name")))[-16:]
        if not re.match(r"[0-9]{12}\.[A-Za-z]{3}$", name) or int(name[:12]) != image["id"]:
            raise UserError(
                "{}: file_name={!r}: expected the id in 12 digits and an extension, as in {:012d}.jpg; rename the image".format(
                    where, image.get("file_name"), int(image["id"])
                )
            )
        if image["id"] in sizes:
            raise UserError("{}: the id is used twice; give every image its own".format(where))
        sizes[image["id"]] = ImageAnnotations(int(image["id"]), name, int(image["width"]), int(image["height"]), ())
    return sizes


def _require_keys(annotation, where):
    if not isinstance(annotation, dict):
        raise UserError("{}: expected an object, got {!r}".format(where, annotation))
    for key in ("keypoints", "num_keypoints"):
        if key not in annotation:
            raise UserError("{} has no '{}': use person_keypoints_*.json, not instances_*.json".format(where, key))
    for key in ("id", "image_id", "bbox", "area", "iscrowd", "segmentation"):
        if key not in annotation:
            raise UserError("{} has no '{}': fetch the annotations again".format(where, key))


def _person(annotation, image, where, findings):
    numbers = _numbers(annotation["keypoints"], 3 * len(COCO_JOINTS), where, "keypoints")
    bbox = _numbers(annotation["bbox"], 4, where, "bbox")
    area = _numbers([annotation["area"]], 1, where, "area")[0]
    if bbox[2] < 0 or bbox[3] < 0 or area < 0:
        raise UserError("{}: bbox={} area={}: width, height and area must not be below 0; correct the file".format(where, bbox, area))
    labelled = annotation["num_keypoints"]
    if not _is_integer(labelled) or not 0 <= labelled <= len(COCO_JOINTS):
        raise UserError("{}: num_keypoints={!r}: expected a whole number from 0 to {}; correct the file".format(where, labelled, len(COCO_JOINTS)))
    if annotation["iscrowd"] not in (0, 1):
        raise UserError("{}: iscrowd={!r}: expected 0 or 1; correct the file".format(where, annotation["iscrowd"]))
    if not all(abs(n) < HUGE for n in numbers + bbox + [area]):
        # Without trustworthy labels the person is an unlabelled one: no record, and its pixels do not count in the loss.
        _note(findings, "person with a number that is not finite, taken as unlabelled", "annotation {}".format(annotation["id"]))
        numbers, labelled = [0] * len(numbers), 0
    flags = numbers[2::3]
    if not set(flags) <= {0, 1, 2, 3}:
        raise UserError("{}: keypoints: visibilities {} must be 0, 1 or 2; correct the file".format(where, flags))
    polygons, rle = _outline(annotation, image, where, findings)
    return Person(annotation["id"], bbox, area, numbers, int(labelled), bool(annotation["iscrowd"]), polygons, rle)


def _outline(annotation, image, where, findings):
    """Return (polygons, run lengths) with all that pycocotools would refuse, misread or crash on left out and noted."""
    outline, polygons, rle = annotation["segmentation"], [], None
    if isinstance(outline, dict):
        rle = _run_lengths(outline, where)
        if list(outline["size"]) != [image.height, image.width] or min(rle, default=0) < 0 or sum(rle) != image.width * image.height:
            _note(findings, "run lengths that do not fit the image", "annotation {}".format(annotation["id"]))
            rle = None
    elif isinstance(outline, list):
        limit = FAR * max(image.width, image.height)
        for polygon in outline:
            numbers = _numbers(polygon, None, where, "segmentation")
            if len(numbers) < 6 or len(numbers) % 2:
                example = "annotation {}: {:.60}".format(annotation["id"], repr(numbers))
                _note(findings, "polygon with less than three points or half a point", example)
            elif not all(abs(n) <= limit for n in numbers):
                _note(findings, "polygon with a point that is not finite or far outside the image", "annotation {}".format(annotation["id"]))
            else:
                polygons.append(np.array(numbers, np.float64))
    else:
        raise UserError("{}: segmentation: expected polygons or run lengths, got {!r}; correct the file".format(where, outline))
    if rle is None and not polygons:
        _note(findings, "person without an outline, not in the masks", "annotation {}".format(annotation["id"]))
    return tuple(polygons), rle


def _run_lengths(outline, where):
    counts, size = outline.get("counts"), outline.get("size")
    if isinstance(size, list) and isinstance(counts, str):
        return _decompress(counts, where)
    if isinstance(size, list) and isinstance(counts, list) and all(_is_integer(n) for n in counts):
        return [int(n) for n in counts]
    raise UserError("{}: segmentation: expected 'size' [height, width] and 'counts' of whole numbers; correct the file".format(where))


def _decompress(text, where):
    """Return the run lengths of COCO's compressed string: 5 bits a character, low ones first, each run from the third on minus the one two before."""
    counts, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise UserError("{}: segmentation: 'counts' is not a compressed run length string; correct the file".format(where))
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    return counts


def _numbers(values, length, where, field):
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        raise UserError("{}: {}: expected a list of numbers, got {:.80}; correct the file".format(where, field, repr(values)))
    if length is not None and len(values) != length:
        raise UserError("{}: {}: expected {} numbers, got {}; correct the file".format(where, field, length, len(values)))
    return values


def _is_integer(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < HUGE and value == int(value)


def _hashable(value):
    return value if isinstance(value, (int, float)) else None


def _note(findings, reason, what):
    found = findings.setdefault(reason, {"count": 0, "first": []})
    found["count"] += 1
    if len(found["first"]) < 3:
        found["first"].append(what)
