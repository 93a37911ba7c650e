"""Choosing a device, and what the session of each is told."""

import dataclasses
import os
import sys
import types

import pytest
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from mtc import devices
from mtc.config import load
from mtc.devices import cpu, gpu, npu, precision
from mtc.errors import UserError
from mtc.training import loss_scale


def config(*overrides):
    return load("demo", overrides)


@pytest.fixture
def no_npu(monkeypatch):
    monkeypatch.setattr(npu, "missing", lambda: "none")


@pytest.fixture
def npu_bridge(monkeypatch):
    """A double of CANN's adapter, as far as this file needs it: it notes what is made, and refuses what the real one would misread in silence."""
    calls = types.SimpleNamespace(configured=[], made=[], ran=[])

    def npu_config_proto(config_proto=None):
        options = config_proto.graph_options.rewrite_options
        entries = [entry for entry in options.custom_optimizers if entry.name == "NpuOptimizer"]
        kinds = {key: value.WhichOneof("value") for entry in entries for key, value in entry.parameter_map.items()}
        known = {"use_off_line": "b", "precision_mode": "s", "op_compiler_cache_dir": "s", "hcom_parallel": "b"}
        assert all(kinds[key] == known[key] for key in kinds), kinds
        if not entries:
            options.custom_optimizers.add().name = "NpuOptimizer"
            options.memory_optimization = RewriterConfig.OFF
        config_proto.allow_soft_placement = True
        config_proto.log_device_placement = False
        options.remapping = RewriterConfig.OFF
        config_proto.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.OFF
        calls.configured.append(config_proto)
        return config_proto

    def made(name):
        def make(*arguments, **options):
            calls.made.append((name, arguments, options))
            return types.SimpleNamespace(name=name, get_loss_scale=lambda: "the scale")

        return make

    def operation(name):
        return lambda: tf.py_func(lambda: calls.ran.append(name), [], [], name=name)

    package, module = types.ModuleType("npu_bridge"), types.ModuleType("npu_bridge.npu_init")
    package.__path__, module.npu_config_proto = [], npu_config_proto
    package.__spec__ = types.SimpleNamespace(name="npu_bridge")
    for name in ("ExponentialUpdateLossScaleManager", "FixedLossScaleManager", "NPULossScaleOptimizer", "npu_distributed_optimizer_wrapper"):
        setattr(module, name, made(name))
    module.npu_ops = types.SimpleNamespace(initialize_system=operation("start"), shutdown_system=operation("stop"))
    module.npu_scope = types.SimpleNamespace(keep_dtype_scope=lambda: "the scope")
    monkeypatch.setitem(sys.modules, "npu_bridge", package)
    monkeypatch.setitem(sys.modules, "npu_bridge.npu_init", module)
    return calls


def entry(device):
    """Return {key: value} of the NPU's custom optimizer."""
    (found,) = device.session_config.graph_options.rewrite_options.custom_optimizers
    return {key: getattr(value, value.WhichOneof("value")) for key, value in found.parameter_map.items()}


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch, no_npu):
    monkeypatch.setattr(gpu, "missing", lambda: "none")
    device = devices.select(config("train.threads=3", "train.deterministic=no"))
    assert (device.kind, device.name, device.rounds_to) == ("cpu", "CPU, 3 threads", None)
    assert device.session_config.intra_op_parallelism_threads == 3
    assert device.session_config.device_count["GPU"] == 0


@pytest.mark.parametrize(("device", "advice"), [("npu", "npu_bridge is not installed"), ("gpu", "sees no GPU")])
def test_a_device_that_is_not_there_is_refused_with_advice(device, advice, monkeypatch):
    monkeypatch.setattr(tf.config.experimental, "list_physical_devices", lambda kind: [])
    with pytest.raises(UserError, match="train.device={}: .*{}".format(device, advice)):
        devices.select(config("train.device=" + device))


def test_the_npus_session_hands_its_graph_to_the_npu(npu_bridge, monkeypatch):
    monkeypatch.setenv("ASCEND_DEVICE_ID", "3")
    device = devices.select(config("npu.chip=910", "npu.options={op_compiler_cache_dir: /tmp}", "npu.options.hcom_parallel=true"))
    assert (device.kind, device.name) == ("npu", "Ascend NPU 3 (910), force_fp32")
    assert npu_bridge.configured == [device.session_config]
    options = device.session_config.graph_options.rewrite_options
    assert entry(device) == {"precision_mode": b"force_fp32", "use_off_line": True, "op_compiler_cache_dir": b"/tmp", "hcom_parallel": True}
    assert (options.remapping, options.memory_optimization) == (RewriterConfig.OFF, RewriterConfig.OFF)
    assert device.before_first_step.endswith("/tmp")
    assert device.in_float32() == "the scope"


