"""How far the network's maps are from the targets: the reference's masked losses, in their plain form at full resolution.

With U the enlargement of `mtc.upsample`, M the crop's mask and v the validity of joints (limbs), each stage gives

    E[b, c] = sum(((U(heat) - H) M)^2) / (sum(M) + 1e-6)        L_2d  = sum(v E) / (sum(v) + 1e-6)

and the same for the POF; stages are averaged. The mask is squared in the numerator and not in the denominator, as in the reference. A
sample with 2D labels is compared by unit 2D directions, or, with ignore_2d, counts in the denominator only. Source: facts of the reference,
checked by golden numbers.
"""

from typing import NamedTuple

import tensorflow.compat.v1 as tf

from mtc import upsample

EPSILON = 1e-6
_TINY = 1.18e-38
"""Smallest normal float32: keeps the derivative of sqrt finite at 0."""


class Losses(NamedTuple):
    """Scalars, float32."""

    total: tf.Tensor
    heat: tf.Tensor
    pof: tf.Tensor
    baseline_heat: tf.Tensor
    """The heat-map loss of a network that answers 0 everywhere, on the same samples."""
    baseline_pof: tf.Tensor


def losses(maps, heat, pof, mask, joint_weight, limb_weight, is_3d, *, ignore_2d, pof_weight, heat_upsampling="bicubic"):
    """Return the `Losses` of a batch.

    maps: `nets.cpm.Maps` with a list of (B, n, n, C) a stage; heat: (B, S, S, J + 1); pof: (B, S, S, 3 L); mask: (B, S, S) float32 in [0, 1];
    joint_weight: (B, J + 1) float32, background included; limb_weight: (B, 3 L) float32; is_3d: (B,) bool.
    """
    cells = int(maps.heat[0].shape[1])
    enlarge_heat = upsample.matrix(cells, kind=heat_upsampling)
    enlarge_pof = upsample.matrix(cells)
    three_d = tf.cast(is_3d, tf.float32)[:, None]  # (B, 1)
    of_limb = tf.tile(tf.constant([[1.0, 1.0, 0.0]] if not ignore_2d else [[0.0, 0.0, 0.0]]), [1, int(pof.shape[-1]) // 3])
    pof_counts = three_d + (1.0 - three_d) * of_limb  # (B, 3 L): which channels of the POF a sample's mask lets through
    covered = sum_pixels(mask[..., None])  # (B, 1)

    def mean_error(error, counts, weight):
        """error: (B, S, S, C), counts: (B, C) or 1. Returns the weighted mean over samples and channels."""
        squares = sum_pixels(tf.square(error * mask[..., None])) * counts
        per_channel = squares / (covered * counts + EPSILON)
        return tf.reduce_sum(weight * per_channel) / (tf.reduce_sum(weight) + EPSILON)

    heat_losses, pof_losses = [], []
    for stage_heat, stage_pof in zip(maps.heat, maps.pof):
        heat_losses.append(mean_error(upsample.upsample(stage_heat, enlarge_heat) - heat, 1.0, joint_weight))
        answer = upsample.upsample(stage_pof, enlarge_pof)
        if not ignore_2d:
            flat = three_d[:, :, None, None]
            answer = flat * answer + (1.0 - flat) * _unit_2d(answer, pof)
        pof_losses.append(mean_error(answer - pof, pof_counts, limb_weight))
    loss_heat, loss_pof = tf.add_n(heat_losses) / len(heat_losses), tf.add_n(pof_losses) / len(pof_losses)
    return Losses(
        total=loss_heat + pof_weight * loss_pof,
        heat=loss_heat,
        pof=loss_pof,
        baseline_heat=mean_error(heat, 1.0, joint_weight),
        baseline_pof=mean_error(pof, pof_counts, limb_weight),
    )


def joint_weights(valid, background_weight):
    """Return (B, J + 1) float32: 1 for each valid joint and `background_weight` for the background. valid: (B, J) bool."""
    of_joints = tf.cast(valid, tf.float32)
    return tf.concat([of_joints, background_weight * tf.ones_like(of_joints[:, :1])], axis=1)


def sum_pixels(x):
    """Return (B, C) sums over the pixels of (B, S, S, C). Row by row first: one float32 accumulator over all pixels would lose two digits."""
    return tf.reduce_sum(tf.reduce_sum(x, axis=2), axis=1)


def _unit_2d(answer, pof):
    """Return the answer as unit 2D directions with z = 0, and 0 wherever the target or the answer is 0. Both (B, S, S, 3 L)."""
    shape = tf.shape(answer)
    parts = tf.reshape(answer, [shape[0], shape[1], shape[2], -1, 3])
    xy = parts[..., :2]
    norm = tf.sqrt(tf.maximum(tf.reduce_sum(tf.square(xy), axis=-1, keepdims=True), _TINY))
    unit = tf.concat([xy / (norm + EPSILON), tf.zeros_like(parts[..., 2:])], axis=-1)
    unit = tf.reshape(unit, shape)
    return tf.where(tf.equal(pof, 0.0) | tf.equal(answer, 0.0), tf.zeros_like(unit), unit)
