"""Training on the CPU: always there."""

import os

import tensorflow.compat.v1 as tf


def missing():
    """Return why there is no such device: never."""
    return ""


def configure(threads):
    """Return (description, ConfigProto) that keeps GPUs out."""
    threads = threads or os.cpu_count() or 1
    config = tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1, device_count={"GPU": 0})
    return "CPU, {} thread{}".format(threads, "s" if threads > 1 else ""), config
