"""Reads `person_keypoints_*.json` of COCO, checks every field that is used, and groups the people by image.

Images come in ascending id, the people of an image in file order: the distance rule of `records` depends on it. What is wrong is left out as narrowly
as it can be (an outline, a person's labels, an annotation, an image) and noted in `Findings` with its place; only a file that is no
person_keypoints file at all is refused. Format: cocodataset.org, "Keypoint Detection" and "Object Detection" of the data format page.

COCO has 260,000 people: `index` goes through the file once and keeps where each lies; `Index.image` parses those of one image again.
"""

import os
import re
from collections import defaultdict
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from mtc.coco import document
from mtc.errors import UserError
from mtc.skeleton import COCO_JOINTS

PERSON = 1
"""COCO's category id of people."""

FAR = 10
"""A polygon with a vertex more than so many image sizes away is no outline; drawing it would take memory without bound."""


HUGE = 1e12
"""A number this large, infinite or not a number is not a measurement."""

OUTSIDE = 1.0
"""Pixels by which a box may reach over the image's edge without a remark."""

_EXAMPLES = 3


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


class Findings:
    """What in a file is not as it should be: how often for each reason, with the first examples.

    Damage is what something had to be left out for; remarks are about what is used as it is.
    """

    def __init__(self):
        self._found = {}
        self.damaged = set()
        """Places that are damaged: ("annotation" or "image", its index in the file), ("image file", its number in `Index.images`)."""

    def damage(self, reason, place, what):
        """Note that something was left out. place: what it belongs to, which counts once however much of it is wrong."""
        self.damaged.add(place)
        self._add(reason, place, what)

    def remark(self, reason, place, what):
        """Note something that is used all the same."""
        self._add(reason, place, what)

    def merge(self, other):
        """Take over what was found elsewhere."""
        self.damaged |= other.damaged
        for reason, (count, first) in other._found.items():
            mine = self._found.setdefault(reason, [0, []])
            mine[0] += count
            mine[1] = sorted(mine[1] + [tuple(one) for one in first])[:_EXAMPLES]

    def summary(self):
        """Return {reason: {"count": number of cases, "first": descriptions of the first three}}, the same for any division of the work."""
        return {reason: {"count": count, "first": [what for _, _, what in first]} for reason, (count, first) in sorted(self._found.items())}

    def lines(self):
        """Return the summary as texts: "2 x reason (example; example)"."""
        return ["{} x {} ({})".format(found["count"], reason, "; ".join(found["first"])) for reason, found in self.summary().items()]

    def to_json(self):
        """Return what `from_json` makes equal findings of."""
        return {"found": self._found, "damaged": sorted(self.damaged)}

    @classmethod
    def from_json(cls, value):
        """Return the findings of `to_json`."""
        made = cls()
        made._found = {reason: [count, [tuple(one) for one in first]] for reason, (count, first) in value["found"].items()}
        made.damaged = {tuple(place) for place in value["damaged"]}
        return made

    def _add(self, reason, place, what):
        found = self._found.setdefault(reason, [0, []])
        found[0] += 1
        found[1] = sorted(found[1] + [(place[0], place[1], what)])[:_EXAMPLES]


class Index:
    """A file of which it is known where everything lies; made by `index`."""

    def __init__(self, path, images, places, findings, annotations):
        self.path = path
        self.images = images
        """`ImageAnnotations` without people, of all images with a person, in ascending id."""
        self.findings = findings
        """`Findings` about the file as a whole; `image` has those about its people."""
        self.annotations = annotations
        """Number of annotations in the file."""
        self._places = places  # {image id: array of index, start, length of each annotation}

    def image(self, f, number, findings):
        """Return the `ImageAnnotations` with its people. f: the open file; number: in `images`; findings: `Findings` to note what is wrong in."""
        image = self.images[number]
        indices = self._places[image.id][:, 0].tolist()
        people = (_person(annotation, image, index, findings) for index, annotation in zip(indices, self.parsed(f, number)))
        return image._replace(people=tuple(people))

    def parsed(self, f, number):
        """Return the annotations of an image as they are in the file."""
        return [document.load(f, start, length) for _, start, length in self._places[self.images[number].id].tolist()]


class Annotations(NamedTuple):
    """What a file holds, and what in it could not be used."""

    images: List[ImageAnnotations]
    findings: Dict[str, dict]
    """`Findings.summary`."""


