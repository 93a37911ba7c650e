"""Double of the SWIG module npu_bridge.tf_adapter: its functions exist and are journaled."""

from npu_double import device
from npu_double.recorder import recorded


class map_string_string(dict):  # noqa: N801 - the name there
    """A dict of strings."""


@recorded("tf_adapter.PluginInit")
def PluginInit(options):  # noqa: N802
    return 0


@recorded("tf_adapter.PluginFinalize")
def PluginFinalize():  # noqa: N802
    return 0


@recorded("tf_adapter.NpuClose")
def NpuClose():  # noqa: N802
    return 0


@recorded("tf_adapter.GetDeviceSatMode")
def GetDeviceSatMode():  # noqa: N802
    return 1 if device.inf_nan_mode() else 0


@recorded("tf_adapter.SetDeviceSatMode")
def SetDeviceSatMode(mode):  # noqa: N802
    device.set_sat_mode(mode)
    return 0


@recorded("tf_adapter.EnableControl")
def EnableControl():  # noqa: N802
    return 0


@recorded("tf_adapter.Clear")
def Clear():  # noqa: N802
    return 0


@recorded("tf_adapter.ProfilerStart")
def ProfilerStart(options):  # noqa: N802
    return 0


@recorded("tf_adapter.ProfilerStop")
def ProfilerStop():  # noqa: N802
    return 0
