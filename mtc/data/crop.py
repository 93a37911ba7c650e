"""From a `Sample` to what the network is trained on: a square crop around the person, with its mask and its labels.

A crop is a centre and a scale: local = (p - centre) * scale + size / 2, pixel (i, j) of the crop being the point (i, j). Its side is `zoom` times as
long as needed to hold all valid joints around the person's centre, jittered. With `compat.crop=exact` image and labels agree to a fraction of a pixel
and jitter never moves a joint out of a crop that could hold it; `legacy` is the reference's arithmetic. A result depends on the sample, the config
and `rng` alone; there is no global state, and decoding and warping run outside Python's lock, so threads may call this side by side.
"""

from typing import NamedTuple, Optional

import cv2
import numpy as np

from mtc import geometry
from mtc.errors import UserError

LEGACY_CANVAS = 640
"""The reference pads images with black, right and below, to a square of so many pixels (the longest side in COCO); a larger image is its canvas."""

TAIL = 4096
"""Bytes at the end of a JPEG in which its end mark must be: some cameras and tools append a few."""


class Crop(NamedTuple):
    """A square part of an image that becomes size x size pixels."""

    center: np.ndarray
    """(2,) float64, pixels of the image; comes to lie at (size / 2, size / 2)."""
    scale: float
    """Pixels of the crop a pixel of the image."""
    center3d: Optional[np.ndarray] = None
    """(3,) float64, camera frame: middle of the box in space that the crop shows; None for 2D samples."""
    scale3d: Optional[float] = None
    """Cells of the network's output (an eighth of the crop's pixels) a unit of length; None for 2D samples."""

    def local(self, points, size):
        """Return (n, 2) float64 pixels of the crop for (n, 2) pixels of the image."""
        return (np.asarray(points, np.float64) - self.center) * self.scale + size / 2.0


class Example(NamedTuple):
    """One person, ready for the network."""

    name: str
    image: np.ndarray
    """(S, S, 3) float32, RGB / 255 - 0.5; 0.0 (mid grey) outside the image."""
    mask: np.ndarray
    """(S, S) float32 in [0, 1]: how much a pixel counts in the loss; 0 outside the image."""
    uv: np.ndarray
    """(J, 2) float32, pixels of the crop; joints may lie outside it."""
    xyz: np.ndarray
    """(J, 3) float32, camera frame, in the sample's unit; for a 2D sample x and y of the crop, and 0."""
    valid: np.ndarray
    """(J,) bool."""
    is_3d: bool
    yardstick: np.float32
    """Longer side of the person's box in pixels of the crop: what PCK measures with."""


def crop_sample(sample, *, size, config, skeleton, rng):
    """Return the `Example` of a sample.

    size: S, side of the crop in pixels. rng: numpy RandomState that the jitter is drawn from, or None for none.
    Errors: UserError names an image or mask that is missing, truncated or does not fit.
    """
    assert len(sample.uv) == len(sample.valid) == len(skeleton.joints), sample.name
    find = crop_2d if sample.xyz is None else crop_3d
    crop = find(sample, size=size, config=config, skeleton=skeleton, rng=rng)
    image = read_image(sample.image)
    usable = _usable(sample, image)
    cut = _cut_legacy if config.compat.crop == "legacy" else _cut_exact
    pixels, mask = cut(image, usable, crop.center, crop.scale, size)
    uv = crop.local(sample.uv, size)
    if sample.mirror:
        pixels, mask = pixels[:, ::-1], mask[:, ::-1]
        uv[:, 0] = size - 1 - uv[:, 0]
    if sample.xyz is None:
        xyz = np.concatenate([uv, np.zeros_like(uv[:, :1])], axis=1)
    else:
        xyz = np.asarray(sample.xyz, np.float64) * ([-1, 1, 1] if sample.mirror else [1, 1, 1])
    return Example(
        name=sample.name,
        image=np.ascontiguousarray(pixels, np.float32),
        mask=np.ascontiguousarray(mask, np.float32),
        uv=uv.astype(np.float32),
        xyz=xyz.astype(np.float32),
        valid=np.array(sample.valid, bool),
        is_3d=sample.xyz is not None,
        yardstick=np.float32(max(sample.box[2:]) * crop.scale),
    )


