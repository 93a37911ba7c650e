"""The POF loss of samples with 2D labels: answers as unit 2D directions, compared on the pixels of each limb.

A unit direction is no quadratic form of the map, so answers are enlarged, but only where they count: on a limb. Along the axis that a limb follows
more closely, each row (or column) of the crop holds at most 2 sqrt(2) limb_width pixels of it, one after another. So a limb is looked at in strips of
that many pixels, S of them: 26 x 368 places instead of 368 x 368. Those pixels' rows of A and weights are looked up; the maps go through two matrix
products, whose gradients are matrix products. Same numbers as the plain form.
"""

import math

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import targets, upsample
from mtc.losses import terms as t

_TINY = 1.18e-38
"""Smallest normal float32: keeps the derivative of sqrt finite at 0."""


def squared_errors(stages, shapes, weights, limb_width):
    """Return (errors of all stages added up, errors of answering nothing), each (B, 3 L) float32, weighted and summed over the crop; 0 for z.

    stages: list of (B, n, n, 3 L) POF maps; shapes: `mtc.targets.LimbShapes`; weights: (B, S, S) float32 of pixels. As in the reference, an
    answer counts as 0 where it, or its target, is exactly 0.
    """
    a = upsample.matrix(int(stages[0].shape[1]))
    size, cells = a.shape
    batch, limbs = shapes.exists.shape.as_list()
    count = len(stages)

    # ---- which pixels: along = 0 … S - 1, across = `first` … `first` + width - 1; for steep limbs along is y, for flat ones x
    steep = tf.abs(shapes.unit[..., 1]) >= tf.abs(shapes.unit[..., 0])  # (B, L)
    along = np.arange(size, dtype=np.float32)
    half = int(limb_width * math.sqrt(2)) + 1  # 1 more than needed: the centre is rounded
    start_along, start_across = _choose(steep, shapes.start[..., 1], shapes.start[..., 0])
    unit_along, unit_across = _choose(steep, shapes.unit[..., 1], shapes.unit[..., 0])
    slope = tf.math.divide_no_nan(unit_across, unit_along)
    centre = tf.floor(start_across[..., None] + (along - start_along[..., None]) * slope[..., None])  # (B, L, S)
    centre = tf.clip_by_value(centre, -4.0 * size, 5.0 * size)
    width = 2 * half + 2
    if width < size:
        across = centre[..., None] + np.arange(-half, half + 2, dtype=np.float32)  # (B, L, S, width)
    else:  # a limb as wide as the crop: all of it
        width = size
        across = tf.tile(tf.constant(along[None, None, None, :]), [batch, limbs, size, 1])
    upright = tf.tile(steep[:, :, None, None], [1, 1, size, width])
    along = tf.tile(tf.constant(along[None, None, :, None]), [batch, limbs, 1, width])
    x, y = tf.where_v2(upright, across, along), tf.where_v2(upright, along, across)
    inside = (across >= 0) & (across <= size - 1)
    inside &= targets.on_limb(shapes, x, y, limb_width)

    # ---- their weights and their rows of A
    places = tf.cast(tf.clip_by_value(y * size + x, 0.0, float(size * size - 1)), tf.int32)
    weights = tf.gather(tf.reshape(weights, [-1]), places + size * size * np.arange(batch, dtype=np.int32)[:, None, None, None])
    weights *= tf.cast(inside, tf.float32)
    of_across = tf.gather(tf.constant(a), tf.cast(tf.clip_by_value(across, 0.0, float(size - 1)), tf.int32))  # (B, L, S, width, n)

    # ---- answers there
    maps = tf.stack([tf.reshape(stage, [-1, cells, cells, limbs, 3])[..., :2] for stage in stages], axis=4)  # (B, n, n, L, stages, 2)
    maps = tf.transpose(maps, [1, 0, 3, 2, 4, 5])  # rows first
    turned = tf.transpose(maps, [3, 1, 2, 0, 4, 5])
    maps = tf.where_v2(tf.tile(steep[None, :, :, None, None, None], [cells, 1, 1, cells, count, 2]), maps, turned)  # (along, B, L, across, stages, 2)
    enlarged = tf.matmul(tf.constant(a), tf.reshape(maps, [cells, -1]))
    enlarged = tf.transpose(tf.reshape(enlarged, [size, batch, limbs, cells, count * 2]), [1, 2, 0, 3, 4])
    answers = tf.reshape(tf.matmul(of_across, enlarged), [batch, limbs, size, width, count, 2])

    # ---- compared as directions
    norm = tf.sqrt(tf.maximum(tf.reduce_sum(tf.square(answers), axis=-1, keepdims=True), _TINY))
    target = shapes.direction[:, :, None, None, None, :2]
    counts = tf.not_equal(answers, 0.0) & tf.not_equal(target, 0.0)
    unit = tf.where_v2(counts, answers / (norm + t.EPSILON), tf.zeros_like(answers))
    errors = tf.square(unit - target) * weights[..., None, None]
    errors = tf.reduce_sum(tf.reduce_sum(tf.reduce_sum(errors, axis=4), axis=3), axis=2)  # (B, L, 2)
    nothing = tf.square(target[:, :, 0, 0, 0]) * tf.reduce_sum(tf.reduce_sum(weights, axis=3), axis=2)[..., None]
    return [tf.reshape(tf.pad(values, [[0, 0], [0, 0], [0, 1]]), [batch, 3 * limbs]) for values in (errors, nothing)]


def _choose(steep, first, second):
    """Return (first, second) for steep limbs and (second, first) for flat ones. All (B, L)."""
    return tf.where_v2(steep, first, second), tf.where_v2(steep, second, first)
