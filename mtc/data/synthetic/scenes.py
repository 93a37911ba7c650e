"""Random scenes with exact labels: people for COCO's 2D format, single people and hands with 3D labels.

Everything random about scene i follows from (seed, kind, i). A 2D scene holds labelled people, sometimes an unlabelled one and a crowd;
labels are those of the pixels that are left after nearer people have been drawn over them.
"""

from typing import List, NamedTuple, Optional

import cv2
import numpy as np
from pycocotools import mask as rle

from mtc.data.sample import Camera
from mtc.data.synthetic import figure, render
from mtc.geometry import project
from mtc.skeleton import COCO_TO_BODY

_COCO_JOINTS = 17
_KINDS = {"train2017": 0, "val2017": 1, "body_train": 2, "body_val": 3, "hand_train": 4, "hand_val": 5}


class Person2D(NamedTuple):
    """An annotation of COCO's, before it has ids."""

    keypoints: Optional[np.ndarray]
    """(17, 3) int: x, y, v of COCO; None: not labelled."""
    mask: np.ndarray
    """(H, W) bool: visible pixels."""
    crowd: bool


class Scene2D(NamedTuple):
    """An image with its annotations."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    people: List[Person2D]


class Scene3D(NamedTuple):
    """An image of one figure with its joints in space."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    joints: np.ndarray
    """(J, 3) float64, centimetres, world axes."""
    camera: Camera
    uv: np.ndarray
    """(J, 2) float64, pixels of the image."""
    box: np.ndarray
    """(4,) x, y, width, height of the drawn figure."""
    right: bool
    """A right hand."""


def people_scene(seed, split, index, longer_side, most_people):
    """Return the `Scene2D` number `index` of a split ("train2017", "val2017")."""
    rng = _generator(seed, split, index)
    height, width = _size(rng, longer_side)
    image = render.background(rng, height, width)
    count = rng.randint(1, most_people + 1)
    placed = sorted((_place(rng, height, width, count) for _ in range(count)), key=lambda p: -p[1].mean())
    unlabelled = rng.randint(count) if count > 1 and rng.uniform() < 0.3 else -1
    people = []
    crowd = np.zeros((height, width), bool)
    if rng.uniform() < 0.25:  # far people drawn first, so that all others stand before them
        for _ in range(rng.randint(4, 9)):
            uv, depth, scale = _place(rng, height, width, 10)
            crowd |= render.draw(rng, image, uv, depth, scale, render.BODY_PARTS, face=True)
    for i, (uv, depth, scale) in enumerate(placed):
        mask = render.draw(rng, image, uv, depth, scale, render.BODY_PARTS, face=True)
        crowd &= ~mask
        people = [person._replace(mask=person.mask & ~mask) for person in people]
        people.append(Person2D(keypoints=None if i == unlabelled else uv, mask=mask, crowd=False))
    people = [p._replace(keypoints=_keypoints(p.keypoints, p.mask)) if p.keypoints is not None else p for p in people if p.mask.sum() >= 64]
    if crowd.sum() >= 64:
        people.append(Person2D(keypoints=None, mask=crowd, crowd=True))
    return Scene2D(image=image, people=people)


def body_scene(seed, split, index, longer_side):
    """Return the `Scene3D` number `index` with one person; split: "body_train" or "body_val"."""
    return _scene_3d(_generator(seed, split, index), figure.person, render.BODY_PARTS, longer_side, 90.0)


def hand_scene(seed, split, index, longer_side):
    """Return the `Scene3D` number `index` with one hand; split: "hand_train" or "hand_val". Every second hand is a right one."""
    return _scene_3d(_generator(seed, split, index), figure.hand, render.HAND_PARTS, longer_side, 11.0, right=bool(index % 2))