def crop_2d(sample, *, size, config, skeleton, rng):
    """Return the `Crop` of a sample by its joints in the image.

    Where the valid joints span nothing (one joint, or none), the crop is laid around the person's box instead.
    """
    zoom, legacy = config.data.zoom_2d, config.compat.crop == "legacy"
    points = np.asarray(sample.uv, np.float64)[sample.valid]
    center, fit = geometry.center_and_fit(sample.uv, sample.valid, skeleton.centre_joints)
    if not fit > 0:
        center, fit = np.asarray(sample.box[:2], np.float64) + np.asarray(sample.box[2:], np.float64) / 2, _half_box(sample)
    stretch, offset = jitter(rng, config.data.crop_scale_sigma, config.data.crop_offset_sigma)
    side = 2 * fit * zoom * stretch
    offset = fit * offset
    if legacy and len(points):
        offset = geometry.legacy_clamp_2d(offset, center, side, points)
    center = center + offset
    if not legacy:
        center = geometry.keep_inside(center, size / side, points, size)
    return Crop(center, size / side)


def crop_3d(sample, *, size, config, skeleton, rng):
    """Return the `Crop` of a sample by its joints in space: the projection of a square that faces the camera in the depth of the person's centre.

    The square is never smaller than the person. Where the valid joints span nothing (one joint), its size is that of the person's box at their depth.
    """
    zoom, legacy = config.data.zoom_3d, config.compat.crop == "legacy"
    points = np.asarray(sample.xyz, np.float64)[sample.valid]
    center, fit = geometry.center_and_fit(sample.xyz, sample.valid, skeleton.centre_joints)
    if center is None or not center[2] > 0:
        raise UserError("sample {} ({}): no valid joint in front of the camera: correct or remove its labels".format(sample.name, sample.image))
    if not fit > 0:
        fit = _half_box(sample) * center[2] / max(sample.camera.K[0, 0], sample.camera.K[1, 1])
    stretch, offset = jitter(rng, config.data.crop_scale_sigma, config.data.crop_offset_sigma)
    side = 2 * fit * zoom * max(stretch, 1 / zoom)
    offset = fit * np.append(offset, 0.0)
    if legacy:
        offset = geometry.legacy_clamp_3d(offset, center, side, points)
    center = center + offset
    corners = center + side / 2 * np.array([[-1, -1, 0], [1, 1, 0]])
    corners = geometry.project_from_camera(corners, sample.camera, config.compat.distortion)
    scale = size / np.ptp(corners, axis=0).max()
    center2d = corners.mean(axis=0)
    if not legacy:
        center2d = geometry.keep_inside(center2d, scale, np.asarray(sample.uv, np.float64)[sample.valid], size)
    return Crop(center2d, scale, center, size / 8 / side)


def jitter(rng, scale_sigma, offset_sigma):
    """Draw (stretch of the side: float, offset of the centre: (2,) float64 in half sizes of the person).

    Normals of these standard deviations, drawn again outside two of them; the stretch is the exponential of one. rng None, or sigmas of 0: (1, 0).
    """
    if rng is None:
        return 1.0, np.zeros(2)
    normals = []
    while len(normals) < 3:
        normal = rng.standard_normal()
        if abs(normal) <= 2:
            normals.append(normal)
    return float(np.exp(scale_sigma * normals[0])), offset_sigma * np.array(normals[1:])


def read_image(path):
    """Return an image file as (height, width, 3) uint8 BGR, without the rotation that EXIF asks for: labels are in stored pixels.

    Errors: UserError names the file.
    """
    return _read(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, "image", "restore it (python -m tasks.fetch coco --force)")


def read_mask(path):
    """Return a mask file as (height, width) bool: non-zero pixels, in masks of 0 and 255 as of 0 and 1. Errors: UserError names the file."""
    return _read(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, "mask", "delete it and run python -m tasks.preprocess") > 0


def _half_box(sample):
    half = float(max(sample.box[2:])) / 2
    if not half > 0:
        raise UserError("sample {} ({}): neither its valid joints nor its box have an extent: correct its labels".format(sample.name, sample.image))
    return half


