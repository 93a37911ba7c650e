"""Image and mask files as arrays: decoded no larger than the crop needs, and never a damaged one.

An image can be shrunk by a power of 2 on the way, so that the warp that follows neither aliases nor reads pixels for nothing: pixel i is then the
mean of pixels k i … k i + k - 1, its centre lies at k i + (k - 1) / 2, and sizes round up. JPEGs are decoded at 1/2, 1/4 or 1/8 by a smaller inverse
transform of each block, which comes to such a mean and spares work; other formats are decoded whole and averaged.
"""

import threading
from typing import NamedTuple

import cv2
import numpy as np

from mtc.coco import pictures
from mtc.coco.masks import Region
from mtc.errors import UserError

_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


class Raster(NamedTuple):
    """A decoded file. Not to be written to: a cache may hold it."""

    pixels: np.ndarray
    """(ceil(height / k), ceil(width / k), 3) uint8 BGR for an image shrunk by k, (height, width) uint8 of 0 and 255 for a mask."""
    width: int
    height: int
    """Pixels of the file."""


class Cache:
    """Decoded files in memory. What is there stays: samples come in epochs, in which the file used longest ago is the next one to be needed again."""

    def __init__(self, megabytes):
        self._room, self._kept, self._lock = megabytes * 2**20, {}, threading.Lock()

    def get(self, key, make):
        """Return the `Raster` of a key, from memory or from `make()`. Threads may call this side by side."""
        raster = self._kept.get(key)
        if raster is None:
            raster = make()
            with self._lock:
                if key not in self._kept and raster.pixels.nbytes <= self._room:
                    self._room -= raster.pixels.nbytes
                    self._kept[key] = raster
        return raster


def read_image(path, shrink=1, cache=None):
    """Return the `Raster` of an image, shrunk by a power of 2, without the rotation that EXIF asks for: labels are in stored pixels.

    Errors: UserError names the file.
    """
    return _cached(cache, (path, shrink), lambda: _image(path, shrink))


def read_mask(mask, cache=None):
    """Return the `Raster` of a mask, a path or a `mtc.coco.masks.Region`: 255 where a file is not 0, in masks of 0 and 1 as of 0 and 255.

    Errors: UserError names the file.
    """
    if isinstance(mask, Region):
        return _cached(cache, mask[:2] + mask[-1:], lambda: _region(mask))
    return _cached(cache, mask, lambda: _mask(mask))


def shrink(pixels, k):
    """Return (ceil(h / k), ceil(w / k), …) uint8, the mean of each k x k square; squares at the edges are filled up by repeating the last pixel."""
    if k == 1:
        return pixels
    height, width = pixels.shape[:2]
    down, right = -height % k, -width % k
    if down or right:
        pixels = cv2.copyMakeBorder(pixels, 0, down, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(pixels, ((width + right) // k, (height + down) // k), interpolation=cv2.INTER_AREA)


def _cached(cache, key, make):
    return cache.get(key, make) if cache else make()


def _image(path, k):
    what, remedy = "image", "restore it (python -m tasks.fetch coco --force)"
    data = _read(path, what, remedy)
    frame = pictures.frame(data) if k > 1 and data[:2] == b"\xff\xd8" else None
    if frame is None:
        pixels = _decode(data, cv2.IMREAD_COLOR, path, what, remedy)
        height, width = pixels.shape[:2]
        return Raster(shrink(pixels, k), width, height)
    decoded = min(k, 8)
    pixels = _decode(data, _REDUCED[decoded], path, what, remedy)
    return Raster(shrink(pixels, k // decoded), frame.width, frame.height)


def _region(region):
    return Raster(region.pixels(), region.width, region.height)


def _mask(path):
    what, remedy = "mask", "delete it and run python -m tasks.preprocess"
    pixels = _decode(_read(path, what, remedy), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, path, what, remedy)
    return Raster(cv2.compare(pixels, 0, cv2.CMP_GT), pixels.shape[1], pixels.shape[0])


def _read(path, what, remedy):
    try:
        with open(path, "rb") as f:
            data = f.read()
    except OSError as error:
        raise UserError("{} {} cannot be read: {}; {}".format(what, path, error.strerror or error, remedy)) from None
    if not pictures.is_whole(data):
        raise UserError("{} {} is truncated after {} bytes: {}".format(what, path, len(data), remedy))
    return data


def _decode(data, flags, path, what, remedy):
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError("{} {} is no image that OpenCV can decode: {}".format(what, path, remedy))
    return pixels
