"""Samples and images that the tests of crops make for themselves."""

import cv2
import numpy as np

from mtc.data import crop
from mtc.data.sample import Camera, Sample
from mtc.geometry import project_from_camera
from mtc.sections import Augment, Compat, Config, Data
from mtc.skeleton import BODY

NOBODY = np.zeros((0, 4), np.int32)


def config(compat=None, augment=None, **data):
    return Config(data=Data(**data), augment=Augment(**(augment or {})), compat=Compat(**(compat or {})))


def sample(uv, valid=None, image="", mask=None, others=NOBODY, box=(0, 0, 0, 0), **more):
    uv = np.asarray(uv, np.float32)
    valid = np.ones(len(uv), bool) if valid is None else np.asarray(valid, bool)
    others, box = np.asarray(others, np.int32).reshape(-1, 4), np.asarray(box, np.float32)
    return Sample(name="a#0", image=str(image), mask=mask, uv=uv, valid=valid, others=others, box=box, **more)


def in_space(seed=0, skeleton=BODY, distortion=(0, 0, 0, 0, 0)):
    """Return a 3D sample whose uv is the projection of its xyz."""
    camera = Camera(np.array([[700.0, 0, 320], [0, 710, 240], [0, 0, 1]]), np.eye(3), np.zeros(3), np.asarray(distortion, np.float64))
    xyz = np.random.RandomState(seed).uniform((-50, -80, 250), (50, 80, 330), (len(skeleton.joints), 3))
    return sample(project_from_camera(xyz, camera), xyz=xyz.astype(np.float32), camera=camera, box=(200, 100, 150, 300))


def scattered(seed=0, joints=20, low=(100, 60), high=(400, 380)):
    return np.random.RandomState(seed).uniform(low, high, (joints, 2))


def write(path, pixels, *options):
    assert cv2.imwrite(str(path), pixels, *options)
    return str(path)


def noise(path, height=120, width=160, seed=0):
    return write(path, np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8))


def make(one, size=64, settings=None, skeleton=BODY, rng=None, **more):
    return crop.crop_sample(one, size=size, config=settings or Config(), skeleton=skeleton, rng=rng, **more)


def dotted(path, dots, height=480, width=640, sigma=3.0, options=()):
    """Write an image with a bright Gaussian dot at each of (n, 2) places; return its path."""
    across, down = (np.exp(-((np.arange(n) - np.asarray(dots)[:, i, None]) ** 2) / (2.0 * sigma**2)) for i, n in enumerate((width, height)))
    bright = (255 * np.minimum(down.T @ across, 1)).round().astype(np.uint8)
    return write(path, np.repeat(bright[..., None], 3, axis=2), options)


def spot(pixels, place, reach):
    """Return (2,) the centre of brightness of (S, S) pixels around a place."""
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    near = pixels * ((columns - place[0]) ** 2 + (rows - place[1]) ** 2 < reach**2)
    return np.array([(near * columns).sum(), (near * rows).sum()]) / near.sum()