def _usable(sample, image):
    """Return the (height, width) bool mask of the pixels of the image that count in the loss."""
    height, width = image.shape[:2]
    if sample.mask is None:
        usable = np.ones((height, width), bool)
    else:
        usable = read_mask(sample.mask)
        if usable.shape != (height, width):
            raise UserError(
                "mask {} has {} x {} pixels, its image {} has {} x {}: delete the mask and run python -m tasks.preprocess".format(
                    sample.mask, usable.shape[1], usable.shape[0], sample.image, width, height
                )
            )
    for x1, y1, x2, y2 in np.clip(sample.others, 0, [width, height, width, height]):
        usable[y1:y2, x1:x2] = False
    return usable


def _cut_exact(image, usable, center, scale, size):
    """Return crop pixels (S, S, 3) and mask (S, S), float32: pixel (i, j) is the image at centre + ((i, j) - S / 2) / scale, interpolated linearly.

    Only the part of the image that the crop shows (and 2 pixels around for the interpolation) is converted.
    """
    height, width = usable.shape
    start = center - size / 2.0 / scale
    end = start + size / scale
    x0, y0 = np.clip(np.floor(start) - 2, 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(np.ceil(end) + 3, [x0 + 1, y0 + 1], [width, height]).astype(int)
    to_image = np.array([[1 / scale, 0, start[0] - x0], [0, 1 / scale, start[1] - y0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pixels = cv2.warpAffine(_normalise(image[y0:y1, x0:x1]), to_image, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    weights = usable[y0:y1, x0:x1].astype(np.float32)
    return pixels, cv2.warpAffine(weights, to_image, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def _cut_legacy(image, usable, center, scale, size):
    """As `_cut_exact`, with the image positions that the reference samples; beyond its canvas, not the image, is mid grey."""
    height, width = usable.shape
    canvas = np.zeros((max(height, LEGACY_CANVAS), max(width, LEGACY_CANVAS), 4), np.uint8)
    canvas[:height, :width, :3] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    canvas[:height, :width, 3] = usable
    rows = geometry.legacy_positions(center[1], scale, size, canvas.shape[0])
    columns = geometry.legacy_positions(center[0], scale, size, canvas.shape[1])
    sampled = _interpolate(_interpolate(canvas, rows).transpose(1, 0, 2), columns).transpose(1, 0, 2)
    outside = ((rows < 0) | (rows > canvas.shape[0] - 1))[:, None] | ((columns < 0) | (columns > canvas.shape[1] - 1))
    sampled[..., :3] = sampled[..., :3] / np.float32(255) - np.float32(0.5)
    sampled[outside] = 0
    return sampled[..., :3], sampled[..., 3]


def _interpolate(array, positions):
    """Return (len(positions), …) float32: linear between the rows of an array."""
    below = np.clip(np.floor(positions), 0, len(array) - 1).astype(int)
    above = np.minimum(below + 1, len(array) - 1)
    part = np.clip(positions - below, 0, 1).astype(np.float32)[:, None, None]
    return array[below] * (1 - part) + array[above] * part


def _normalise(image):
    """Return (h, w, 3) float32 RGB / 255 - 0.5 of uint8 BGR."""
    pixels = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.float32)
    pixels *= np.float32(1 / 255)
    pixels -= np.float32(0.5)
    return pixels


def _read(path, flags, what, remedy):
    try:
        with open(path, "rb") as f:
            data = f.read()
    except OSError as error:
        raise UserError("{} {} cannot be read: {}; {}".format(what, path, error.strerror or error, remedy)) from None
    if not _is_whole(data):
        raise UserError("{} {} is truncated after {} bytes: {}".format(what, path, len(data), remedy))
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError("{} {} is no image that OpenCV can decode: {}".format(what, path, remedy))
    return pixels


def _is_whole(data):
    """Whether the bytes of a JPEG or PNG reach to its end mark; True for other formats."""
    if data[:2] == b"\xff\xd8":
        return b"\xff\xd9" in data[-TAIL:]
    if data[:4] == b"\x89PNG":
        return b"IEND" in data[-64:]
    return bool(data)
