"""One person to train on, as a reader yields it: no pixels yet, no randomness yet.

Coordinates are pixels of the whole image, x right, y down, (0, 0) the centre of the top left pixel.
"""

from typing import NamedTuple, Optional, Union

import numpy as np

from mtc.coco.masks import Region


class Camera(NamedTuple):
    """A pinhole camera with OpenCV's distortion: X_cam = R X + t, see `mtc.geometry.project`."""

    K: np.ndarray
    """(3, 3) float64, pixels."""
    R: np.ndarray
    """(3, 3) float64."""
    t: np.ndarray
    """(3,) float64, in the units of the 3D joints."""
    distortion: np.ndarray
    """(5,) float64: k1, k2, p1, p2, k3."""


class Sample(NamedTuple):
    """One person (or hand) in one image."""

    name: str
    """Unique in its source, for logs and for the order tests: "000000000785.jpg#0"."""
    image: str
    """Path of the image file."""
    mask: Union[str, Region, None]
    """Path of a mask image (non-zero: use this pixel in the loss), or run lengths, or None: use all."""
    uv: np.ndarray
    """(J, 2) float32, pixels of the image, main joint order."""
    valid: np.ndarray
    """(J,) bool."""
    others: np.ndarray
    """(n, 4) int32 boxes x1, y1, x2, y2 (half-open) whose pixels do not count in the loss; n may be 0."""
    box: np.ndarray
    """(4,) float32 x, y, width, height of the person: the yardstick of PCK."""
    xyz: Optional[np.ndarray] = None
    """(J, 3) float32 in the camera's frame, or None where the person is labelled in 2D only."""
    camera: Optional[Camera] = None
    """Intrinsics and distortion for 3D samples (R, t already applied to `xyz`)."""
    mirror: bool = False
    """A right hand, which is trained as a left one in a mirrored crop."""
