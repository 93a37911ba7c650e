"""Heat-maps and POF of one person at the full resolution of the crop, by TensorFlow operations over whole images."""

import numpy as np
import tensorflow.compat.v1 as tf


def heatmaps(uv, valid, size, sigma):
    """Return (size, size, J + 1) float32, background last. uv: (J, 2) float32, pixels of the crop; valid: (J,) bool."""
    xy = tf.cast(uv, tf.int32)
    inside = tf.reduce_all((xy > 0) & (xy < size - 1), axis=1)
    xy = tf.cast(xy, tf.float32)
    columns, rows = _grid(size)
    distance = tf.square(columns[:, :, None] - xy[:, 0]) + tf.square(rows[:, :, None] - xy[:, 1])
    peaks = tf.exp(-distance / (2.0 * sigma * sigma)) * tf.cast(valid & inside, tf.float32)
    background = tf.clip_by_value(1.0 - tf.reduce_sum(peaks, axis=2, keepdims=True), 0.0, 1.0)
    return tf.concat([peaks, background], axis=2)


def orientation_fields(uv, xyz, valid, limbs, size, limb_width):
    """Return (size, size, 3 L) float32, limb after limb.

    uv: (J, 2) float32, pixels of the crop; xyz: (J, 3) float32, camera frame, or (x, y, 0) where only 2D is known; valid: (J,) bool; limbs: [(a, b)].
    """
    columns, rows = _grid(size)
    fields = []
    for a, b in limbs:
        line = uv[b] - uv[a]
        unit = line / tf.norm(line)  # no length: not a number, and every comparison is false
        distance = tf.abs((rows - uv[a, 1]) * unit[0] - (columns - uv[a, 0]) * unit[1])
        low, high = tf.minimum(uv[a], uv[b]) - limb_width, tf.maximum(uv[a], uv[b]) + limb_width
        box = (columns >= low[0]) & (columns <= high[0]) & (rows >= low[1]) & (rows <= high[1])
        on_limb = tf.cast((distance < limb_width) & box & valid[a] & valid[b], tf.float32)
        direction = xyz[b] - xyz[a]
        direction /= tf.norm(direction)
        direction = tf.where(tf.is_nan(direction), tf.zeros_like(direction), direction)
        fields.append(on_limb[:, :, None] * direction)
    return tf.concat(fields, axis=2)


def _grid(size):
    """Return x and y of all pixels, (size, size) float32 each."""
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    return tf.constant(columns), tf.constant(rows)
