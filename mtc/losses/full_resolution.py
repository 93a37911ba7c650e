"""The loss in its plain form: every stage's maps enlarged to the size of the crop and compared with targets of that size.

Slow and easy to check; it is what the other form is held against. Formulas: `mtc.losses.terms`.
"""

import tensorflow.compat.v1 as tf

from mtc import targets, upsample
from mtc.losses import terms as t

_TINY = 1.18e-38
"""Smallest normal float32: keeps the derivative of sqrt finite at 0."""


def losses(maps, labels, terms):
    """Return the `Losses` of a batch. maps: `nets.cpm.Maps`, a list of (B, n, n, C) a stage; labels, terms: see `mtc.losses.terms`."""
    size = int(labels.mask.shape[1])
    skeleton = terms.skeleton
    return compare(
        maps,
        targets.heatmaps(labels.uv, labels.valid, size, terms.sigma),
        targets.orientation_fields(labels.uv, labels.xyz, labels.valid, skeleton.limbs, size, terms.limb_width),
        labels,
        terms,
    )


def compare(maps, heat, pof, labels, terms):
    """As `losses`, with targets heat (B, S, S, J + 1) and pof (B, S, S, 3 L), float32."""
    cells = int(maps.heat[0].shape[1])
    enlarge_heat, enlarge_pof = upsample.matrix(cells, kind=terms.skeleton.heat_upsampling), upsample.matrix(cells)
    mask = labels.mask[..., None]
    covered = t.sum_pixels(mask)
    shapes = targets.limb_shapes(labels.uv, labels.xyz, labels.valid, terms.skeleton.limbs, terms.limb_width)
    heat_weight, limb_weight = t.joint_weights(labels.valid, terms.background_weight), t.limb_weights(shapes.both_valid)
    heat_factor = t.coefficients(heat_weight, tf.ones_like(heat_weight), covered)
    pof_factor = t.coefficients(limb_weight, tf.add_n(t.pof_counts(labels.is_3d, terms)), covered)
    three_d = tf.cast(labels.is_3d, tf.float32)[:, None, None, None]

    def loss(factor, error):
        return tf.reduce_sum(factor * t.sum_pixels(tf.square(error * mask)))

    heat_losses, pof_losses = [], []
    for stage_heat, stage_pof in zip(maps.heat, maps.pof):
        heat_losses.append(loss(heat_factor, upsample.upsample(stage_heat, enlarge_heat) - heat))
        answer = upsample.upsample(stage_pof, enlarge_pof)
        if not terms.ignore_2d:
            answer = three_d * answer + (1.0 - three_d) * _unit_2d(answer, pof)
        pof_losses.append(loss(pof_factor, answer - pof))
    loss_heat, loss_pof = tf.add_n(heat_losses) / len(heat_losses), tf.add_n(pof_losses) / len(pof_losses)
    return t.Losses(
        total=loss_heat + terms.pof_weight * loss_pof,
        heat=loss_heat,
        pof=loss_pof,
        baseline_heat=loss(heat_factor, heat),
        baseline_pof=loss(pof_factor, pof),
    )


def _unit_2d(answer, pof):
    """Return the answer as unit 2D directions with z = 0, and 0 wherever the target or the answer is 0. Both (B, S, S, 3 L)."""
    shape = tf.shape(answer)
    parts = tf.reshape(answer, [shape[0], shape[1], shape[2], -1, 3])
    xy = parts[..., :2]
    norm = tf.sqrt(tf.maximum(tf.reduce_sum(tf.square(xy), axis=-1, keepdims=True), _TINY))
    unit = tf.concat([xy / (norm + t.EPSILON), tf.zeros_like(parts[..., 2:])], axis=-1)
    unit = tf.reshape(unit, shape)
    return tf.where_v2(tf.equal(pof, 0.0) | tf.equal(answer, 0.0), tf.zeros_like(unit), unit)
