"""The test double of npu_bridge and hccl, as a fixture that leaves no trace: neither modules, nor patches of TensorFlow, nor variables."""

import importlib
import os
import sys

import pytest

DOUBLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "double")
VARIABLES = ("RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE", "JOB_ID", "DEVICE_ID", "ASCEND_DEVICE_ID")


def clean_environment():
    """Return the environment without what tells a process of Ascend, ranks, or the double."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES and not name.startswith(("CM_", "NPU_DOUBLE_"))}


def _forget():
    for name in [name for name in sys.modules if name.split(".")[0] in ("npu_bridge", "hccl")]:
        del sys.modules[name]


@pytest.fixture
def npu_double(monkeypatch):
    """The double's own interface, before anything imported npu_bridge."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(DOUBLE)
    _forget()
    double = importlib.import_module("npu_double")
    double.reset()
    yield double
    double.reset()
    double.uninstall()
    _forget()


@pytest.fixture
def npu(npu_double):
    """npu_bridge.npu_init, imported as training code does."""
    return importlib.import_module("npu_bridge.npu_init")


@pytest.fixture
def graph():
    """An empty graph as the default."""
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default() as made:
        tf.set_random_seed(1)  # a deterministic training that ran before in this process has made TensorFlow 2 ask for one
        yield made
