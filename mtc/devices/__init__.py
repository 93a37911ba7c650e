"""The device that a run trains on: what it is called and how a TensorFlow session on it is configured. One module a kind."""

from mtc.devices import cpu, gpu, npu
from mtc.errors import UserError

_KINDS = {"npu": npu, "gpu": gpu, "cpu": cpu}
"""In the order in which "auto" tries them."""


def select(device, threads=0):
    """Return (kind, description, ConfigProto) for train.device ("auto", "cpu", "gpu" or "npu") and train.threads (0: one a core).

    Errors: UserError where the device asked for is not there.
    """
    for kind, module in _KINDS.items():
        if device in (kind, "auto"):
            missing = module.missing()
            if not missing:
                return (kind,) + module.configure(threads)
            if device == kind:
                raise UserError("train.device={}: {}".format(kind, missing))
    raise AssertionError(device)