def read(path):
    """Return all `Annotations` of a person_keypoints JSON file at once. Errors: as `index`."""
    indexed = index(path)
    findings = Findings()
    findings.merge(indexed.findings)
    with open(path, "rb") as f:
        images = [indexed.image(f, number, findings) for number in range(len(indexed.images))]
    return Annotations(images, findings.summary())


def index(path):
    """Return the `Index` of a person_keypoints JSON file.

    Errors: UserError names the file and what to do, where it cannot be read, has no lists of images and annotations, or nobody in it.
    """
    images, places, findings, ids, count, strangers = {}, defaultdict(list), Findings(), set(), 0, 0
    for element in document.elements(path, ("images", "annotations")):
        if element.key == "images":
            image = _image(element, findings)
            if image is not None and image.id in images:
                findings.damage("image whose id is used before, left out", ("image", element.index), "image {}".format(image.id))
            elif image is not None:
                images[image.id] = image
            continue
        count += 1
        fault = _misplaced(element.value, ids)
        if fault:
            note = findings.remark if fault == _NO_PERSON else findings.damage
            note(fault, ("annotation", element.index), _named(element.value, element.index))
            continue
        strangers += "keypoints" not in element.value
        places[element.value["image_id"]].append((element.index, element.start, element.length))
    if count and strangers == count:
        raise UserError("{}: no annotation has 'keypoints': use person_keypoints_*.json, not instances_*.json".format(path))
    for image_id in [image_id for image_id in places if image_id not in images]:
        for number, _, _ in places.pop(image_id):
            what = "annotation number {} of image {}".format(number, image_id)
            findings.damage("annotation of an image that is not in the file, left out", ("annotation", number), what)
    if not places:
        raise UserError("{}: no image has a person annotation: nothing to train on; is it the right file?".format(path))
    arrays = {image_id: np.array(found, np.int64) for image_id, found in places.items()}
    return Index(path, [images[image_id] for image_id in sorted(arrays)], arrays, findings, count)


_NO_PERSON = "not a person, left out"


def _misplaced(annotation, ids):
    """Return why an annotation belongs nowhere, or None. ids: those of the annotations before, to which its own is added."""
    if not isinstance(annotation, dict):
        return "annotation that is no object, left out"
    if annotation.get("category_id", PERSON) != PERSON:
        return _NO_PERSON
    if not _is_integer(annotation.get("image_id")):
        return "annotation without a usable image_id, left out"
    if not _is_integer(annotation.get("id")):
        return "annotation without a usable id, left out"
    if annotation["id"] in ids:
        return "annotation whose id is used before, left out"
    ids.add(annotation["id"])
    return None


def _named(annotation, index):
    """How an annotation is called in findings."""
    if isinstance(annotation, dict) and _is_integer(annotation.get("id")):
        return "annotation {}".format(annotation["id"])
    return "annotation number {}".format(index)


def _image(element, findings):
    """Return the `ImageAnnotations` of an entry, without people, or None where it cannot be used."""
    image, place = element.value, ("image", element.index)
    if not isinstance(image, dict):
        findings.damage("image that is no object, left out", place, "image number {}: {:.60}".format(element.index, repr(image)))
        return None
    for key in ("id", "width", "height"):
        if not _is_integer(image.get(key)) or image[key] < (0 if key == "id" else 1):
            what = "image {}: {}={!r}".format(image.get("id", "number {}".format(element.index)), key, image.get(key))
            findings.damage("image without a usable id, width or height, left out", place, what)
            return None
    name = os.path.basename(str(image.get("file_name")))[-16:]
    if not re.match(r"[0-9]{12}\.[A-Za-z]{3}$", name) or int(name[:12]) != image["id"]:
        what = "image {}: {!a}, expected {:012d}.jpg".format(int(image["id"]), image.get("file_name"), int(image["id"]))
        findings.damage("image whose file name is not its id in 12 digits, left out", place, what)
        return None
    return ImageAnnotations(int(image["id"]), name, int(image["width"]), int(image["height"]), ())


class _Unusable(Exception):
    """A field that says nothing."""


