"""The machinery of the test double of npu_bridge and hccl, and what tests ask it. No part of Huawei's API: that is in npu_bridge and hccl beside it.

It is there only where test/npu/double is on the path: tests put it into sys.path, programs that tests start get it by PYTHONPATH. Those are told by
environment variables what a test in the same process says with functions:

    def test_training(npu):                        # the fixture of test/npu/conftest.py: npu_bridge.npu_init
        ...                                        # build a graph, run sessions
        assert npu_double.lints() == []            # what the real stack would have swallowed
        assert npu_double.last("session.run")["loops"] == 10

    command = [sys.executable, "-m", "tasks.train", ...]
    environment = dict(os.environ, PYTHONPATH=DOUBLE, NPU_DOUBLE_JOURNAL=str(path))
    entries = npu_double.read_journal(str(path))   # after it ended, or was killed

NPU_DOUBLE_JOURNAL=file      write the journal there ({rank} is replaced): read_journal
NPU_DOUBLE_OVERFLOW=3,5      steps that overflow: inject_overflow
NPU_DOUBLE_CHIP=910B         the chip: set_chip
NPU_DOUBLE_HUB=127.0.0.1:1   where the ranks of a job meet; else it follows from RANK_TABLE_FILE or CM_CHIEF_PORT
NPU_DOUBLE_TIMEOUT=60        seconds after which a rank that does not come counts as hung
NPU_DOUBLE_ERA=2021          the edition of 2021: no session patch, no npu_config_proto
NPU_DOUBLE_FP16=1            calculate convolutions and matrix products on fp16, saturating: emulate_fp16
"""

from npu_double.device import inject_overflow, set_chip
from npu_double.graphs import graphs_differ
from npu_double.numeric import emulate_fp16
from npu_double.options import Aborted
from npu_double.recorder import journal, last, lints, read_journal, reset
from npu_double.sessions import uninstall
from npu_double.world import set_world

__all__ = [
    "Aborted", "emulate_fp16", "graphs_differ", "inject_overflow", "journal", "last", "lints", "read_journal", "reset", "set_chip",
    "set_world", "uninstall",
]  # fmt: skip
