"""Training on the CPU: always there."""

import os

import tensorflow.compat.v1 as tf


def missing():
    """Return why there is no such device: never."""
    return ""


def configure(threads, replicas=1):
    """Return (description, ConfigProto) that keeps GPUs out; replicas are virtual devices, which share the threads."""
    threads = threads or os.cpu_count() or 1
    devices = {"GPU": 0, "CPU": replicas}
    config = tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=replicas, device_count=devices)
    description = "CPU, {} thread{}".format(threads, "s" if threads > 1 else "")
    return description + (", {} replicas".format(replicas) if replicas > 1 else ""), config
