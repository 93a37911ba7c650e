"""Real COCO on a laptop in minutes: the annotations' archive, and the images of some people, each by its own URL, instead of 20 GB.

Which images: those that the file `fetch.ids` lists, or `fetch.images` of train2017 and a tenth as many of val2017, of those with somebody to train
on, in an order drawn from their ids; more images are the same ones and others, so that a subset grows without fetching anything twice. The
annotations in data.root are those of these images only: everything after this step sees a small data set of COCO's form. No digests of single images
are published; each must be a whole JPEG of the annotated size.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import List, NamedTuple

from mtc import files
from mtc.coco import annotations, document, pictures, records
from mtc.errors import UserError
from mtc.fetch import NoRoom, download, extract, progress, size_text
from mtc.fetch.sources import open_source
from mtc.storage import TransientError, backoff

log = logging.getLogger("mtc.fetch")

AT_ONCE = 8
"""Images that are asked for at the same time."""
PATIENCE = 300.0
"""Seconds for which an image is asked for again."""
IMAGE_BYTES = 170000
"""An image of COCO on average, generously."""

_LISTED = 5


class Picture(NamedTuple):
    """An image to bring."""

    name: str
    """"train2017/000000000785.jpg"."""
    width: int
    height: int


def read_ids(path):
    """Return the set of image ids in a file: whole numbers, one a line, or a JSON list. Errors: UserError names the line."""
    try:
        with open(path, encoding="utf-8") as f:
            text = f.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("fetch.ids={} cannot be read: {}".format(path, getattr(error, "strerror", None) or error)) from None
    try:
        listed = json.loads(text) if text.lstrip().startswith("[") else text.split()
        ids = {int(str(one)) for one in listed}
    except ValueError as error:
        raise UserError("fetch.ids={}: expected whole numbers, one a line, or a JSON list of them: {}".format(path, error)) from None
    if not ids:
        raise UserError("fetch.ids={}: no id is in it".format(path))
    return ids


def choose(index, count):
    """Return the numbers in `index.images` of `count` images with somebody to train on, or of all there are; more are the same ones and others."""
    drawn = sorted(range(len(index.images)), key=lambda number: hashlib.sha256(b"%d" % index.images[number].id).digest())
    chosen: List[int] = []
    with open(index.path, "rb") as f:
        for number in drawn:
            if len(chosen) == count:
                break
            image = index.image(f, number, annotations.Findings())
            if records.select_of(image, 1, dict.fromkeys(records.RULES, 0)):
                chosen.append(number)
    return sorted(chosen)


def indexes(folder, splits):
    """Return {split: `annotations.Index`} of a folder with the whole annotations."""
    return {split: annotations.index(os.path.join(folder, "annotations", "person_keypoints_{}.json".format(split))) for split in splits}


def chosen(indexed, count, ids_file):
    """Return {split: numbers in its index} of the images to bring. Errors: UserError names ids that are not there, or a split that gets none."""
    if not ids_file:
        counts = {split: count if split.startswith("train") else -(-count // 10) for split in indexed}
        return {split: choose(index, counts[split]) for split, index in indexed.items()}
    ids = read_ids(ids_file)
    found = {split: [number for number, image in enumerate(index.images) if image.id in ids] for split, index in indexed.items()}
    unknown = sorted(ids - {indexed[split].images[number].id for split in indexed for number in found[split]})
    if unknown:
        named = ", ".join(map(str, unknown[:_LISTED])) + (" and {} more".format(len(unknown) - _LISTED) if len(unknown) > _LISTED else "")
        raise UserError("fetch.ids={}: no image with a person has the id {}: remove it".format(ids_file, named))
    for split, numbers in found.items():
        if not numbers:
            raise UserError("fetch.ids={}: no id of {} is in it: training needs images of both {}".format(ids_file, split, " and ".join(indexed)))
    return found


def write_annotations(indexed, numbers, folder):
    """Write the annotations of the chosen images to the folder annotations/ in `folder`, in the form of the whole files."""
    for split, index in indexed.items():
        ids = {index.images[number].id for number in numbers[split]}
        content = {"images": [], "annotations": []}
        with open(index.path, "rb") as f:
            for element in document.elements(index.path, ("images", "annotations"), content):
                if element.key == "images" and isinstance(element.value, dict) and element.value.get("id") in ids:
                    content["images"].append(document.load(f, element.start, element.length))
            for number in numbers[split]:
                content["annotations"] += index.parsed(f, number)
        path = os.path.join(folder, "annotations", os.path.basename(index.path))
        files.write_bytes(path, json.dumps(content, ensure_ascii=True).encode("ascii"))


def bring(source, pictures_wanted, folder, have, endpoint="", region=""):
    """Bring images below `folder`, those that are there or below `have` excepted.

    Errors: UserError names the image; TransientError where the source does not answer for `PATIENCE` seconds.
    """
    failed = threading.Event()

    def one(picture):
        target, earlier = os.path.join(folder, picture.name), os.path.join(have, picture.name)
        if failed.is_set() or _is_whole(target, picture):
            return 0
        if _is_whole(earlier, picture):
            os.link(earlier, target)
            return 0
        data = _read(source.rstrip("/") + "/" + picture.name, picture, endpoint, region)
        files.write_bytes(target, data, durable=False)
        return len(data)

    for name in sorted({os.path.dirname(picture.name) for picture in pictures_wanted}):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    needed, free = IMAGE_BYTES * len(pictures_wanted), shutil.disk_usage(folder).free
    if needed > free:
        text = "{} needs about {}, its disk has {} free: make room or choose fewer images"
        raise NoRoom(text.format(folder, size_text(needed), size_text(free)))
    with ThreadPoolExecutor(AT_ONCE) as pool, progress("{} images".format(len(pictures_wanted)), None) as advance:
        try:
            for size in pool.map(one, pictures_wanted):
                advance(size)
        finally:
            failed.set()
    os.sync()


def archive_members(archive_path, folder, members, splits):
    """Unpack the person annotations of an archive, and no others, so that `folder` appears whole."""
    wanted = {"annotations/person_keypoints_{}.json".format(split) for split in splits}
    extract.unpack(archive_path, folder, members, only=wanted.__contains__)


def _read(url, picture, endpoint, region):
    def attempt():
        with open_source(url, endpoint=endpoint, region=region) as stream:
            data = b"".join(stream.blocks)
        if stream.total is not None and len(data) < stream.total:
            raise TransientError("{}: the connection ended after {} of {} bytes".format(url, len(data), stream.total))
        return data

    data = backoff.patiently(attempt, url, PATIENCE, first=download.FIRST_PAUSE)
    if not _fits(data, picture):
        found = pictures.frame(data)
        what = "{} x {} pixels".format(found.width, found.height) if found else "no picture"
        raise UserError("{} gives {} of {} bytes, expected a JPEG of {} x {}: check fetch.source".format(
            url, what, len(data), picture.width, picture.height
        ))  # fmt: skip
    return data


def _is_whole(path, picture):
    try:
        with open(path, "rb") as f:
            return _fits(f.read(), picture)
    except OSError:
        return False


def _fits(data, picture):
    frame = pictures.frame(data)
    return frame is not None and (frame.width, frame.height) == (picture.width, picture.height) and pictures.is_whole(data)