@pytest.mark.parametrize(
    ("chip", "asked", "mode"),
    [
        ("910", "mixed_fp16", b"allow_mix_precision"),
        ("910B", "mixed_bf16", b"allow_mix_precision_bf16"),
        ("910B", "fp32", b"force_fp32"),
    ],
)
def test_each_precision_has_its_mode(npu_bridge, chip, asked, mode):
    assert entry(devices.select(config("npu.chip=" + chip, "train.precision=" + asked)))["precision_mode"] == mode


def test_a_mode_of_ones_own_goes_over_it(npu_bridge):
    for name in ("ascend_full", "ascend_perf"):
        assert entry(devices.select(load(name, ["npu.chip=910", "train.deterministic=no"])))["precision_mode"] == b"allow_mix_precision"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("npu.chip=910", "train.precision=mixed_bf16"), "train.precision=mixed_bf16: the Ascend 910 has no such numbers; use mixed_fp16"),
        (("npu.chip=910", "npu.precision_mode=allow_mix"), "npu.precision_mode: 'allow_mix' is not one of .*did you mean"),
        (
            ("npu.chip=910", "npu.options.hcom_paralel=true"),
            "npu.options.hcom_paralel: the adapter knows no such option.*did you mean 'hcom_parallel'",
        ),
        (("npu.chip=910", "npu.options.hcom_parallel=1"), "npu.options.hcom_parallel: expected true or false"),
        (("train.replicas=2",), "train.replicas=2: a process has one NPU"),
        (("train.compile=xla", "npu.chip=910"), "train.compile=xla: the NPU has a compiler of its own"),
    ],
)
def test_what_the_npu_cannot_do_is_refused_before_its_adapter_is_asked(npu_bridge, options, said):
    with pytest.raises(UserError, match=said):
        devices.select(config(*options))
    assert npu_bridge.configured == [] or "xla" in options[0]


