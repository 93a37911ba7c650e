"""Training on one Ascend NPU through CANN's TF Adapter: `npu_bridge` for TensorFlow 1.15, `npu_device` for 2.6.

The session's graph is handed to the NPU by a custom optimizer named NpuOptimizer in its configuration (CANN migration guide, "session
configuration"). An entry that we add ourselves obliges us to switch memory_optimization off; `npu_config_proto` switches remapping and JIT off.
Importing the adapter has effects: from then on every session of the process goes to the NPU unless it says otherwise (`host_only`). So
nothing is imported before a run asks for an NPU, and nowhere but here. Facts and sources: facts/ascend.md.

The 910 does not produce infinities: what overflows becomes the largest number, and a status register tells. Only the vendor's optimizer reads it, so
there it keeps the loss scale; the 910B computes infinities, and is treated as any other device.
"""

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import re
import subprocess
import sys

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from mtc.devices import npu_options
from mtc.devices.device import Device
from mtc.errors import UserError
from mtc.nets import convolution

log = logging.getLogger("mtc.devices")

_OPTIMIZER = "NpuOptimizer"
_ADAPTERS = ("npu_bridge", "npu_device")
_MODES = {"fp32": "force_fp32", "mixed_fp16": "allow_mix_precision", "mixed_bf16": "allow_mix_precision_bf16"}
"""Adapter's mode of each train.precision. The cube of the 910 takes float16 only: force_fp32 is float16 into and float32 out of its convolutions."""

_SECOND_GENERATION = re.compile(r"910(?:B\d|_?93|C)")
"""Chip names of the 910B and its successor; the first generation has a 910B without a digit."""


_started = []
"""Not empty while the device's system runs."""


def missing():
    """Return why there is no NPU, or "" where its adapter is installed."""
    if not any(importlib.util.find_spec(name) for name in _ADAPTERS):
        return "the Python package npu_bridge is not installed (it comes with CANN; source its set_env.sh)"
    return ""


def select(config, replicas):
    """Return the `Device` ASCEND_DEVICE_ID (0 where it is not set).

    Errors: UserError for several replicas (a process has one NPU), a precision that the chip has not got, and options that the adapter would misread.
    """
    if replicas > 1:
        raise UserError("train.replicas={}: a process has one NPU; set it to 1".format(replicas))
    chip, given = _chip(config.npu.chip), config.npu.options
    mode = _mode(config, chip)
    ours = {npu_options.precision_mode(mode, chip).key: mode}
    per_run = config.npu.iterations_per_loop
    if per_run > 1:
        ours.update(iterations_per_loop=per_run, enable_data_pre_proc=True)
    npu_options.check(given, chip, "npu.options", ours=ours)
    for remark in npu_options.remarks(given, chip, ours=ours):
        log.warning("npu: %s", remark)
    adapter = _adapter()
    session_config = tf.ConfigProto(intra_op_parallelism_threads=config.train.threads, allow_soft_placement=True)
    rewrites = session_config.graph_options.rewrite_options
    custom = rewrites.custom_optimizers.add(name=_OPTIMIZER)
    custom.parameter_map["use_off_line"].b = True
    npu_options.put(custom, dict(given, **ours))
    rewrites.remapping = RewriterConfig.OFF
    rewrites.memory_optimization = RewriterConfig.OFF
    cache = given.get("op_compiler_cache_dir") or os.environ.get("ASCEND_CACHE_PATH") or os.path.join(os.path.expanduser("~"), "atc_data")
    return Device(
        "npu",
        "Ascend NPU {} ({}), {}".format(os.environ.get("ASCEND_DEVICE_ID", "0"), chip, mode),
        adapter.npu_config_proto(config_proto=session_config),
        convolution.convolve,
        in_float32=adapter.npu_scope.keep_dtype_scope,
        wrap=functools.partial(_wrap, adapter, chip),
        system=functools.partial(_system, adapter),
        steps_per_run=per_run,
        looped=lambda session, op: adapter.util.set_iteration_per_loop(session, op, per_run),
        before_first_step="the NPU compiles the graph before the first step, which takes minutes the first time; its operators are kept in " + cache,
    )


