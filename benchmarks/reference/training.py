"""The training step of the reference: input pipeline, network, loss, one tower's averaged gradients, Adam, summaries of every step."""

from typing import Any, NamedTuple

import tensorflow.compat.v1 as tf

from benchmarks.reference import loss, network, reader

SEED = 1


class Training(NamedTuple):
    """What a step runs."""

    graph: tf.Graph
    iterator: Any
    fetches: Any
    """[merged summaries, train operation, total, heat-map loss, POF loss]"""
    initialize: tf.Operation


def session_config():
    """The reference's session, but for its GPU options: TensorFlow's own choice of threads."""
    return tf.ConfigProto(allow_soft_placement=True)


def build(records, config, skeleton):
    """Return the `Training` on a TFRecord file that `reader.write_records` wrote."""
    graph = tf.Graph()
    with graph.as_default():
        tf.set_random_seed(SEED)
        iterator = reader.iterator(records, config, skeleton)
        sample = iterator.get_next()
        heat, pof = network.network(sample["image_crop"], skeleton.heat_channels, skeleton.pof_channels, config.model.stages, config.model.width)
        total, loss_heat, loss_pof = loss.losses(
            heat,
            pof,
            sample["scoremap2d"],
            sample["PAF"],
            sample["mask_crop"],
            sample["body_valid"],
            sample["PAF_type"],
            limbs=skeleton.limbs,
            background_weight=skeleton.background_weight,
            ignore_2d=config.compat.ignore_paf_2d,
            pof_weight=config.train.pof_weight,
        )
        global_step = tf.get_variable("global_step", [], tf.int32, tf.constant_initializer(config.train.start_step), trainable=False)
        rate = tf.where(global_step > config.train.lr_steps[0], config.train.lr[1], config.train.lr[0])
        optimizer = tf.train.AdamOptimizer(rate)
        towers = [optimizer.compute_gradients(total)]
        averaged = [(tf.reduce_mean(tf.stack([gradient for gradient, _ in of_variable]), axis=0), of_variable[0][1]) for of_variable in zip(*towers)]
        train = optimizer.apply_gradients(averaged, global_step=global_step)
        for name, value in (("loss", total), ("loss_PAF", loss_pof), ("loss_2d", loss_heat)):
            tf.summary.scalar(name, value)
        fetches = [tf.summary.merge_all(), train, total, loss_heat, loss_pof]
        return Training(graph, iterator, fetches, tf.global_variables_initializer())
