"""What the network should answer: heat-maps and part orientation fields of one person, as functions of its joints, made on the device.

Here are the definitions, and every map at the full resolution of the crop straight from them. The training loss needs no such maps: it reads `peaks`
and `limb_shapes` (`mtc.losses.low_resolution`). Source: facts of the reference (heat-maps, createPAF); arXiv 1812.01598, section 4. Coordinates are
pixels of the crop, x right, y down; fields are in the camera's frame, z away from the camera.
"""

from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf


class Peaks(NamedTuple):
    """Heat-maps as products: H[b, y, x, j] = rows[b, y, j] * columns[b, x, j]."""

    rows: tf.Tensor
    """(B, S, J) float32; 0 where the joint has no peak."""
    columns: tf.Tensor
    """(B, S, J) float32."""


class LimbShapes(NamedTuple):
    """Where limbs lie and where they point."""

    start: tf.Tensor
    """(B, L, 2) float32, pixels of the crop."""
    unit: tf.Tensor
    """(B, L, 2) float32: direction in the crop, length 1, or 0 where the ends coincide."""
    low: tf.Tensor
    """(B, L, 2) float32: the corner of the limb's box nearest to the origin."""
    high: tf.Tensor
    """(B, L, 2) float32."""
    exists: tf.Tensor
    """(B, L) bool: both joints are valid and apart."""
    both_valid: tf.Tensor
    """(B, L) float32: 1 where both joints are valid."""
    direction: tf.Tensor
    """(B, L, 3) float32: what the field says on the limb's pixels; of length 1."""


def peaks(uv, valid, size, sigma):
    """Return the `Peaks` of joints: Gaussians of height 1 at each valid joint inside the frame.

    uv: (B, J, 2) float32; valid: (B, J) bool. A peak sits on the truncated coordinate; the outermost pixels count as outside.
    """
    xy = tf.cast(tf.cast(uv, tf.int32), tf.float32)  # toward zero, as the reference does
    inside = tf.reduce_all((xy > 0) & (xy < size - 1), axis=-1)
    grid = tf.constant(np.arange(size, dtype=np.float32)[None, :, None])
    columns, rows = (tf.exp(-tf.square(grid - xy[:, None, :, axis]) / (2.0 * sigma * sigma)) for axis in (0, 1))
    return Peaks(rows * tf.cast(valid & inside, tf.float32)[:, None, :], columns)


def background(total):
    """Return the background's heat-map of the sum of all joints' heat-maps."""
    return tf.clip_by_value(1.0 - total, 0.0, 1.0)


def heatmaps(uv, valid, size, sigma):
    """Return (B, size, size, J + 1) float32: the joints' heat-maps and the background last. Arguments as of `peaks`."""
    rows, columns = peaks(uv, valid, size, sigma)
    maps = rows[:, :, None, :] * columns[:, None, :, :]
    return tf.concat([maps, background(tf.reduce_sum(maps, axis=-1, keepdims=True))], axis=-1)


def limb_shapes(uv, xyz, valid, limbs, limb_width):
    """Return the `LimbShapes` of joints.

    uv: (B, J, 2) float32; xyz: (B, J, 3) float32 in the camera's frame, or (x, y, 0) where only 2D is known; valid: (B, J) bool; limbs: [(from, to)].
    """
    (a, b), (xyz_a, xyz_b), (valid_a, valid_b) = (_ends(values, limbs) for values in (uv, xyz, tf.cast(valid, tf.float32)))
    length = tf.sqrt(tf.reduce_sum(tf.square(b - a), axis=-1, keepdims=True))
    direction = xyz_b - xyz_a
    both_valid = valid_a * valid_b
    return LimbShapes(
        start=a,
        unit=tf.math.divide_no_nan(b - a, length),
        low=tf.minimum(a, b) - limb_width,
        high=tf.maximum(a, b) + limb_width,
        exists=(both_valid > 0) & (length[..., 0] > 0),
        both_valid=both_valid,
        direction=tf.math.divide_no_nan(direction, tf.sqrt(tf.reduce_sum(tf.square(direction), axis=-1, keepdims=True))),
    )


def on_limb(shapes, x, y, limb_width):
    """Return whether pixels belong to limbs: nearer to the line than `limb_width`, and inside the box of its ends grown by `limb_width`.

    x, y: float32 tensors of pixels that broadcast with (B, L) once that has as many axes behind; both are given as functions' results would be, e.g.
    (1, 1, 1, S) and (1, 1, S, 1). Returns a bool tensor of their common shape.
    """

    def of_limb(values):
        return tf.reshape(values, values.shape.as_list() + [1] * (len(x.shape) - 2))

    # The distance to the line is |row term - column term|; what is outside the box or no limb at all is put infinitely far away, term by term, so
    # that only three operations go over all pixels.
    far = 1e9
    inside_y = (y >= of_limb(shapes.low[..., 1])) & (y <= of_limb(shapes.high[..., 1])) & of_limb(shapes.exists)
    inside_x = (x >= of_limb(shapes.low[..., 0])) & (x <= of_limb(shapes.high[..., 0]))
    row_term = (y - of_limb(shapes.start[..., 1])) * of_limb(shapes.unit[..., 0])
    column_term = (x - of_limb(shapes.start[..., 0])) * of_limb(shapes.unit[..., 1])
    row_term = tf.where_v2(inside_y, row_term, far)
    column_term = tf.where_v2(inside_x, column_term, -far)
    return tf.abs(row_term - column_term) < limb_width


def orientation_fields(uv, xyz, valid, limbs, size, limb_width):
    """Return (B, size, size, 3 L) float32: on each limb's pixels its unit direction, 0 elsewhere. Arguments as of `limb_shapes`."""
    shapes = limb_shapes(uv, xyz, valid, limbs, limb_width)
    grid = np.arange(size, dtype=np.float32)
    masks = on_limb(shapes, tf.constant(grid[None, None, None, :]), tf.constant(grid[None, None, :, None]), limb_width)  # (B, L, size, size)
    masks = tf.transpose(tf.cast(masks, tf.float32), [0, 2, 3, 1])
    return tf.reshape(masks[..., None] * shapes.direction[:, None, None, :, :], [-1, size, size, 3 * len(limbs)])


def _ends(values, limbs):
    """Return the values of all limbs' first and second joints, each (B, L, ...), of (B, J, ...). Without a gather op, which would be slow
    on the 910.
    """
    of_joint = tf.unstack(values, axis=1)
    return [tf.stack([of_joint[limb[end]] for limb in limbs], axis=1) for end in (0, 1)]
