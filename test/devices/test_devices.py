"""Choosing a device, and what the session of each is told."""

import os
import sys
import types

import pytest
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from mtc import devices
from mtc.devices import gpu, npu
from mtc.errors import UserError


@pytest.fixture
def npu_bridge(monkeypatch):
    """A double of CANN's adapter: `npu_config_proto` as its source says, refusing what the real one would misread in silence."""
    calls = []

    def npu_config_proto(config_proto=None):
        options = config_proto.graph_options.rewrite_options
        entries = [entry for entry in options.custom_optimizers if entry.name == "NpuOptimizer"]
        kinds = {key: value.WhichOneof("value") for entry in entries for key, value in entry.parameter_map.items()}
        assert all(kinds[key] == {"use_off_line": "b", "precision_mode": "s"}[key] for key in kinds), kinds
        if not entries:
            options.custom_optimizers.add().name = "NpuOptimizer"
            options.memory_optimization = RewriterConfig.OFF
        config_proto.allow_soft_placement = True
        config_proto.log_device_placement = False
        options.remapping = RewriterConfig.OFF
        config_proto.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.OFF
        calls.append(config_proto)
        return config_proto

    package, module = types.ModuleType("npu_bridge"), types.ModuleType("npu_bridge.npu_init")
    package.__path__, module.npu_config_proto = [], npu_config_proto
    package.__spec__ = types.SimpleNamespace(name="npu_bridge")
    monkeypatch.setitem(sys.modules, "npu_bridge", package)
    monkeypatch.setitem(sys.modules, "npu_bridge.npu_init", module)
    return calls


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch):
    monkeypatch.setattr(gpu, "missing", lambda: "none")
    monkeypatch.setattr(npu, "missing", lambda: "none")
    kind, description, config = devices.select("auto", threads=3)
    assert (kind, description) == ("cpu", "CPU, 3 threads")
    assert config.intra_op_parallelism_threads == 3
    assert config.device_count["GPU"] == 0


@pytest.mark.parametrize(("device", "advice"), [("npu", "npu_bridge is not installed"), ("gpu", "sees no GPU")])
def test_a_device_that_is_not_there_is_refused_with_advice(device, advice, monkeypatch):
    monkeypatch.setattr(tf.config.experimental, "list_physical_devices", lambda kind: [])
    with pytest.raises(UserError, match="train.device={}: .*{}".format(device, advice)):
        devices.select(device)


def test_the_npus_session_hands_its_graph_to_the_npu(npu_bridge, monkeypatch):
    monkeypatch.setenv("ASCEND_DEVICE_ID", "3")
    kind, description, config = devices.select("auto")
    assert (kind, description) == ("npu", "Ascend NPU 3")
    assert npu_bridge == [config]
    options = config.graph_options.rewrite_options
    (entry,) = options.custom_optimizers
    assert entry.name == "NpuOptimizer"
    assert entry.parameter_map["precision_mode"].s == b"allow_mix_precision"
    assert entry.parameter_map["use_off_line"].b is True
    assert (options.remapping, options.memory_optimization) == (RewriterConfig.OFF, RewriterConfig.OFF)


def test_one_gpu_is_used_and_its_memory_is_taken_as_needed(monkeypatch):
    seen = [types.SimpleNamespace(name="/physical_device:GPU:0"), types.SimpleNamespace(name="/physical_device:GPU:1")]
    monkeypatch.setattr(tf.config.experimental, "list_physical_devices", lambda kind: seen if kind == "GPU" else [])
    monkeypatch.setattr(npu, "missing", lambda: "none")
    kind, description, config = devices.select("auto")
    assert (kind, description) == ("gpu", "GPU /physical_device:GPU:0")
    assert config.gpu_options.allow_growth
    assert config.gpu_options.visible_device_list == "0"
    assert config.allow_soft_placement


def test_the_cpus_rate_of_matrix_products_is_measured_and_an_npus_is_not():
    kind, _, session_config = devices.select("cpu")
    assert 1e8 < devices.peak.measure(kind, session_config) < 1e15
    assert devices.peak.measure("npu", session_config) is None


def test_xla_is_switched_on_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug")
    assert devices.select("cpu")[2].graph_options.optimizer_options.global_jit_level == tf.OptimizerOptions.DEFAULT
    _, description, session_config = devices.select("cpu", compiler="xla")
    assert session_config.graph_options.optimizer_options.global_jit_level == tf.OptimizerOptions.ON_2
    assert description.endswith("compiled by XLA")
    assert os.environ["TF_XLA_FLAGS"] == "--tf_xla_clustering_debug --tf_xla_cpu_global_jit"


def test_the_npu_refuses_a_second_compiler(npu_bridge):
    with pytest.raises(UserError, match="train.compile=xla: the NPU has a compiler of its own"):
        devices.select("npu", compiler="xla")
