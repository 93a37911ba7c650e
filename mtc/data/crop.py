"""From a `Sample` to what the network is trained on: a square crop around the person, with its mask and its labels.

A crop is a centre, a scale, a turn and perhaps a mirror; its side is `zoom` times as long as needed to hold all valid joints around the person's
centre, varied by chance. With `compat.crop=exact` image and labels agree to a fraction of a pixel, and chance never moves a joint out of a crop that
could hold it; `legacy` is the reference's arithmetic. A result depends on the sample, the config and `rng` alone; there is no global state, and the
work on pixels is done outside Python's lock, so threads may call this side by side.
"""

from typing import NamedTuple, Optional

import numpy as np

from mtc import geometry
from mtc.data import augment, image_files, warp
from mtc.errors import UserError

LEGACY_CANVAS = 640
"""The reference pads images with black, right and below, to a square of so many pixels (the longest side in COCO); a larger image is its canvas."""


class Crop(NamedTuple):
    """A square part of an image that becomes size x size pixels, pixel (i, j) of the crop being the point (i, j)."""

    center: np.ndarray
    """(2,) float64, pixels of the image; comes to lie at (size / 2, size / 2), before the mirror."""
    scale: float
    """Pixels of the crop a pixel of the image."""
    center3d: Optional[np.ndarray] = None
    """(3,) float64, camera frame: middle of the box in space that the crop shows; None for 2D samples."""
    scale3d: Optional[float] = None
    """Cells of the network's output (an eighth of the crop's pixels) a unit of length; None for 2D samples."""
    turn: float = 0.0
    """Degrees that the content is turned by around the centre, counter-clockwise."""
    mirror: bool = False
    """Columns of the crop in reverse, after all else."""

    def local(self, points, size):
        """Return (n, 2) float64 pixels of the crop for (n, 2) pixels of the image."""
        places = (np.asarray(points, np.float64) - self.center) @ geometry.rotation(self.turn).T * self.scale + size / 2.0
        if self.mirror:
            places[:, 0] = size - 1 - places[:, 0]
        return places

    def to_image(self, size):
        """Return the (2, 3) float64 matrix that takes (i, j, 1) of the crop to pixels of the image: the inverse of `local`."""
        linear = geometry.rotation(-self.turn) / self.scale
        return _mirrored(np.hstack([linear, (self.center - linear @ [size / 2.0, size / 2.0])[:, None]]), self.mirror, size)


class Example(NamedTuple):
    """One person, ready for the network."""

    name: str
    image: np.ndarray
    """(S, S, 3) uint8 RGB; 128 (mid grey) outside the image."""
    mask: np.ndarray
    """(S, S) uint8: how much a pixel counts in the loss, 255 for 1; 0 outside the image."""
    uv: np.ndarray
    """(J, 2) float32, pixels of the crop; joints may lie outside it."""
    xyz: np.ndarray
    """(J, 3) float32, camera frame, in the sample's unit; for a 2D sample x and y of the crop, and 0."""
    valid: np.ndarray
    """(J,) bool."""
    is_3d: bool
    yardstick: np.float32
    """Longer side of the person's box in pixels of the crop: what PCK measures with."""


def crop_sample(sample, *, size, config, skeleton, rng, out=None, cache=None):
    """Return the `Example` of a sample.

    size: S, side of the crop in pixels. rng: numpy RandomState that all that is random is drawn from, or None for nothing random.
    out: arrays (image (S, S, 3), mask (S, S)), uint8, to write into. cache: `mtc.data.image_files.Cache` or None.
    Errors: UserError names an image or mask that is missing, truncated or does not fit.
    """
    drawn = augment.draw(rng, config)
    crop, labels = label_sample(sample, size=size, config=config, skeleton=skeleton, drawn=drawn)
    image, mask = out or (np.empty((size, size, 3), np.uint8), np.empty((size, size), np.uint8))
    cut = _cut_legacy if config.compat.crop == "legacy" else _cut_exact
    cut(sample, crop, drawn, cache, (image, mask))
    augment.spoil(image, drawn)
    return labels._replace(image=image, mask=mask)


