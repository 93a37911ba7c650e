"""From a network's maps to joints and limb directions, in numpy alone.

The loss compares maps enlarged to the size of the crop, where cell k lies at pixel 8k (`mtc.upsample`); joints are read off in the same geometry: the
highest pixel of A p Aᵀ, with A bicubic for hands too, though their loss enlarges linearly: a linear enlargement can only peak at a cell. A limb's
direction is the mean of its part orientation field along the line between its joints (source of both: the reference's inference; 11 points,
coordinates truncated to whole pixels).
"""

import numpy as np

from mtc import upsample

LIMB_POINTS = 11
"""Points of a limb at which its field is read."""

_STEEPEST = 0.25
"""Least length in the image of a limb's unit direction when a limb is lifted: a limb that points at the camera has no length to go by."""


def keypoints(heat):
    """Return joints (B, J, 2) float32, pixels of the crop, x right, y down, and scores (B, J) float32, the height of each peak.

    heat: (B, n, n, J + 1) float32, the background last (it is not read).
    Answers are whole pixels, as the targets' peaks are. A map with a value that is no number has the score NaN.
    """
    batch, cells, joints = heat.shape[0], heat.shape[1], heat.shape[3] - 1
    a = upsample.matrix(cells)
    size = len(a)
    uv = np.empty((batch, joints, 2), np.float32)
    scores = np.empty((batch, joints), np.float32)
    for i in range(batch):  # one sample's enlarged maps at a time: 11 MB at 368 pixels
        maps = np.ascontiguousarray(heat[i, :, :, :joints].transpose(2, 0, 1))
        enlarged = np.matmul(np.matmul(a, maps), a.T).reshape(joints, size * size)
        highest = enlarged.argmax(axis=1)
        scores[i] = enlarged[np.arange(joints), highest]
        uv[i, :, 0], uv[i, :, 1] = highest % size, highest // size
    return uv, scores


def limb_fields(pof, uv, limbs):
    """Return (B, L, 3) float32: each limb's field, bicubically enlarged, averaged along its line. A limb with an end outside the crop reads its edge.

    pof: (B, n, n, 3 L) float32; uv: (B, J, 2) float32, pixels of the crop; limbs: [(from, to)].
    """
    batch, cells = pof.shape[0], pof.shape[1]
    a = upsample.matrix(cells)
    start, end = np.asarray(limbs).T
    along = np.linspace(0, 1, LIMB_POINTS)[:, None]
    answer = np.empty((batch, len(limbs), 3), np.float32)
    for i in range(batch):
        points = uv[i, start, None] + (uv[i, end, None] - uv[i, start, None]) * along  # (L, 11, 2)
        points = np.clip(np.nan_to_num(points), 0, len(a) - 1).astype(np.int64)
        # one pixel of A p Aᵀ is a row of A, the map, and a row of A again: only the points that are read are enlarged
        fields = pof[i].reshape(cells, cells, len(limbs), 3).transpose(2, 0, 1, 3).reshape(len(limbs), cells, cells * 3)
        rows = np.matmul(a[points[..., 1]], fields).reshape(len(limbs), LIMB_POINTS, cells, 3)
        answer[i] = (rows * a[points[..., 0]][..., None]).sum(axis=2).mean(axis=1)
    return answer


def lift(uv, fields, limbs):
    """Return joints in space (B, J, 3) float32, pixels, x right, y down, z away from the camera, the root's z 0; joints that no limb reaches: NaN.

    uv: (B, J, 2) float32, pixels; fields: (B, L, 3) float32, directions of the limbs (`limb_fields`). Weak perspective: a limb that runs l pixels
    in the image along the direction (x, y, z) ends l z / |(x, y)| farther away than it begins. limbs: [(from, to)], the root's first; of several
    limbs to a joint the first counts.
    """
    depth = np.full(uv.shape[:2], np.nan, np.float32)
    depth[:, limbs[0][0]] = 0.0
    reached = {limbs[0][0]}
    for k, (start, end) in enumerate(limbs):
        if end in reached or start not in reached:
            continue
        reached.add(end)
        norm = np.maximum(np.linalg.norm(fields[:, k], axis=-1, keepdims=True), 1e-6)
        direction = fields[:, k] / norm
        length = np.linalg.norm(uv[:, end] - uv[:, start], axis=-1)
        depth[:, end] = depth[:, start] + length * direction[:, 2] / np.maximum(np.linalg.norm(direction[:, :2], axis=-1), _STEEPEST)
    return np.concatenate([uv, depth[..., None]], axis=-1).astype(np.float32)
