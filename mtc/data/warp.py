"""The pixels of a crop: scale, place, turn and mirror in one warp of the part of the image that the crop shows.

Image and mask are warped together as four channels, which costs OpenCV less than half of what three and one cost it apart.
"""

import cv2
import numpy as np

GREY = 128
"""What a crop shows outside the image; the mask is 0 there."""

MOST_SHRINKING = 64
"""A crop of a smaller scale shows hardly anything but the outside."""

_AROUND = 2
"""Pixels around the part that a crop shows that its interpolation may read."""


def shrinking(scale):
    """Return the largest power of 2 by which an image can be shrunk before a crop of this scale (pixels of the crop a pixel of the image)."""
    k = 1
    while scale * 2 * k <= 1 and k < MOST_SHRINKING:
        k *= 2
    return k


def cut(pixels, usable, to_image, out, outside=(GREY, GREY, GREY, 0), colour=None):
    """Write a crop: pixel (i, j) is the image at `to_image` (i, j, 1), interpolated linearly, `outside` where that is no pixel.

    pixels: (h, w, 3) uint8 BGR. usable: (h, w) uint8, or None: all count. to_image: (2, 3) float64. out: image (S, S, 3) RGB and mask (S, S), uint8.
    outside: RGB and mask. colour: (3, 4) matrix for RGB, applied to the image before, so that what is outside keeps its colour.
    """
    image, mask = out
    size = len(mask)
    x0, y0, x1, y1 = _shown(to_image, size, pixels.shape)
    part = pixels[y0:y1, x0:x1]
    if colour is not None:
        part = cv2.transform(part, colour[::-1, [2, 1, 0, 3]])  # the matrix for BGR
    part = cv2.cvtColor(part, cv2.COLOR_BGR2RGBA)
    if usable is not None:
        cv2.insertChannel(usable[y0:y1, x0:x1], part, 3)
    to_part = to_image - [[0, 0, x0], [0, 0, y0]]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(part, to_part, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=outside)
    cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=image)
    cv2.extractChannel(warped, 3, dst=mask)


def _shown(to_image, size, shape):
    """Return x0, y0, x1, y1 of the smallest part of the image, at least one pixel, that holds all that the crop's interpolation reads."""
    last = size - 1
    corners = to_image @ np.array([[0, last, 0, last], [0, 0, last, last], [1, 1, 1, 1]])
    extent = np.array([shape[1], shape[0]])
    start = np.clip(np.floor(corners.min(axis=1)) - _AROUND, 0, extent - 1).astype(int)
    end = np.clip(np.ceil(corners.max(axis=1)) + _AROUND + 1, start + 1, extent).astype(int)
    return start[0], start[1], end[0], end[1]
