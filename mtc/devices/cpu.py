"""Training on the CPU: always there.

Few CPUs compute in 16 bits, and TensorFlow 1.15 does on none. Elsewhere mixed precision is emulated: what goes into convolutions is rounded,
so that a run shows what the format does to the numbers, at the speed of float32 and a little less.
"""

import os

import tensorflow.compat.v1 as tf

from mtc.devices import precision
from mtc.devices.device import Device
from mtc.errors import UserError
from mtc.nets import convolution

_TYPES = {"mixed_fp16": "float16", "mixed_bf16": "bfloat16"}


def missing():
    """Return why there is no such device: never."""
    return ""


def select(config, replicas):
    """Return the `Device`, which keeps GPUs out; replicas are virtual devices, which share the threads. Errors: UserError."""
    threads = config.train.threads or os.cpu_count() or 1
    devices = {"GPU": 0, "CPU": replicas}
    session_config = tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=replicas, device_count=devices)
    name = "CPU, {} thread{}".format(threads, "s" if threads > 1 else "") + (", {} replicas".format(replicas) if replicas > 1 else "")
    convolve, rounds_to = convolution.fastest("cpu"), None
    if config.train.precision != "fp32":
        dtype = _TYPES[config.train.precision]
        if config.train.compile == "xla":
            text = "train.precision={}: on a CPU, XLA leaves out what emulates {}; set train.compile=none"
            raise UserError(text.format(config.train.precision, dtype))
        rewrite = precision.rewrite(dtype, session_config)
        if rewrite:
            convolve, name = convolution.convolve, "{}, convolutions in {} ({})".format(name, dtype, rewrite)
        else:
            convolve, rounds_to = convolution.rounding(convolve, dtype), dtype
            name += ", convolutions rounded as {} would be (emulated, not faster)".format(dtype)
    return Device("cpu", name, session_config, convolve, rounds_to=rounds_to)
