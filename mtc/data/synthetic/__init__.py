"""A synthetic data set in the layout of the official COCO 2017 archives, with 3D samples beside it: what the demo and most tests train on.

`write_archives` writes zips/train2017.zip, zips/val2017.zip, annotations/annotations_trainval2017.zip, zips/synthetic3d.zip (bodies),
zips/synthetic_hand.zip (hands) and manifest.json. The same configuration gives the same bytes on the same version of OpenCV.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import zipfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import cv2
import numpy as np

from mtc import files
from mtc.data.synthetic import scenes
from mtc.skeleton import COCO_JOINTS

VERSION = 1
"""Changes with what is drawn, so that a data set of an older version is made anew."""

_COCO_SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4),
    (3, 5), (4, 6), (5, 7),
)  # fmt: skip
_FIRST_ID = {"train2017": 1, "val2017": 500001}
_VAL_SHARE = 0.2
"""Held-out 3D samples for each one to train on."""
_WORTH_PROCESSES = 200
"""Images from which on starting processes takes less time than it saves."""
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 92]


def write_archives(synthetic, folder):
    """Write the archives of a `mtc.sections.Synthetic` into `folder` and return its manifest (`mtc.fetch.manifest`'s form)."""
    archives = []
    annotations = {}
    val_3d = {name: max(1, int(count * _VAL_SHARE)) for name, count in (("body", synthetic.samples_3d), ("hand", synthetic.hands_3d)) if count}
    total = synthetic.train_images + synthetic.val_images + synthetic.samples_3d + synthetic.hands_3d + sum(val_3d.values())
    with _workers(total) as draw:
        for split, count in (("train2017", synthetic.train_images), ("val2017", synthetic.val_images)):
            annotations[split] = _write_coco(os.path.join(folder, "zips", split + ".zip"), split, draw(partial(_people, synthetic, split), count))
            archives.append(("zips/{}.zip".format(split), r"{}/\d{{12}}\.jpg".format(split)))
        path = os.path.join(folder, "annotations", "annotations_trainval2017.zip")
        with files.atomic_file(path) as f, zipfile.ZipFile(f, "w") as z:
            for split, document in annotations.items():
                _add(z, "annotations/person_keypoints_{}.json".format(split), json.dumps(document, separators=(",", ":")).encode("utf-8"))
        archives.append(("annotations/annotations_trainval2017.zip", r"annotations/person_keypoints_(train|val)2017\.json"))
        for name, kind, scene, count in (
            ("synthetic3d", "body", scenes.body_scene, synthetic.samples_3d),
            ("synthetic_hand", "hand", scenes.hand_scene, synthetic.hands_3d),
        ):
            if count:
                splits = {"train": count, "val": val_3d[kind]}
                drawn = {split: draw(partial(_figure, synthetic, scene, kind, split), n) for split, n in splits.items()}
                _write_3d(os.path.join(folder, "zips", name + ".zip"), name, drawn)
                archives.append(("zips/{}.zip".format(name), r"{}/(train|val)(/\d{{6}}\.jpg|\.json)".format(name)))
    manifest = {"v": 1, "archives": [_entry(folder, path, members) for path, members in archives]}
    files.write_json(os.path.join(folder, "manifest.json"), manifest)
    return manifest


@contextlib.contextmanager
def _workers(total):
    """Yield draw(function, count), which gives function(0) to function(count - 1) in order, computed on all cores where that pays.

    Processes, because drawing many small shapes holds Python's lock; not forked from this one, which may have threads.
    """
    cores = os.cpu_count() or 1
    if cores == 1 or total < _WORTH_PROCESSES:
        yield lambda function, count: map(function, range(count))
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(cores, mp_context=context, initializer=_leave_signals_to_the_parent) as pool:
        open_ended = []

        def draw(function, count):
            open_ended.append(pool.map(function, range(count), chunksize=8))
            return open_ended[-1]

        try:
            yield draw
        finally:
            for drawn in open_ended:
                drawn.close()  # what an error left undone is not waited for


def _leave_signals_to_the_parent():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _people(synthetic, split, index):
    """Return (image as JPEG, (height, width), annotations without ids) of one scene."""
    scene = scenes.people_scene(synthetic.seed, split, index, synthetic.width, synthetic.people)
    height, width = scene.image.shape[:2]
    annotations = [_annotation(person, height, width) for person in scene.people]
    return _jpeg(scene.image), (height, width), [annotation for annotation in annotations if annotation]


def _figure(synthetic, scene, kind, split, index):
    """Return (image as JPEG, labels) of one 3D scene."""
    made = scene(synthetic.seed, kind + "_" + split, index, synthetic.width)
    camera = {key: np.round(value, 9).tolist() for key, value in made.camera._asdict().items()}
    return _jpeg(made.image), {"joints": np.round(made.joints, 6).tolist(), "camera": camera, "box": made.box.tolist(), "right": made.right}


def _write_coco(path, split, drawn):
    """Write one archive of images and return its person_keypoints document."""
    images, annotations = [], []
    with files.atomic_file(path) as f, zipfile.ZipFile(f, "w") as z:
        for number, (jpeg, (height, width), people) in enumerate(drawn):
            image_id = _FIRST_ID[split] + number
            name = "{:012d}.jpg".format(image_id)
            _add(z, "{}/{}".format(split, name), jpeg)
            images.append({"id": image_id, "file_name": name, "height": height, "width": width, "license": 1})
            for annotation in people:
                annotations.append(dict(annotation, image_id=image_id, id=len(annotations) + 1, category_id=1))
    skeleton = [list(edge) for edge in _COCO_SKELETON]
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO_JOINTS), "skeleton": skeleton}
    info = {"description": "Synthetic people in the layout of COCO 2017 keypoints", "version": "1"}
    licence = {"id": 1, "name": "Apache-2.0", "url": ""}
    return {"info": info, "licenses": [licence], "images": images, "annotations": annotations, "categories": [category]}


