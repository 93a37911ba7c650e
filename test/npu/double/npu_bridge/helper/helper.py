"""Double of npu_bridge.helper.helper: the raw operations that the adapter's library registers."""

import types

import tensorflow.compat.v1 as tf
from npu_double import collective, device, recorder


def npu_get_float_status_v2(name=None):
    """Return the overflow register, (8,) int32."""
    collective.no_eager("npu_get_float_status_v2")
    return collective.node("NpuGetFloatStatusV2", device.read_status, [], tf.int32, [8], name or "NpuGetFloatStatusV2")


def npu_clear_float_status_v2(name=None):
    """Return the operation that clears the overflow register."""
    collective.no_eager("npu_clear_float_status_v2")
    return collective.node("NpuClearFloatStatusV2", device.clear_status, [], tf.int32, [], name or "NpuClearFloatStatusV2").op


def npu_alloc_float_status(name=None):
    """Return (1,) float32: the older family's status, before it is read."""
    return collective.stamped(tf.identity(tf.zeros([1]), name=name or "NpuAllocFloatStatus"), "NpuAllocFloatStatus")


def npu_get_float_status(addr, name=None):
    """Return the status, (1,) float32."""
    read = lambda _: device.read_status()[:1]  # noqa: E731
    return collective.node("NpuGetFloatStatus", read, [addr], tf.float32, [1], name or "NpuGetFloatStatus")


def npu_clear_float_status(addr, name=None):
    """Clear the status; returns (1,) float32."""
    clear = lambda _: [float(device.clear_status())]  # noqa: E731
    return collective.node("NpuClearFloatStatus", clear, [addr], tf.float32, [1], name or "NpuClearFloatStatus")


def _system(op_type, run):
    def make(name=None):
        collective.no_eager(op_type)
        return collective.node(op_type, run, [], tf.int32, [], name or op_type).op

    return make


def _initialize():
    from npu_double import world

    recorder.enter("init_run")
    if world.count("inits") > 1:
        recorder.lint("initialized-twice", "initialize_system runs for the {}. time".format(world._state["inits"]))
    recorder.note("event", api="initialize_system.run")
    world.start(by_system=True)
    return 0


def _shutdown():
    from npu_double import world

    world.count("shutdowns")
    recorder.note("event", api="shutdown_system.run")
    world.stop()
    recorder.enter("shutdown")
    return 0


npu_init = _system("NPUInit", _initialize)
npu_shutdown = _system("NPUShutdown", _shutdown)


def get_gen_ops():
    """Return the namespace of raw operations."""
    return types.SimpleNamespace(
        npu_get_float_status_v2=npu_get_float_status_v2,
        npu_clear_float_status_v2=npu_clear_float_status_v2,
        npu_alloc_float_status=npu_alloc_float_status,
        npu_get_float_status=npu_get_float_status,
        npu_clear_float_status=npu_clear_float_status,
        npu_init=npu_init,
        npu_shutdown=npu_shutdown,
    )