def test_the_chip_is_asked_for_its_name(npu_bridge, monkeypatch, tmp_path):
    for told, chip in (("| 0  910B3  | OK", "910B"), ("| 0  910A  | OK", "910"), ("| 0  910B  | OK", "910"), ("Ascend910_9392", "910B")):
        (tmp_path / "npu-smi").write_text("#!/bin/sh\necho '{}'\n".format(told))
        (tmp_path / "npu-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
        assert " ({}), ".format(chip) in devices.select(config("train.device=npu")).name
    (tmp_path / "npu-smi").write_text("#!/bin/sh\nexit 1\n")
    assert " (910), " in devices.select(config("train.device=npu")).name


def test_on_a_910_the_vendors_optimizer_keeps_the_scale_and_asks_all_ranks_whether_it_overflowed(npu_bridge):
    device = devices.select(config("npu.chip=910", "train.precision=mixed_fp16"))
    scaling = loss_scale.Scaling(True, 2.0**15, 2.0, 1000, 2)
    optimizer, scale = device.wrap("ours", scaling, 8)
    assert (optimizer.name, scale) == ("NPULossScaleOptimizer", "the scale")
    (keeper, _, given), (_, (inner, kept), options) = npu_bridge.made
    assert keeper == "ExponentialUpdateLossScaleManager"
    assert given == {
        "init_loss_scale": 32768, "incr_every_n_steps": 1000, "decr_every_n_nan_or_inf": 2, "incr_ratio": 2, "decr_ratio": 0.5,
    }  # fmt: skip
    assert (inner, kept.name, options) == ("ours", "ExponentialUpdateLossScaleManager", {"is_distributed": True})

    npu_bridge.made.clear()
    device.wrap("ours", scaling._replace(dynamic=False), 1)
    assert [name for name, _, _ in npu_bridge.made] == ["FixedLossScaleManager", "NPULossScaleOptimizer"]
    assert npu_bridge.made[0][1] == (32768,)
    assert npu_bridge.made[1][1][0] == "ours"


def test_a_910b_and_other_devices_leave_the_scale_to_us(npu_bridge, no_npu):
    device = npu.select(config("npu.chip=910B"), 1)
    assert device.wrap("ours", loss_scale.Scaling(True, 1.0, 2.0, 1, 1)) == ("ours", None)
    assert device.wrap("ours", None, 2) == ("ours", None)  # gradients are added up where they are computed
    assert devices.select(config("train.device=cpu")).wrap("ours", None) == ("ours", None)


def test_the_npu_is_started_before_the_session_and_shut_down_after_it_in_any_case(npu_bridge):
    device = dataclasses.replace(devices.select(config("npu.chip=910")), session_config=None)
    with tf.Graph().as_default() as graph:
        one = tf.constant(1)

    def use():
        with device.session(graph) as session:
            assert npu_bridge.ran == ["start"]
            assert session.run(one) == 1
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert npu_bridge.ran == ["start", "stop"]


def test_sessions_of_the_host_stay_there_once_the_adapter_is_loaded(npu_bridge, monkeypatch):
    (found,) = devices.host_only(tf.ConfigProto()).graph_options.rewrite_options.custom_optimizers
    assert (found.name, found.parameter_map["use_off_line"].b) == ("NpuOptimizer", False)
    monkeypatch.delitem(sys.modules, "npu_bridge")
    assert devices.host_only(tf.ConfigProto()) == tf.ConfigProto()


def test_tensorflow_2_has_an_adapter_of_another_name(monkeypatch):
    switched = []
    device, interface = types.ModuleType("npu_device"), types.ModuleType("npu_device.compat.v1.npu_init")
    device.__path__, device.__spec__ = [], types.SimpleNamespace(name="npu_device")
    device.compat = types.SimpleNamespace(enable_v1=lambda: switched.append(True))
    for name, module in (("npu_device", device), ("npu_device.compat.v1.npu_init", interface)):
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("npu_device.compat", "npu_device.compat.v1"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    assert npu.missing() == ""
    assert npu._adapter() is interface
    assert switched == [True]


@pytest.fixture
def two_gpus(monkeypatch, no_npu):
    seen = [types.SimpleNamespace(name="/physical_device:GPU:0"), types.SimpleNamespace(name="/physical_device:GPU:1")]
    monkeypatch.setattr(tf.config.experimental, "list_physical_devices", lambda kind: seen if kind == "GPU" else [])
    for name in ("WHITELIST_REMOVE", "ALLOWLIST_REMOVE"):
        monkeypatch.setenv("TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_" + name, "Einsum")


def test_one_gpu_is_used_and_its_memory_is_taken_as_needed(two_gpus):
    device = devices.select(config())
    assert (device.kind, device.name) == ("gpu", "GPU /physical_device:GPU:0")
    assert device.session_config.gpu_options.allow_growth
    assert device.session_config.gpu_options.visible_device_list == "0"
    assert device.session_config.allow_soft_placement
    assert device.session_config.graph_options.rewrite_options.auto_mixed_precision == RewriterConfig.DEFAULT


def test_float16_on_a_gpu_is_a_rewrite_of_all_but_matrix_products(two_gpus):
    device = devices.select(config("train.precision=mixed_fp16"))
    assert device.session_config.graph_options.rewrite_options.auto_mixed_precision == RewriterConfig.ON
    for name in ("WHITELIST_REMOVE", "ALLOWLIST_REMOVE"):
        assert os.environ["TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_" + name] == "Einsum,MatMul,BatchMatMul,BatchMatMulV2"
    assert device.name.endswith("float16 by TensorFlow's rewrite")


def test_bfloat16_on_a_gpu_is_refused_where_there_are_no_kernels(two_gpus, monkeypatch):
    monkeypatch.setattr(precision, "has_kernels", lambda dtype, place, session_config: False)
    with pytest.raises(UserError, match="train.precision=mixed_bf16: TensorFlow .* has no bfloat16 convolutions for GPUs; use mixed_fp16"):
        devices.select(config("train.precision=mixed_bf16"))
    monkeypatch.setattr(precision, "has_kernels", lambda dtype, place, session_config: True)
    assert devices.select(config("train.precision=mixed_bf16")).name.endswith("convolutions in bfloat16")


def test_the_cpus_rate_of_matrix_products_is_measured_and_an_npus_is_not():
    session_config = devices.select(config("train.device=cpu")).session_config
    assert 1e8 < devices.peak.measure("cpu", session_config) < 1e15
    assert devices.peak.measure("npu", session_config) is None


def test_xla_is_switched_on_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug")
    plain = devices.select(config("train.device=cpu")).session_config
    assert plain.graph_options.optimizer_options.global_jit_level == tf.OptimizerOptions.DEFAULT
    device = devices.select(config("train.device=cpu", "train.compile=xla"))
    assert device.session_config.graph_options.optimizer_options.global_jit_level == tf.OptimizerOptions.ON_2
    assert device.name.endswith("compiled by XLA")
    assert os.environ["TF_XLA_FLAGS"] == "--tf_xla_clustering_debug --tf_xla_cpu_global_jit"


def test_a_cpu_uses_tensorflows_own_16_bits_where_they_are_and_rounds_elsewhere(monkeypatch):
    monkeypatch.setattr(precision, "_takes_place", lambda field, dtype, session_config: field == "auto_mixed_precision")
    monkeypatch.setattr(precision, "_ON_CPU", {"bfloat16": ("no_such_field", "auto_mixed_precision"), "float16": ("no_such_field",)})
    bf16, fp16 = (cpu.select(config("train.precision=" + name), 1) for name in ("mixed_bf16", "mixed_fp16"))
    assert (bf16.rounds_to, fp16.rounds_to) == (None, "float16")
    assert bf16.session_config.graph_options.rewrite_options.auto_mixed_precision == RewriterConfig.ON
    assert "convolutions in bfloat16 (auto_mixed_precision)" in bf16.name
    assert "convolutions rounded as float16 would be" in fp16.name