def _person(annotation, image, index, findings):
    """Return the `Person` of an annotation. Without trustworthy labels it is an unlabelled one: it has no record, and its pixels do not count."""
    place, what = ("annotation", index), "annotation {}".format(annotation["id"])
    crowd = annotation.get("iscrowd")
    if crowd not in (0, 1):
        findings.damage("iscrowd that is neither 0 nor 1, told by the form of the outline", place, "{}: iscrowd={!r:.60}".format(what, crowd))
        crowd = isinstance(annotation.get("segmentation"), dict)
    try:
        labelled, numbers, bbox, area = _labels(annotation)
    except _Unusable as fault:
        findings.damage("person whose labels cannot be used, taken as unlabelled", place, "{}: {}".format(what, fault))
        labelled, numbers, bbox, area = 0, [0] * 3 * len(COCO_JOINTS), [0, 0, 0, 0], 0
    else:
        over = max(-bbox[0], -bbox[1], bbox[0] + bbox[2] - image.width, bbox[1] + bbox[3] - image.height)
        if over > OUTSIDE:
            if bbox[0] >= image.width or bbox[1] >= image.height or bbox[0] + bbox[2] <= 0 or bbox[1] + bbox[3] <= 0:
                findings.damage("person whose box is outside the image, no record", place, "{}: bbox={}".format(what, bbox))
                bbox = [0, 0, 0, 0]
            else:
                findings.remark("box that reaches over the image's edge, used", place, "{}: bbox={}".format(what, bbox))
    polygons, rle = _outline(annotation, image, place, what, findings)
    return Person(annotation["id"], bbox, area, numbers, labelled, bool(crowd), polygons, rle)


def _labels(annotation):
    """Return (number of labelled keypoints, keypoints, box, area). Errors: _Unusable says why one of them cannot be used."""
    numbers = _numbers(annotation, "keypoints", 3 * len(COCO_JOINTS))
    bbox = _numbers(annotation, "bbox", 4)
    area, labelled = annotation.get("area"), annotation.get("num_keypoints")
    if not isinstance(area, (int, float)) or isinstance(area, bool):
        raise _Unusable("area={!r:.60}".format(area))
    if not all(abs(n) < HUGE for n in numbers + bbox + [area]):
        raise _Unusable("a number is not finite")
    if bbox[2] < 0 or bbox[3] < 0 or area < 0:
        raise _Unusable("bbox={} area={}: below 0".format(bbox, area))
    if not _is_integer(labelled) or not 0 <= labelled <= len(COCO_JOINTS):
        raise _Unusable("num_keypoints={!r:.60}: expected a whole number from 0 to {}".format(labelled, len(COCO_JOINTS)))
    if not set(numbers[2::3]) <= {0, 1, 2, 3}:
        raise _Unusable("keypoints: a visibility is not 0, 1 or 2")
    return int(labelled), numbers, bbox, area


def _outline(annotation, image, place, what, findings):
    """Return (polygons, run lengths) with all that pycocotools would refuse, misread or crash on left out and noted."""
    outline, polygons, rle = annotation.get("segmentation"), [], None
    if isinstance(outline, dict):
        rle = _run_lengths(outline, image)
        if rle is None:
            findings.damage("run lengths that do not fit the image or cannot be read, left out", place, what)
        elif isinstance(outline["counts"], str):
            findings.remark("run lengths as a compressed string, used", place, what)
    elif isinstance(outline, list):
        limit = FAR * max(image.width, image.height)
        for polygon in outline:
            if not _are_numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
                reason = "polygon with less than three points or half a point, left out"
                findings.damage(reason, place, "{}: {:.60}".format(what, repr(polygon)))
            elif not all(abs(n) <= limit for n in polygon):
                findings.damage("polygon with a point that is not finite or far outside the image, left out", place, what)
            else:
                polygons.append(np.array(polygon, np.float64))
    if rle is None and not polygons:
        findings.damage("person without an outline, not in the masks", place, what)
    return tuple(polygons), rle


def _run_lengths(outline, image):
    """Return the run lengths of an outline, or None where they are not those of the image's pixels."""
    counts, size = outline.get("counts"), outline.get("size")
    if isinstance(counts, str):
        counts = _decompress(counts)
    if size != [image.height, image.width] or not isinstance(counts, list) or not all(_is_integer(n) and n >= 0 for n in counts):
        return None
    return [int(n) for n in counts] if sum(counts) == image.width * image.height else None


def _decompress(text):
    """Return the run lengths of COCO's compressed string, or None where it is none: 5 bits a character, low ones first, each run from the third on
    minus the one two before.
    """
    counts, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    return counts


def _are_numbers(values):
    return isinstance(values, list) and set(map(type, values)) <= {int, float}


def _numbers(annotation, field, length):
    values = annotation.get(field)
    if not _are_numbers(values):
        raise _Unusable("{}: expected a list of numbers, got {:.60}".format(field, repr(values)))
    if len(values) != length:
        raise _Unusable("{}: expected {} numbers, got {}".format(field, length, len(values)))
    return values


def _is_integer(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < HUGE and value == int(value)
