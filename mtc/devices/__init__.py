"""The device that a run trains on: what it is called and how a TensorFlow session on it is configured. One module a kind."""

import os

import tensorflow.compat.v1 as tf

from mtc.devices import cpu, gpu, npu, peak
from mtc.errors import UserError

__all__ = ["peak", "select"]

_KINDS = {"npu": npu, "gpu": gpu, "cpu": cpu}
"""In the order in which "auto" tries them."""


def select(device, threads=0, compiler="none"):
    """Return (kind, description, ConfigProto) for train.device ("auto", "cpu", "gpu" or "npu"), train.threads (0: one a core) and train.compile.

    Errors: UserError where the device asked for is not there, or compiles in its own way.
    """
    for kind, module in _KINDS.items():
        if device in (kind, "auto"):
            missing = module.missing()
            if not missing:
                description, config = module.configure(threads)
                if compiler == "xla":
                    _compile(kind, config)
                    description += ", compiled by XLA"
                return kind, description, config
            if device == kind:
                raise UserError("train.device={}: {}".format(kind, missing))
    raise AssertionError(device)


def _compile(kind, config):
    """Let XLA compile what a session runs."""
    if kind == "npu":
        raise UserError("train.compile=xla: the NPU has a compiler of its own, and always uses it; set train.compile=none")
    config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_2
    if kind == "cpu":  # where XLA has to be allowed by a flag, read at the first session of the process
        flags = os.environ.get("TF_XLA_FLAGS", "")
        if "tf_xla_cpu_global_jit" not in flags:
            os.environ["TF_XLA_FLAGS"] = (flags + " --tf_xla_cpu_global_jit").strip()
