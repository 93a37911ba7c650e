"""Cameras, and the boxes that crops are laid in. Pure arithmetic, no pixels.

Pinhole cameras with OpenCV's lens distortion (radial k1, k2, k3; tangential p1, p2; Brown 1966, OpenCV's calib3d documentation): the camera looks
along +z, x points right and y down. What is named legacy is the reference's arithmetic, for comparison with it: x²y² instead of xy in the tangential
term, an offset clamp whose signs are mirrored, and TensorFlow's crop_and_resize of a box that was divided by W instead of W - 1 (0.4 to 0.8 pixels
away from the labels).
"""

import math

import numpy as np


def project(points, camera, distortion="exact"):
    """Project points of the world.

    points: (n, 3) in the units of `camera.t`. Returns (n, 2) float64, pixels of the image.
    """
    points = np.asarray(points, np.float64)
    return project_from_camera(points @ np.asarray(camera.R, np.float64).T + np.asarray(camera.t, np.float64), camera, distortion)


def project_from_camera(points, camera, distortion="exact"):
    """Project points that are in the camera's frame already: R and t are not used.

    points: (n, 3), any unit, z above 0 (a point at or behind the camera has no image; what it gives means nothing). Returns (n, 2) float64, pixels.
    """
    assert distortion in ("exact", "legacy"), distortion
    points = np.asarray(points, np.float64)
    K = np.asarray(camera.K, np.float64)
    k1, k2, p1, p2, k3 = np.asarray(camera.distortion, np.float64)
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    xy = x * y if distortion == "exact" else x * x * y * y
    distorted = np.stack([x * radial + 2 * p1 * xy + p2 * (r2 + 2 * x * x), y * radial + 2 * p2 * xy + p1 * (r2 + 2 * y * y)], axis=1)
    return distorted @ K[:2, :2].T + K[:2, 2]


def center_and_fit(points, valid, centre_joints):
    """Return the centre of a person and how far it reaches.

    points: (J, d); valid: (J,) bool. Returns ((d,) float64, float): the mean of `centre_joints` where all of them are valid, else the middle of the
    valid joints' box; and the largest distance of a valid joint from it along an axis. (None, 0.0) where no joint is valid.
    """
    points, valid, joints = np.asarray(points, np.float64), np.asarray(valid, bool), list(centre_joints)
    if not valid.any():
        return None, 0.0
    low, high = points[valid].min(axis=0), points[valid].max(axis=0)
    center = points[joints].mean(axis=0) if valid[joints].all() else (low + high) / 2
    return center, float(np.maximum(high - center, center - low).max())


def rotation(degrees):
    """Return the (2, 2) float64 matrix that turns columns (x right, y down) counter-clockwise as seen."""
    angle = math.radians(degrees)
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def keep_inside(center, scale, points, size, turn=0.0):
    """Return the crop centre (2,) nearest to `center` with all points (n, 2) at 1 … size - 2, where a joint gets its heat-map.

    Where the crop is too small for that, their middle. center, points: pixels of the image; turn: degrees that the crop's content is turned by.
    """
    if not len(points):
        return center
    matrix = rotation(turn)
    center, points = matrix @ center, points @ matrix.T
    least = points.max(axis=0) - (size / 2.0 - 2) / scale
    most = points.min(axis=0) + (size / 2.0 - 1) / scale
    return np.where(least <= most, np.clip(center, least, most), (least + most) / 2) @ matrix


def scale_to_turn(scale, points, size, turn):
    """Return the largest scale up to `scale` at which points (n, 2) that fit into the crop also fit turned; `scale` where they do not fit at all."""
    room = size - 3.001  # 1 … size - 2, less what rounding takes
    if not turn or not len(points) or not (np.ptp(points, axis=0) * scale <= room).all():
        return scale
    extent = np.ptp(points @ rotation(turn).T, axis=0).max()
    return scale if extent * scale <= room else room / extent


def legacy_clamp_2d(offset, center, side, points):
    """Return the offset (2,) of a crop's centre that the reference allows; all in pixels of the image."""
    offset = np.maximum(offset, center - side / 2 - points.min(axis=0) + 1)
    return np.minimum(offset, center + side / 2 - points.max(axis=0) - 1)


def legacy_clamp_3d(offset, center, side, points):
    """Return the offset (3,) of a box's centre with which it holds all points; all in the points' unit."""
    offset = np.maximum(offset, points.max(axis=0) + 1e-5 - side / 2 - center)
    return np.minimum(offset, points.min(axis=0) - 1e-5 + side / 2 - center)


def legacy_positions(center, scale, size, extent):
    """Return the (size,) float64 positions along an axis of `extent` pixels that the reference samples for a crop with this centre."""
    side = size / scale
    start = center - math.floor(side / 2)
    return (start + np.arange(size) * side / (size - 1)) * (extent - 1) / extent
