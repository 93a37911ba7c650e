"""Training on one GPU that TensorFlow sees."""

import tensorflow.compat.v1 as tf


def missing():
    """Return why there is no GPU, or "" where there is one."""
    return (
        ""
        if tf.config.experimental.list_physical_devices("GPU")
        else "TensorFlow {} sees no GPU (nvidia-smi, CUDA_VISIBLE_DEVICES)".format(tf.__version__)
    )


def configure(threads):
    """Return (description, ConfigProto): memory is taken as needed, ops without a GPU kernel run on the CPU."""
    config = tf.ConfigProto(intra_op_parallelism_threads=threads, allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    config.gpu_options.visible_device_list = "0"
    return "GPU {}".format(tf.config.experimental.list_physical_devices("GPU")[0].name), config
