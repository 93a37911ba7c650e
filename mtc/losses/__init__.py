"""How far the network's maps are from the targets: the reference's masked losses, at the network's own resolution or, to compare, in full."""

import tensorflow.compat.v1 as tf

from mtc import targets
from mtc.losses import full_resolution, low_resolution, terms
from mtc.losses.terms import EPSILON, Labels, Losses

__all__ = ["Losses", "batch_losses", "scale", "shares"]

_FORMS = {"low_resolution": low_resolution, "full_resolution": full_resolution}


def batch_losses(maps, inputs, skeleton, config):
    """Return the `Losses` of a batch as `compat.loss` says.

    maps: `nets.cpm.Maps` with a list of (B, n, n, C) a stage. inputs: tensors of static shapes by the names of `mtc.data.pipeline.Batch`'s
    fields: mask (B, S, S) uint8, uv, xyz, valid, is_3d. Samples must be of the kinds (2D, 3D) that config.data.mix holds: what it does not
    hold is not computed.
    """
    labels = Labels(*(inputs[key] for key in Labels._fields if key != "mask"), mask=tf.cast(inputs["mask"], tf.float32) / 255.0)
    return _FORMS[config.compat.loss].losses(maps, labels, terms.of_config(config, skeleton))


def shares(inputs, parts, skeleton, config, over_ranks=None):
    """Return [(share of the heat-map loss, share of the POF loss)], one pair a part: what a part's own losses count in those of the whole batch.

    A loss is a weighted mean over the batch's joints (limbs), so a part counts as much as it has of them. inputs: as of `batch_losses`, the
    whole batch, or this rank's part of it; over_ranks: sums a list of tensors over all ranks, where there are several.
    """
    if parts == 1 and over_ranks is None:
        return [(1.0, 1.0)]
    made = terms.of_config(config, skeleton)
    heat = tf.reduce_sum(terms.joint_weights(inputs["valid"], made.background_weight), axis=1)
    shapes = targets.limb_shapes(inputs["uv"], inputs["xyz"], inputs["valid"], skeleton.limbs, made.limb_width)
    pof = tf.reduce_sum(terms.limb_weights(shapes.both_valid), axis=1)
    of_parts = [tf.reduce_sum(tf.reshape(weight, [parts, -1]), axis=1) + EPSILON for weight in (heat, pof)]
    whole = tf.stack([tf.reduce_sum(weight) for weight in (heat, pof)])
    whole = tf.unstack((whole if over_ranks is None else over_ranks([whole])[0]) + EPSILON)
    return list(zip(*(tf.unstack(part / total) for part, total in zip(of_parts, whole))))


def scale(loss, share, pof_weight):
    """Return the `Losses` of a part as they count in those of the whole batch, which are the sum of its parts. share: of `shares`."""
    heat, pof = share
    return Losses(
        total=heat * loss.heat + pof_weight * pof * loss.pof,
        heat=heat * loss.heat,
        pof=pof * loss.pof,
        baseline_heat=heat * loss.baseline_heat,
        baseline_pof=pof * loss.baseline_pof,
    )
