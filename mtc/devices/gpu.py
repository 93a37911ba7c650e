"""Training on the GPUs that TensorFlow sees: the first one, or as many as there are replicas.

mixed_fp16 is TensorFlow's rewrite of the graph. That knows no bfloat16 on GPUs, so mixed_bf16 are casts around each convolution, where this
TensorFlow has such kernels.
"""

import tensorflow.compat.v1 as tf

from mtc.devices import precision
from mtc.devices.device import Device
from mtc.errors import UserError
from mtc.nets import convolution


def missing():
    """Return why there is no GPU, or "" where there is one."""
    return (
        ""
        if tf.config.experimental.list_physical_devices("GPU")
        else "TensorFlow {} sees no GPU (nvidia-smi, CUDA_VISIBLE_DEVICES)".format(tf.__version__)
    )


def select(config, replicas):
    """Return the `Device`: memory is taken as needed, ops without a GPU kernel run on the CPU.

    Errors: UserError where there are fewer GPUs than replicas, or no kernels for the precision.
    """
    found = tf.config.experimental.list_physical_devices("GPU")
    if len(found) < replicas:
        raise UserError("train.replicas={}: TensorFlow sees {} GPU{}".format(replicas, len(found), "s" if len(found) > 1 else ""))
    session_config = tf.ConfigProto(intra_op_parallelism_threads=config.train.threads, allow_soft_placement=True)
    session_config.gpu_options.allow_growth = True
    session_config.gpu_options.visible_device_list = ",".join(str(i) for i in range(replicas))
    name, convolve = "GPU {}".format(", ".join(device.name for device in found[:replicas])), convolution.convolve
    if config.train.precision == "mixed_fp16":
        precision.switch_on(session_config, "auto_mixed_precision")
        name += ", float16 by TensorFlow's rewrite"
    elif config.train.precision == "mixed_bf16":
        if not precision.has_kernels("bfloat16", "/gpu:0", session_config):
            raise UserError("train.precision=mixed_bf16: TensorFlow {} has no bfloat16 convolutions for GPUs; use mixed_fp16".format(tf.__version__))
        convolve, name = convolution.casting(convolve, "bfloat16"), name + ", convolutions in bfloat16"
    return Device("gpu", name, session_config, convolve)