def label_sample(sample, *, size, config, skeleton, drawn=augment.NOTHING):
    """Return the `Crop` of a sample and its `Example` without pixels (image and mask are None): no file is read."""
    assert len(sample.uv) == len(sample.valid) == len(skeleton.joints), sample.name
    find = crop_2d if sample.xyz is None else crop_3d
    crop = find(sample, size=size, config=config, skeleton=skeleton, drawn=drawn)
    crop = crop._replace(mirror=bool(sample.mirror) != drawn.flip)
    uv, valid = crop.local(sample.uv, size), np.array(sample.valid, bool)
    if sample.xyz is None:
        xyz = np.concatenate([uv, np.zeros_like(uv[:, :1])], axis=1)
    else:
        # Around the camera's axis, where the image turns around the crop's centre: the reference's approximation, exact on the axis.
        xyz = np.asarray(sample.xyz, np.float64).copy()
        xyz[:, :2] = xyz[:, :2] @ geometry.rotation(crop.turn).T * ([-1, 1] if crop.mirror else [1, 1])
    if drawn.flip:
        order = np.arange(len(valid))
        for left, right in skeleton.swap:
            order[[left, right]] = right, left
        uv, xyz, valid = uv[order], xyz[order], valid[order]
    return crop, Example(
        name=sample.name,
        image=None,
        mask=None,
        uv=uv.astype(np.float32),
        xyz=xyz.astype(np.float32),
        valid=valid,
        is_3d=sample.xyz is not None,
        yardstick=np.float32(max(sample.box[2:]) * crop.scale),
    )


def crop_2d(sample, *, size, config, skeleton, drawn=augment.NOTHING):
    """Return the `Crop` of a sample by its joints in the image, not mirrored.

    Where the valid joints span nothing (one joint, or none), the crop is laid around the person's box instead.
    """
    zoom, legacy = config.data.zoom_2d, config.compat.crop == "legacy"
    points = np.asarray(sample.uv, np.float64)[sample.valid]
    center, fit = geometry.center_and_fit(sample.uv, sample.valid, skeleton.centre_joints)
    if not fit > 0:
        center, fit = np.asarray(sample.box[:2], np.float64) + np.asarray(sample.box[2:], np.float64) / 2, _half_box(sample)
    side = 2 * fit * zoom * drawn.stretch
    offset = fit * np.asarray(drawn.offset)
    if legacy:
        return Crop(center + (geometry.legacy_clamp_2d(offset, center, side, points) if len(points) else offset), size / side)
    scale = geometry.scale_to_turn(size / side, points, size, drawn.turn)
    return Crop(geometry.keep_inside(center + offset, scale, points, size, drawn.turn), scale, turn=drawn.turn)


def crop_3d(sample, *, size, config, skeleton, drawn=augment.NOTHING):
    """Return the `Crop` of a sample by its joints in space, not mirrored: the projection of a square that faces the camera at the person's depth.

    The square is never smaller than the person. Where the valid joints span nothing (one joint), its size is that of the person's box at their depth.
    """
    zoom, legacy = config.data.zoom_3d, config.compat.crop == "legacy"
    points = np.asarray(sample.xyz, np.float64)[sample.valid]
    center, fit = geometry.center_and_fit(sample.xyz, sample.valid, skeleton.centre_joints)
    if center is None or not center[2] > 0:
        raise UserError("sample {} ({}): no valid joint in front of the camera: correct or remove its labels".format(sample.name, sample.image))
    if not fit > 0:
        fit = _half_box(sample) * center[2] / max(sample.camera.K[0, 0], sample.camera.K[1, 1])
    side = 2 * fit * zoom * max(drawn.stretch, 1 / zoom)
    offset = fit * np.append(drawn.offset, 0.0)
    if legacy:
        offset = geometry.legacy_clamp_3d(offset, center, side, points)
    center = center + offset
    corners = center + side / 2 * np.array([[-1, -1, 0], [1, 1, 0]])
    corners = geometry.project_from_camera(corners, sample.camera, config.compat.distortion)
    scale = size / np.ptp(corners, axis=0).max()
    center2d = corners.mean(axis=0)
    if legacy:
        return Crop(center2d, scale, center, size / 8 / side)
    points = np.asarray(sample.uv, np.float64)[sample.valid]
    smaller = geometry.scale_to_turn(scale, points, size, drawn.turn)
    center2d = geometry.keep_inside(center2d, smaller, points, size, drawn.turn)
    return Crop(center2d, smaller, center, size / 8 / side * smaller / scale, drawn.turn)


