"""The device that a run trains on: what it is called, how a TensorFlow session on it is configured, how it computes. One module a kind."""

import dataclasses
import os

import tensorflow.compat.v1 as tf

from mtc.devices import cpu, gpu, npu, peak
from mtc.devices.device import Device
from mtc.devices.npu import host_only
from mtc.errors import UserError

__all__ = ["Device", "host_only", "peak", "select"]

_KINDS = {"npu": npu, "gpu": gpu, "cpu": cpu}
"""In the order in which "auto" tries them."""


def select(config, replicas=None):
    """Return the `Device` of a `mtc.sections.Config`. replicas: how many devices of its kind share a batch, train.replicas where it is None.

    Errors: UserError where the device asked for is not there, or not often enough, or does not compute or compile in the way asked for.
    """
    asked = config.train.device
    replicas = config.train.replicas if replicas is None else replicas
    for kind, module in _KINDS.items():
        if asked in (kind, "auto"):
            missing = module.missing()
            if not missing:
                deterministic = config.train.deterministic == "yes" or config.train.deterministic == "auto" and kind == "cpu"
                if deterministic and kind != "npu":
                    _make_deterministic()
                if config.npu.iterations_per_loop > 1 and kind != "npu":
                    text = "npu.iterations_per_loop={}: only an NPU makes several steps in one call, and the device is the {}; set it to 1"
                    raise UserError(text.format(config.npu.iterations_per_loop, kind))
                device = module.select(config, replicas)
                if kind == "npu" and deterministic:
                    npu.make_deterministic(device.session_config)
                if config.train.compile == "xla":
                    _compile(kind, device.session_config)
                remarks = ", deterministic" * deterministic + ", compiled by XLA" * (config.train.compile == "xla")
                return dataclasses.replace(device, name=device.name + remarks)
            if asked == kind:
                raise UserError("train.device={}: {}".format(kind, missing))
    raise AssertionError(asked)


def kind_of(config):
    """Return the kind of the device that `select` would take, "cpu", "gpu" or "npu"; whether it is there is not asked where it is named."""
    return config.train.device if config.train.device != "auto" else next(kind for kind, module in _KINDS.items() if not module.missing())


def _make_deterministic():
    """Ask for kernels that give the same bits each time."""
    # TensorFlow 1.15 reads the first two, at the first session of the process; newer ones have the call.
    os.environ["TF_DETERMINISTIC_OPS"] = os.environ["TF_CUDNN_DETERMINISTIC"] = "1"
    enable = getattr(tf.config.experimental, "enable_op_determinism", None)
    if enable is not None:
        enable()


def _compile(kind, config):
    """Let XLA compile what a session runs."""
    if kind == "npu":
        raise UserError("train.compile=xla: the NPU has a compiler of its own, and always uses it; set train.compile=none")
    config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_2
    if kind == "cpu":  # where XLA has to be allowed by a flag, read at the first session of the process
        flags = os.environ.get("TF_XLA_FLAGS", "")
        if "tf_xla_cpu_global_jit" not in flags:
            os.environ["TF_XLA_FLAGS"] = (flags + " --tf_xla_cpu_global_jit").strip()
