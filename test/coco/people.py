"""Small COCO annotations for tests: made here, or the real ones beside the project where they are present."""

import json
import os

import cv2
import numpy as np

REAL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "shared", "data", "coco_mini")

SQUARE = [[1, 1, 4, 1, 4, 4, 1, 4]]


def person(id=1, image_id=42, bbox=(10, 10, 100, 200), labelled=17, area=20000.0, segmentation=None, crowd=0, keypoints=None):
    """Return an annotation; its first `labelled` keypoints are visible, on a line."""
    if keypoints is None:
        keypoints = [[20 + 2 * k, 30 + 5 * k, 2] if k < labelled else [0, 0, 0] for k in range(17)]
    return {
        "id": id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": list(bbox),
        "area": area,
        "iscrowd": crowd,
        "num_keypoints": labelled,
        "keypoints": [number for point in keypoints for number in point],
        "segmentation": SQUARE if segmentation is None else segmentation,
    }


def document(annotations, sizes=((42, 640, 480),)):
    """Return the content of a person_keypoints file; sizes: (id, width, height) of its images."""
    return {
        "images": [{"id": i, "file_name": "{:012d}.jpg".format(i), "width": width, "height": height} for i, width, height in sizes],
        "annotations": list(annotations),
    }


def write(path, content):
    """Write a JSON file and return its path."""
    path = str(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(content, f)
    return path


def data_set(root, seed=0):
    """Make a folder in the layout of COCO 2017: three training images and one validation image of noise.

    In each are two people, one of them unlabelled, and a crowd.
    """
    rng = np.random.RandomState(seed)
    for split, ids in (("train", (9, 5, 7)), ("val", (6,))):
        annotations = []
        for i in ids:
            os.makedirs(os.path.join(str(root), split + "2017"), exist_ok=True)
            cv2.imwrite(os.path.join(str(root), split + "2017", "{:012d}.jpg".format(i)), rng.randint(0, 256, (120, 160, 3), np.uint8))
            outline = [[10, 10, 60, 10, 60, 110, 10, 110]]
            runs = [130 * 120, 600, 160 * 120 - 130 * 120 - 600]
            annotations += [
                person(10 * i, i, (10, 10, 50, 100), area=5000, segmentation=outline),
                person(10 * i + 1, i, (80, 20, 20, 30), labelled=0, area=600, segmentation=[[80, 20, 100, 20, 100, 50, 80, 50]]),
                person(10 * i + 2, i, (130, 0, 5, 120), labelled=0, area=600, crowd=1, segmentation={"counts": runs, "size": [120, 160]}),
            ]
        write(
            os.path.join(str(root), "annotations", "person_keypoints_{}2017.json".format(split)), document(annotations, [(i, 160, 120) for i in ids])
        )
    return str(root)
