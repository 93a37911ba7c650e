"""The loss of the reference: every stage's maps are enlarged to the crop by tf.image.resize_bicubic and compared there."""

import tensorflow.compat.v1 as tf

EPSILON = 1e-6
_TINY = 1.18e-38


def losses(heat, pof, target_heat, target_pof, mask, valid, is_3d, *, limbs, background_weight, ignore_2d, pof_weight):
    """Return (total, heat-map loss, POF loss), scalars.

    heat, pof: lists of (B, n, n, C), a tensor a stage; target_heat: (B, S, S, J + 1); target_pof: (B, S, S, 3 L); mask: (B, S, S) float32;
    valid: (B, J) bool; is_3d: (B,) bool; limbs: [(a, b)].
    """
    size = int(target_heat.shape[1])
    mask = mask[:, :, :, None]
    joints = tf.cast(valid, tf.float32)
    joint_weight = tf.concat([joints, tf.fill([tf.shape(joints)[0], 1], float(background_weight))], axis=1)
    both = tf.cast(tf.stack([valid[:, a] & valid[:, b] for a, b in limbs], axis=1), tf.float32)
    limb_weight = tf.reshape(tf.tile(both[:, :, None], [1, 1, 3]), [-1, 3 * len(limbs)])
    of_2d = tf.constant([0.0, 0.0, 0.0] if ignore_2d else [1.0, 1.0, 0.0])
    of_channel = tf.tile(tf.where(is_3d, tf.ones_like(both[:, :3]), tf.zeros_like(both[:, :3]) + of_2d), [1, len(limbs)])
    pof_mask = mask * of_channel[:, None, None, :]

    def error(answer, target, mask, weight):
        squares = tf.reduce_sum(tf.square((answer - target) * mask), axis=[1, 2])
        per_channel = squares / (tf.reduce_sum(mask, axis=[1, 2]) + EPSILON)
        return tf.reduce_sum(weight * per_channel) / (tf.reduce_sum(weight) + EPSILON)

    heat_losses, pof_losses = [], []
    for stage_heat, stage_pof in zip(heat, pof):
        heat_losses.append(error(tf.image.resize_bicubic(stage_heat, [size, size]), target_heat, mask, joint_weight))
        answer = tf.image.resize_bicubic(stage_pof, [size, size])
        answer = tf.where(is_3d, answer, _unit_2d(answer, target_pof))
        pof_losses.append(error(answer, target_pof, pof_mask, limb_weight))
    loss_heat, loss_pof = tf.add_n(heat_losses) / len(heat), tf.add_n(pof_losses) / len(pof)
    return loss_heat + pof_weight * loss_pof, loss_heat, loss_pof


def _unit_2d(answer, target):
    """Return unit 2D directions with z = 0, and 0 wherever the target or the answer is 0; both (B, S, S, 3 L)."""
    size, channels = int(target.shape[1]), int(target.shape[3])
    parts = tf.reshape(answer, [-1, size, size, channels // 3, 3])
    x, y = parts[..., 0], parts[..., 1]
    norm = tf.sqrt(tf.maximum(tf.square(x) + tf.square(y), _TINY)) + EPSILON
    unit = tf.reshape(tf.stack([x / norm, y / norm, tf.zeros_like(x)], axis=4), tf.shape(answer))
    return tf.where(tf.equal(target, 0.0) | tf.equal(answer, 0.0), tf.zeros_like(unit), unit)