def make_deterministic(session_config):
    """Ask for kernels that give the same bits each time."""
    _entry(session_config).parameter_map["deterministic"].i = 1


def put(session_config, options):
    """Add {key: value} to what the adapter is told by the session of a `Device` of ours; they go before npu.options."""
    npu_options.put(_entry(session_config), options)


def host_only(session_config):
    """Return the ConfigProto of a session that is to stay on the host, whatever the adapter has made of tf.Session; it is changed in place."""
    if any(name in sys.modules for name in _ADAPTERS):
        rewrites = session_config.graph_options.rewrite_options
        custom = _entry(session_config) or rewrites.custom_optimizers.add(name=_OPTIMIZER)
        custom.parameter_map["use_off_line"].b = False
        rewrites.memory_optimization = RewriterConfig.OFF
    return session_config


def _entry(session_config):
    found = [entry for entry in session_config.graph_options.rewrite_options.custom_optimizers if entry.name == _OPTIMIZER]
    return found[0] if found else None


def _adapter():
    """Return the module whose names are the adapter's interface for graphs and sessions."""
    if importlib.util.find_spec("npu_bridge"):
        return importlib.import_module("npu_bridge.npu_init")
    device = importlib.import_module("npu_device")
    interface = importlib.import_module("npu_device.compat.v1.npu_init")
    device.compat.enable_v1()
    return interface


def _chip(asked):
    """Return "910" or "910B"."""
    if asked != "auto":
        return asked
    try:
        told = subprocess.run(["npu-smi", "info"], capture_output=True, check=True, timeout=20, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.info("npu-smi does not tell the chip (%s): taken for a 910; npu.chip says otherwise", error)
        return "910"
    return "910B" if _SECOND_GENERATION.search(told.stdout) else "910"


def _mode(config, chip):
    """Return the adapter's precision mode."""
    if config.npu.precision_mode != "auto":
        return config.npu.precision_mode
    mode = _MODES[config.train.precision]
    if mode not in npu_options.precision_modes(chip):
        text = "train.precision={}: the Ascend {} has no such numbers; use mixed_fp16 (npu.chip=910B if it is one)"
        raise UserError(text.format(config.train.precision, chip))
    return mode


def _wrap(adapter, chip, optimizer, scaling, ranks=1):
    """See `Device.wrap`. What scales the loss is outside, what adds up the gradients of all ranks inside: they are added up where they are computed,
    for a rank counts by its joints and limbs, and the vendor's wrapper takes the plain mean.
    """
    if scaling is None or chip != "910":
        return optimizer, None
    if scaling.dynamic:
        keeper = adapter.ExponentialUpdateLossScaleManager(
            init_loss_scale=scaling.initial,
            incr_every_n_steps=scaling.increase_every,
            decr_every_n_nan_or_inf=scaling.decrease_after,
            incr_ratio=scaling.factor,
            decr_ratio=1 / scaling.factor,
        )
    else:
        keeper = adapter.FixedLossScaleManager(scaling.initial)
    return adapter.NPULossScaleOptimizer(optimizer, keeper, is_distributed=ranks > 1), keeper.get_loss_scale()


@contextlib.contextmanager
def _system(adapter, session_config):
    """See `Device.system`: options of the whole device are those of the session that starts it, which has to be there until the end. Inside another
    one of these it does nothing.
    """
    if _started:
        yield
        return
    with tf.Graph().as_default() as graph:
        start, stop = adapter.npu_ops.initialize_system(), adapter.npu_ops.shutdown_system()
    with tf.Session(graph=graph, config=session_config) as session:
        session.run(start)
        _started.append(True)
        try:
            yield
        finally:
            _started.clear()
            session.run(stop)
