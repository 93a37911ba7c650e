"""Double of npu_bridge.estimator.npu.npu_plugin: the device's process-wide settings."""

from npu_double import device
from npu_double.recorder import recorded


@recorded("npu_plugin.npu_resource_init")
def npu_resource_init(
    graph_run_mode=1, op_debug_level=0, enable_profiling=False, profiling_options=None, auto_tune_mode=None, precision_mode=None,
    enable_scope_fusion_passes=None, enable_exception_dump=0, aoe_mode=None, work_path=None, op_compiler_cache_mode=None,
    op_compiler_cache_dir=None,
):  # fmt: skip
    """Initialise the graph engine for the process. Errors: ValueError, TypeError."""
    if graph_run_mode not in (0, 1):
        raise ValueError("graph_run_mode={!r}, expected 0 or 1".format(graph_run_mode))
    if not isinstance(enable_profiling, bool):
        raise TypeError("enable_profiling is {}, expected a bool".format(type(enable_profiling).__name__))
    if enable_profiling and profiling_options is None:
        raise ValueError("enable_profiling without profiling_options")


@recorded("npu_plugin.npu_resource_shutdown")
def npu_resource_shutdown():
    """Finalise the graph engine."""


@recorded("npu_plugin.set_device_sat_mode")
def set_device_sat_mode(mode):
    """0: saturate; 1: Inf and NaN, not on a 910 (ValueError)."""
    device.set_sat_mode(mode)


@recorded("npu_plugin.is_inf_nan_enabled")
def is_inf_nan_enabled():
    """Whether overflow makes Inf and NaN."""
    return device.inf_nan_mode()


@recorded("npu_plugin.npu_close")
def npu_close():
    """Let go of the device."""
