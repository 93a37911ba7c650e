"""What the forms of the loss share: its inputs, its result, and how errors are weighted.

With U the enlargement of `mtc.upsample`, H the targets, M the crop's mask and v the validity of joints (limbs), each stage gives

    E[b, c] = sum(((U(heat) - H) M)^2) / (sum(M) + 1e-6)        L_2d  = sum(v E) / (sum(v) + 1e-6)

and the same for the POF; stages are averaged. The mask is squared in the numerator and not in the denominator, as in the reference. A
sample with 2D labels is compared by unit 2D directions, or, with ignore_2d, counts in the denominator only. Source: facts of the reference,
checked by golden numbers.
"""

from typing import NamedTuple

import tensorflow.compat.v1 as tf

from mtc.skeleton import Skeleton

EPSILON = 1e-6


class Losses(NamedTuple):
    """Scalars, float32."""

    total: tf.Tensor
    heat: tf.Tensor
    pof: tf.Tensor
    baseline_heat: tf.Tensor
    """The heat-map loss of a network that answers 0 everywhere, on the same samples."""
    baseline_pof: tf.Tensor


class Labels(NamedTuple):
    """What a batch is compared with; static shapes."""

    uv: tf.Tensor
    """(B, J, 2) float32, pixels of the crop."""
    xyz: tf.Tensor
    """(B, J, 3) float32, camera frame; (x, y, 0) where only 2D is known."""
    valid: tf.Tensor
    """(B, J) bool."""
    is_3d: tf.Tensor
    """(B,) bool."""
    mask: tf.Tensor
    """(B, S, S) float32 in [0, 1]: how much a pixel counts."""


class Terms(NamedTuple):
    """Which losses there are, and what they are made of."""

    skeleton: Skeleton
    sigma: float
    limb_width: float
    background_weight: float
    pof_weight: float
    ignore_2d: bool
    """Samples with 2D labels give no POF loss."""
    has_2d: bool = True
    """Whether any sample may have 2D labels only; what cannot come is not computed."""
    has_3d: bool = True

    @property
    def pof_is_dead(self):
        """Whether the POF loss is 0 whatever the network answers."""
        return self.ignore_2d and not self.has_3d


def of_config(config, skeleton):
    """Return the `Terms` of a `mtc.sections.Config`."""
    weight = config.compat.background_weight
    return Terms(
        skeleton=skeleton,
        sigma=config.targets.sigma,
        limb_width=config.targets.limb_width,
        background_weight=skeleton.background_weight if weight < 0 else weight,
        pof_weight=config.train.pof_weight,
        ignore_2d=config.compat.ignore_paf_2d,
        has_2d=bool(config.data.mix.get("coco")),
        has_3d=any(share for source, share in config.data.mix.items() if source != "coco"),
    )


def joint_weights(valid, background_weight):
    """Return (B, J + 1) float32: 1 for each valid joint and `background_weight` for the background. valid: (B, J) bool."""
    of_joints = tf.cast(valid, tf.float32)
    return tf.concat([of_joints, background_weight * tf.ones_like(of_joints[:, :1])], axis=1)


def limb_weights(both_valid):
    """Return (B, 3 L) float32: 1 on the three channels of a limb both of whose joints are valid. both_valid: (B, L) float32."""
    return tf.reshape(tf.tile(both_valid[:, :, None], [1, 1, 3]), [-1, 3 * int(both_valid.shape[1])])


def pof_counts(is_3d, terms):
    """Return (of 3D samples, of 2D samples), each (B, 3 L) float32: 1 on the POF's channels that a sample's mask lets through, as such a sample."""
    three_d = tf.cast(is_3d, tf.float32)[:, None]
    limbs = len(terms.skeleton.limbs)
    xy = tf.constant([[0.0, 0.0, 0.0] if terms.ignore_2d else [1.0, 1.0, 0.0]])
    return tf.tile(three_d, [1, 3 * limbs]), (1.0 - three_d) * tf.tile(xy, [1, limbs])


def coefficients(weight, counts, covered):
    """Return (B, C) float32: what a channel's squared error, summed over the crop, is multiplied by in the loss of a stage.

    weight, counts: (B, C) float32; covered: (B, 1) float32, the sum of the mask.
    """
    return weight * counts / (covered * counts + EPSILON) / (tf.reduce_sum(weight) + EPSILON)


def sum_pixels(x):
    """Return (B, C) sums over the pixels of (B, S, S, C). Row by row first: one float32 accumulator over all pixels would lose two digits."""
    return tf.reduce_sum(tf.reduce_sum(x, axis=2), axis=1)