def _half_box(sample):
    half = float(max(sample.box[2:])) / 2
    if not half > 0:
        raise UserError("sample {} ({}): neither its valid joints nor its box have an extent: correct its labels".format(sample.name, sample.image))
    return half


def _cut_exact(sample, crop, drawn, cache, out):
    """Write the crop's pixels into `out`, (image, mask): pixel (i, j) is the image at the point that `Crop.local` puts there."""
    k = warp.shrinking(crop.scale)
    image = image_files.read_image(sample.image, k, cache)
    usable = _usable(sample, image, cache)
    if usable is not None and k > 1:
        height, width = usable.shape
        usable = np.pad(usable, ((0, -height % k), (0, -width % k)), "constant")  # what is beyond the edge does not count
        usable = image_files.shrink(usable, k)
    to_image = crop.to_image(len(out[1]))
    to_image[:, 2] -= (k - 1) / 2.0  # shrunk pixel i is the mean of pixels k i … k i + k - 1
    warp.cut(image.pixels, usable, to_image / k, out, colour=drawn.colour)


def _cut_legacy(sample, crop, drawn, cache, out):
    """As `_cut_exact`, with the image positions that the reference samples; black beyond the image, and mid grey beyond its canvas alone."""
    image = image_files.read_image(sample.image, 1, cache)
    size = len(out[1])
    canvas_x, canvas_y = (max(extent, LEGACY_CANVAS) for extent in (image.width, image.height))
    columns = geometry.legacy_positions(crop.center[0], crop.scale, size, canvas_x)
    rows = geometry.legacy_positions(crop.center[1], crop.scale, size, canvas_y)
    to_image = np.zeros((2, 3))
    to_image[:, 2] = columns[0], rows[0]
    to_image[[0, 1], [0, 1]] = np.array([columns[-1] - columns[0], rows[-1] - rows[0]]) / (size - 1)
    usable = _usable(sample, image, cache)
    warp.cut(image.pixels, usable, _mirrored(to_image, crop.mirror, size), out, outside=(0, 0, 0, 0), colour=drawn.colour)
    rows = (rows < 0) | (rows > canvas_y - 1)
    columns = ((columns < 0) | (columns > canvas_x - 1))[:: -1 if crop.mirror else 1]
    for pixels, outside in zip(out, (warp.GREY, 0)):
        pixels[rows] = outside
        pixels[:, columns] = outside


def _usable(sample, image, cache):
    """Return the (height, width) uint8 mask of 0 and 255 of the pixels of the image that count in the loss, or None: all count."""
    usable, shape = None, (image.height, image.width)
    if sample.mask is not None:
        mask = image_files.read_mask(sample.mask, cache)
        if mask.pixels.shape != shape:
            raise UserError(
                "mask {} has {} x {} pixels, its image {} has {} x {}: delete the mask and run python -m tasks.preprocess".format(
                    sample.mask, mask.width, mask.height, sample.image, image.width, image.height
                )
            )
        usable = mask.pixels
    if len(sample.others):
        usable = np.full(shape, 255, np.uint8) if usable is None else usable.copy()
        for x1, y1, x2, y2 in np.clip(sample.others, 0, [image.width, image.height] * 2):
            usable[y1:y2, x1:x2] = 0
    return usable


def _mirrored(to_image, mirror, size):
    """Return the matrix for pixels whose columns are counted from the right."""
    return to_image @ np.array([[-1.0, 0, size - 1], [0, 1, 0], [0, 0, 1]]) if mirror else to_image
