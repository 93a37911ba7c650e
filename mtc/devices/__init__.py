"""The device that a run trains on: what it is called and how a TensorFlow session on it is configured. One module a kind."""

import os

import tensorflow.compat.v1 as tf

from mtc.devices import cpu, gpu, npu, peak
from mtc.devices.device import Device
from mtc.errors import UserError

__all__ = ["peak", "select"]

_KINDS = {"npu": npu, "gpu": gpu, "cpu": cpu}
"""In the order in which "auto" tries them."""


def kind_of(config):
    """Return the kind of device that `select` returns."""
    return next(
        kind for kind, module in _KINDS.items() if config.train.device in (kind, "auto") and (config.train.device == kind or not module.missing())
    )


def select(config, replicas=None):
    """Return Device."""
    t = config.train
    return Device(*_select(t.device, t.threads, t.compile, t.replicas, t.deterministic))


def _select(device, threads=0, compiler="none", replicas=1, deterministic="no"):
    """Return (kind, description, ConfigProto) for train.device ("auto", "cpu", "gpu" or "npu"), train.threads (0: one a core), train.compile,
    train.replicas and train.deterministic.

    Errors: UserError where the device asked for is not there, or not often enough, or compiles in its own way.
    """
    for kind, module in _KINDS.items():
        if device in (kind, "auto"):
            missing = module.missing()
            if not missing:
                description, config = module.configure(threads, replicas)
                if deterministic == "yes" or deterministic == "auto" and kind == "cpu":
                    _make_deterministic(kind, config)
                    description += ", deterministic"
                if compiler == "xla":
                    _compile(kind, config)
                    description += ", compiled by XLA"
                return kind, description, config
            if device == kind:
                raise UserError("train.device={}: {}".format(kind, missing))
    raise AssertionError(device)


def _make_deterministic(kind, config):
    """Ask for kernels that give the same bits each time."""
    if kind == "npu":
        config.graph_options.rewrite_options.custom_optimizers[0].parameter_map["deterministic"].i = 1
        return
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
