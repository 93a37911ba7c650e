"""Training on the GPUs that TensorFlow sees: the first one, or as many as there are replicas."""

import tensorflow.compat.v1 as tf

from mtc.errors import UserError


def missing():
    """Return why there is no GPU, or "" where there is one."""
    return (
        ""
        if tf.config.experimental.list_physical_devices("GPU")
        else "TensorFlow {} sees no GPU (nvidia-smi, CUDA_VISIBLE_DEVICES)".format(tf.__version__)
    )


def configure(threads, replicas=1):
    """Return (description, ConfigProto): memory is taken as needed, ops without a GPU kernel run on the CPU.

    Errors: UserError where there are fewer GPUs than replicas.
    """
    found = tf.config.experimental.list_physical_devices("GPU")
    if len(found) < replicas:
        raise UserError("train.replicas={}: TensorFlow sees {} GPU{}".format(replicas, len(found), "s" if len(found) > 1 else ""))
    config = tf.ConfigProto(intra_op_parallelism_threads=threads, allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    config.gpu_options.visible_device_list = ",".join(str(i) for i in range(replicas))
    return "GPU {}".format(", ".join(device.name for device in found[:replicas])), config
