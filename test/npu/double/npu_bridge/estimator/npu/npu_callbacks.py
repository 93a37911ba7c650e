"""Double of npu_bridge.estimator.npu.npu_callbacks: Keras, which is not in the test double."""

from npu_double.recorder import recorded


class NPUBroadcastGlobalVariablesCallback:
    """Would broadcast once, at the first batch."""

    @recorded("NPUBroadcastGlobalVariablesCallback")
    def __init__(self, root_rank):
        self.root_rank = root_rank