def polygons(mask):
    """Return a mask's outlines as COCO polygons [[x1, y1, …], …]; specks of fewer than three points are left out."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [[float(v) for v in c.reshape(-1)] for c in sorted(contours, key=lambda c: -cv2.contourArea(c)) if len(c) >= 3 and cv2.contourArea(c) >= 4]


def uncompressed_rle(mask):
    """Return COCO's crowd segmentation {"counts": [...], "size": [h, w]}: column by column, runs of 0 and 1 in turn, starting with 0."""
    flat = np.asfortranarray(mask).reshape(-1, order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    counts = ([0] if flat[0] else []) + [int(r) for r in runs]
    return {"counts": counts, "size": [int(mask.shape[0]), int(mask.shape[1])]}


def area(segmentation, height, width):
    """Return the pixels of a segmentation as COCO counts them."""
    encoded = rle.frPyObjects(segmentation, height, width)
    return float(rle.area(rle.merge(encoded) if isinstance(encoded, list) else encoded))


def _generator(seed, kind, index):
    return np.random.RandomState([seed, _KINDS[kind], index])


def _size(rng, longer_side):
    other = int(longer_side * rng.uniform(0.65, 1.0))
    return (other, longer_side) if rng.uniform() < 0.6 else (longer_side, other)


def _place(rng, height, width, crowding):
    """Return uv (20, 2), depth (20,), pixels_per_cm of a random person somewhere in the picture."""
    joints = figure.person(rng)
    tall = rng.uniform(0.45, 0.95) * height / min(1.0 + 0.25 * (crowding - 1), 3.0)
    focal = 1.2 * max(height, width)
    distance = focal * 170.0 / tall
    extent = np.ptp(joints[:, :2], axis=0) * focal / distance / 2
    centre = [rng.uniform(min(e, s / 2), max(s - e, s / 2)) for e, s in zip(extent, (width, height))]
    middle = (joints[:, :2].max(axis=0) + joints[:, :2].min(axis=0)) / 2
    depth = joints[:, 2] + distance
    uv = (joints[:, :2] - middle) * focal / depth[:, None] + centre
    return uv, depth, focal / distance


def _keypoints(uv, mask):
    """COCO's 17 joints: v = 2 on the person's own visible pixels, 1 hidden, 0 (and x = y = 0) outside the image."""
    height, width = mask.shape
    source = np.zeros((_COCO_JOINTS, 2))
    for main, coco in enumerate(COCO_TO_BODY):
        if coco < _COCO_JOINTS:
            source[coco] = uv[main]
    xy = np.round(source).astype(int)
    inside = (xy >= 0).all(axis=1) & (xy[:, 0] < width) & (xy[:, 1] < height)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    visible = np.array([ok and near[y, x] for ok, (x, y) in zip(inside, xy)])
    flags = np.where(inside, np.where(visible, 2, 1), 0)
    return np.concatenate([np.where(inside[:, None], xy, 0), flags[:, None]], axis=1)


def _scene_3d(rng, make, parts, longer_side, reach, right=False):
    """A figure of about `reach` centimetres around its origin, before a camera with its own axes and a little distortion."""
    height, width = _size(rng, longer_side)
    image = render.background(rng, height, width)
    joints = make(rng)
    if right:
        joints = joints * [-1.0, 1.0, 1.0]
    focal = rng.uniform(1.0, 1.5) * max(height, width)
    distance = focal * 2 * reach / (rng.uniform(0.6, 0.95) * min(height, width))
    in_camera = joints - (joints.max(axis=0) + joints.min(axis=0)) / 2 + [0, 0, distance]
    in_camera[:, :2] += rng.uniform(-0.12, 0.12, 2) * min(height, width) * distance / focal
    turn = cv2.Rodrigues(rng.normal(0, 0.6, 3))[0]
    shift = rng.normal(0, 50, 3)
    K = np.array([[focal, 0, width / 2.0], [0, focal, height / 2.0], [0, 0, 1.0]])
    distortion = rng.normal(0, [0.02, 0.01, 0.001, 0.001, 0.002])
    camera = Camera(K=K, R=turn, t=shift, distortion=distortion)
    world = (in_camera - shift) @ turn  # X_cam = R X + t
    uv = project(world, camera)
    mask = render.draw(rng, image, uv, in_camera[:, 2], focal / distance, parts, face=len(joints) == 20)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1])
    return Scene3D(image=image, joints=world, camera=camera, uv=uv, box=box, right=right)
