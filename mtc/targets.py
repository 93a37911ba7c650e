"""What the network should answer: heat-maps and part orientation fields of one person, as functions of its joints, made on the device.

The plain form: every map at the full resolution of the crop, straight from the definitions. Source: facts of the reference (heat-maps, createPAF);
arXiv 1812.01598, section 4. Coordinates are pixels of the crop, x right, y down; fields are in the camera's frame, z away from the camera.
"""

import numpy as np
import tensorflow.compat.v1 as tf


def heatmaps(uv, valid, size, sigma):
    """Return (B, size, size, J + 1) float32: a peak of height 1 at each valid joint inside the frame, and the background last.

    uv: (B, J, 2) float32; valid: (B, J) bool. The peak sits on the truncated coordinate; the outermost pixels count as outside.
    """
    xy = tf.cast(tf.cast(uv, tf.int32), tf.float32)  # toward zero, as the reference does
    inside = tf.reduce_all((xy > 0) & (xy < size - 1), axis=-1)
    grid = tf.constant(np.arange(size, dtype=np.float32))
    dx = tf.square(grid[None, :, None] - xy[:, None, :, 0])  # (B, size, J)
    dy = tf.square(grid[None, :, None] - xy[:, None, :, 1])
    peaks = tf.exp(-(dx[:, None, :, :] + dy[:, :, None, :]) / (2.0 * sigma * sigma))
    peaks *= tf.cast(valid & inside, tf.float32)[:, None, None, :]
    background = tf.clip_by_value(1.0 - tf.reduce_sum(peaks, axis=-1, keepdims=True), 0.0, 1.0)
    return tf.concat([peaks, background], axis=-1)


def orientation_fields(uv, xyz, valid, limbs, size, limb_width):
    """Return (B, size, size, 3 L) float32: on each limb's pixels its unit direction, 0 elsewhere.

    uv: (B, J, 2) float32; xyz: (B, J, 3) float32 in the camera's frame, or (x, y, 0) where only 2D is known; valid: (B, J) bool; limbs: [(from, to)].
    A limb covers the pixels nearer than `limb_width` to its line and inside the box of its ends grown by `limb_width`. No 2D length: no pixels.
    """
    start, end = [limb[0] for limb in limbs], [limb[1] for limb in limbs]
    a, b = tf.gather(uv, start, axis=1), tf.gather(uv, end, axis=1)  # (B, L, 2)
    length = tf.sqrt(tf.reduce_sum(tf.square(b - a), axis=-1, keepdims=True))
    u = tf.math.divide_no_nan(b - a, length)
    grid = tf.constant(np.arange(size, dtype=np.float32))
    dx = (grid[None, :, None] - a[:, None, :, 0])[:, None, :, :]  # (B, 1, size, L)
    dy = (grid[None, :, None] - a[:, None, :, 1])[:, :, None, :]  # (B, size, 1, L)
    near = tf.abs(dy * u[:, None, None, :, 0] - dx * u[:, None, None, :, 1]) < limb_width
    low, high = tf.minimum(a, b) - limb_width, tf.maximum(a, b) + limb_width
    columns = (grid[None, :, None] >= low[:, None, :, 0]) & (grid[None, :, None] <= high[:, None, :, 0])  # (B, size, L)
    rows = (grid[None, :, None] >= low[:, None, :, 1]) & (grid[None, :, None] <= high[:, None, :, 1])
    both = tf.gather(valid, start, axis=1) & tf.gather(valid, end, axis=1) & (length[..., 0] > 0)
    on_limb = tf.cast(near & columns[:, None, :, :] & rows[:, :, None, :] & both[:, None, None, :], tf.float32)
    direction = tf.gather(xyz, end, axis=1) - tf.gather(xyz, start, axis=1)
    direction = tf.math.divide_no_nan(direction, tf.sqrt(tf.reduce_sum(tf.square(direction), axis=-1, keepdims=True)))
    fields = on_limb[..., None] * direction[:, None, None, :, :]  # (B, size, size, L, 3)
    return tf.reshape(fields, [-1, size, size, 3 * len(limbs)])


def limb_validity(valid, limbs):
    """Return (B, 3 L) float32: 1 on the three channels of a limb both of whose joints are valid. valid: (B, J) bool."""
    both = tf.gather(valid, [limb[0] for limb in limbs], axis=1) & tf.gather(valid, [limb[1] for limb in limbs], axis=1)
    repeated = tf.tile(tf.cast(both, tf.float32)[:, :, None], [1, 1, 3])
    return tf.reshape(repeated, [-1, 3 * len(limbs)])
