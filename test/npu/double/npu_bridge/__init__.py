"""Test double of Huawei's npu_bridge: same import paths, signatures and refusals, on stock TensorFlow; written from facts alone, no vendor code.

See `npu_double` beside it for what tests can ask and tell it.
"""

import atexit

from npu_double import recorder, sessions

__version__ = "v1.15.0"
__test_double__ = True

recorder.note("event", api="npu_bridge.import", era=sessions.era())
sessions.install()

from npu_bridge import tf_adapter  # noqa: E402 - it registers with what is installed above

tf_adapter.PluginInit({})


@atexit.register
def _npu_close():
    tf_adapter.NpuClose()
