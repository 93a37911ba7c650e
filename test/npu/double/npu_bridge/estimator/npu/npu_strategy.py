"""Double of npu_bridge.estimator.npu.npu_strategy."""

from npu_double.recorder import recorded

from npu_bridge.estimator.npu import util


class NPUStrategy:
    """One device, /cpu:0, and as many replicas as ranks."""

    @recorded("NPUStrategy")
    def __init__(self, device="/cpu:0"):
        if device != "/cpu:0":
            raise ValueError("device={!r}, expected '/cpu:0'".format(device))
        self._num_replicas_in_sync = int(util.get_ranksize())
