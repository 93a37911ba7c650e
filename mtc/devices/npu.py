"""Training on one Ascend NPU through Huawei's `npu_bridge` (CANN's adapter for TensorFlow 1.15).

The session's graph is handed to the NPU by a custom optimizer named NpuOptimizer in its configuration (CANN migration guide, "session
configuration"). An entry that we add ourselves obliges us to switch memory_optimization off; `npu_config_proto` switches remapping and JIT
off. Parameters with a wrong key or kind are ignored silently by the adapter, so they are few and fixed here.
"""

import importlib.util
import os

import tensorflow.compat.v1 as tf

from mtc.devices import npu_options
from mtc.errors import UserError


def missing():
    """Return why there is no NPU, or "" where its adapter is installed."""
    if importlib.util.find_spec("npu_bridge") is None:
        return "the Python package npu_bridge is not installed (it comes with CANN; source its set_env.sh)"
    return ""


def configure(threads, replicas=1):
    """Return (description, ConfigProto) for the device ASCEND_DEVICE_ID (0 where it is not set).

    Errors: UserError for several replicas: a process has one NPU.
    """
    if replicas > 1:
        raise UserError("train.replicas={}: a process has one NPU; set it to 1".format(replicas))
    from npu_bridge.npu_init import npu_config_proto
    from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

    config = tf.ConfigProto(intra_op_parallelism_threads=threads, allow_soft_placement=True)
    options = config.graph_options.rewrite_options
    custom = options.custom_optimizers.add()
    custom.name = "NpuOptimizer"
    custom.parameter_map["use_off_line"].b = True
    custom.parameter_map["precision_mode"].s = b"allow_mix_precision"  # as the reference; convolutions of the 910 take fp16 only
    options.remapping = RewriterConfig.OFF
    options.memory_optimization = RewriterConfig.OFF
    return "Ascend NPU {}".format(os.environ.get("ASCEND_DEVICE_ID", "0")), npu_config_proto(config_proto=config)


def put(config, options):
    """Add {key: bool, int or text} to what the adapter is told by a ConfigProto of `configure`."""
    entries = [entry for entry in config.graph_options.rewrite_options.custom_optimizers if entry.name == "NpuOptimizer"]
    npu_options.put(entries[0], options)
