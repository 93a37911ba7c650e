"""The pretended chip: which one, how it saturates, and the one register that says whether anything overflowed.

The register is global to the device (facts §3.3): it is read by npu_get_float_status_v2, set to zero by npu_clear_float_status_v2 alone, and
stays set until then. `inject_overflow` sets it at the n-th read (the first is 1), which is the n-th step of a loss-scaled optimizer.
"""

import os
import threading

import numpy as np

from npu_double import recorder

CHIPS = ("910", "910B")

_lock = threading.Lock()
_state = {}


@recorder.at_reset
def _restart():
    _state.update(chip=os.environ.get("NPU_DOUBLE_CHIP", "910"), sat_mode=None, register=False, reads=0)
    _state["overflows"] = {int(step) for step in os.environ.get("NPU_DOUBLE_OVERFLOW", "").split(",") if step.strip()}
    if _state["chip"] not in CHIPS:
        raise ValueError("NPU_DOUBLE_CHIP={}: expected one of {}".format(_state["chip"], ", ".join(CHIPS)))


def set_chip(chip):
    """Pretend to be '910' or '910B'."""
    if chip not in CHIPS:
        raise ValueError("chip {!r}: expected one of {}".format(chip, ", ".join(CHIPS)))
    _state["chip"] = chip


def chip():
    """Return '910' or '910B'."""
    return _state["chip"]


def inject_overflow(at_steps):
    """Let these steps overflow: numbers of reads of the status register, counted from 1 since `reset`."""
    with _lock:
        _state["overflows"] = set(at_steps)


def overflowed():
    """Set the register, as a calculation that overflows does."""
    _state["register"] = True


def set_sat_mode(mode):
    """0: saturate, 1: Inf and NaN. Errors: ValueError for another, and for 1 on a 910."""
    if mode not in (0, 1):
        raise ValueError("set_device_sat_mode({!r}): expected 0 or 1".format(mode))
    if mode == 1 and chip() == "910":
        raise ValueError("set_device_sat_mode(1): the 910 can only saturate (0)")
    _state["sat_mode"] = mode


def inf_nan_mode():
    """Whether overflow makes Inf and NaN: the 910 never, the 910B unless told to saturate."""
    return chip() == "910B" and _state["sat_mode"] != 0


def read_status():
    """Return the register as the device does: (8,) int32, all zero if nothing overflowed since it was cleared."""
    with _lock:
        _state["reads"] += 1
        if _state["reads"] in _state["overflows"]:
            _state["register"] = True
        status = np.zeros(8, np.int32)
        status[0] = int(_state["register"])
        reads = _state["reads"]
    recorder.note("event", api="float_status.read", step=reads, overflow=bool(status[0]))
    return status


def clear_status():
    """Set the register to zero. Returns an int32 that says nothing."""
    with _lock:
        _state["register"] = False
    return np.int32(0)


_restart()