def _annotation(person, height, width):
    segmentation = scenes.uncompressed_rle(person.mask) if person.crowd else scenes.polygons(person.mask)
    if not segmentation:
        return None
    rows, columns = np.flatnonzero(person.mask.any(axis=1)), np.flatnonzero(person.mask.any(axis=0))
    keypoints = person.keypoints if person.keypoints is not None else np.zeros((17, 3), int)
    return {
        "segmentation": segmentation,
        "iscrowd": int(person.crowd),
        "area": scenes.area(segmentation, height, width),
        "bbox": [float(columns[0]), float(rows[0]), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1)],
        "keypoints": [int(v) for v in keypoints.reshape(-1)],
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }


def _write_3d(path, name, drawn):
    with files.atomic_file(path) as f, zipfile.ZipFile(f, "w") as z:
        for split, made in drawn.items():
            samples = []
            for number, (jpeg, labels) in enumerate(made):
                image = "{}/{:06d}.jpg".format(split, number + 1)
                _add(z, "{}/{}".format(name, image), jpeg)
                samples.append(dict(labels, image=image))
            document = {"v": 1, "unit": "cm", "samples": samples}
            _add(z, "{}/{}.json".format(name, split), json.dumps(document, separators=(",", ":")).encode("utf-8"))


def _jpeg(image):
    return cv2.imencode(".jpg", image[:, :, ::-1], _QUALITY)[1].tobytes()


def _add(archive, name, data):
    """Add a member with a fixed date, so that the archive's bytes do not depend on the clock."""
    info = zipfile.ZipInfo(name, date_time=(2017, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    archive.writestr(info, data, zipfile.ZIP_STORED)


def _entry(folder, path, members):
    full = os.path.join(folder, path)
    return {"path": path, "bytes": os.path.getsize(full), "sha256": files.sha256(full), "members": members}
