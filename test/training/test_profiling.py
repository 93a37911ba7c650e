"""Traces of steps: that they say what ran, add up, and change nothing."""

import json
import types

import pytest
import tensorflow.compat.v1 as tf
from tensorflow.core.framework.step_stats_pb2 import StepStats

from mtc.training import graph, observed, profiling
from test.training.test_training import assert_same_variables, metrics

pytestmark = pytest.mark.usefixtures("whole")
QUICK = ("train.steps=6", "model.stages=1", "model.crop=32", "model.width=0.02")


def ran(*times):
    return [profiling.Ran("op{}".format(i), "Type", start, end) for i, (start, end) in enumerate(times)]


def test_a_profiled_run_equals_an_unprofiled_one_and_says_where_time_goes(trained, monkeypatch):
    monkeypatch.setattr(profiling, "_TYPES", None)  # all of them: which take the most time is another matter on a busy machine
    monkeypatch.setattr(profiling, "_OPERATIONS", None)
    plain = trained(*QUICK, run="plain")
    profiled = trained(*QUICK + ("train.profile=4:9",), run="profiled")
    assert_same_variables(plain, profiled)
    losses = [[line["loss"] for line in metrics(run) if line["kind"] == "train"] for run in (plain, profiled)]
    assert losses[0] == losses[1]

    folder = profiled / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000005", "step-00000006", "summary.json", "summary.md"]
    events = json.loads((folder / "step-00000005" / "trace.json").read_text())["traceEvents"]
    assert any(event.get("ph") == "X" and event["dur"] >= 0 for event in events)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["steps"], summary["count"]) == ([4, 6], 3)
    assert [entry["part"] for entry in summary["parts"]] == [part for part in profiling.PARTS if part != observed.RANKS]
    assert sum(entry["share"] for entry in summary["parts"]) == pytest.approx(1, abs=1e-3)
    by_part = {entry["part"]: entry["ms"] for entry in summary["parts"]}
    assert all(by_part[part] > 0 for part in (observed.FORWARD, observed.LOSS, observed.GRADIENT, observed.OPTIMISER))
    calls = {entry["type"]: entry["calls"] for entry in summary["types"]}
    assert calls.get("ApplyAdam", calls.get("ResourceApplyAdam")) == 2 * (12 + 2 * 5)  # weights and biases of each layer
    assert any(entry["layer"] == "conv1_2" and entry["part"] == observed.FORWARD for entry in summary["operations"])

    said = (profiled / "train.log").read_text()
    assert "profile of steps 4 to 6: " in said
    assert "  optimiser " in said
    assert "train.profile=4:9: this start makes the steps 1 to 6, so only 4 to 6 are traced" in said
    table = (folder / "summary.md").read_text()
    assert "| {} | {:.2f} | ".format(observed.GRADIENT, by_part[observed.GRADIENT]) in table


def test_a_summary_lists_what_takes_the_most_time():
    stats = StepStats()
    for i in range(30):
        found = {"node_name": "op{}".format(i), "timeline_label": "op{0} = Kind{0}(x)".format(i)}
        stats.dev_stats.add(device="/device:CPU:0").node_stats.add(all_start_micros=1000 * i, op_end_rel_micros=10 * (i + 1), **found)
    training = types.SimpleNamespace(graph=tf.Graph(), observed=observed.Observed())
    summary = profiling.summarise([(1, 1.0, 0.0, stats)], training)
    assert [entry["name"] for entry in summary["operations"]] == ["op{}".format(i) for i in range(29, 9, -1)]
    assert [entry["type"] for entry in summary["types"]] == ["Kind{}".format(i) for i in range(29, 9, -1)]
    assert summary["operations"][0]["ms"] == 0.3


def test_steps_that_the_run_does_not_make_are_told_and_leave_nothing(tmp_path, caplog):
    with profiling.Profile(None, None, str(tmp_path), range(50, 60), made=0, last=6) as profile:
        assert not profile.wants(6)
        profile.after(6, 1.0, 0.0)
    assert "train.profile=50:60: this start makes the steps 1 to 6, so none is traced" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [("train.batch_size=4", "train.micro_batch=2", "train.recompute=stages"), ()])
def test_every_operation_belongs_to_one_part(small_config, options):
    from mtc.skeleton import BODY

    training = graph.build(small_config(*QUICK + options), BODY)
    operations = training.graph.get_operations()
    parts = training.observed.parts(training.graph)
    backwards = [op for op in operations if "Conv2D" in op.type and op.name.startswith("gradients") and op.name in parts]
    assert {parts[op.name] for op in backwards} == {observed.GRADIENT}
    for outputs in training.observed.activations.values():
        assert {parts[tensor.op.name] for tensor in outputs} == {observed.FORWARD}
    assert all(parts[op.name] == observed.OPTIMISER for op in operations if op.type in ("ApplyAdam", "ResourceApplyAdam"))


def test_a_moment_is_divided_among_what_runs_in_it():
    found = dict((one.name, ms) for one, ms in profiling.shares(ran((0, 1000), (500, 1500), (3000, 3000), (4000, 5000))))
    assert found == {"op0": 0.75, "op1": 0.75, "op2": 0.0, "op3": 1.0}


def test_of_a_gpu_the_kernels_count_and_not_their_launches():
    stats = StepStats()
    for device, name, label in (
        ("/job:localhost/replica:0/task:0/device:GPU:0", "Relu", "Relu = Relu(x)"),
        ("/device:GPU:0/stream:all", "Relu:Relu", ""),
        ("/device:GPU:0/stream:all", "kernel", "[...]@@gradients/Conv2D:Conv2D#id=5#"),
        ("/job:localhost/replica:0/task:0/device:CPU:0", "Cast_1", "Cast_1 = Cast(x)"),
    ):
        stats.dev_stats.add(device=device).node_stats.add(node_name=name, timeline_label=label, all_start_micros=10, op_end_rel_micros=5)
    found = [(one.name, one.kind) for one in profiling.operations_of(stats)]
    assert found == [("Relu", "Relu"), ("gradients/Conv2D", "Conv2D"), ("Cast_1", "Cast")]


def test_what_tensorflows_optimiser_makes_is_counted_where_it_came_from():
    shown = observed.Observed()
    with tf.Graph().as_default() as made:
        tf.constant(1, name="a/b")
        shown.mark(observed.FORWARD)
        tf.constant(2, name="c")
        shown.mark(observed.LOSS)
        tf.constant(3, name="d")
    known = shown.parts(made)
    assert known == {"a/b": observed.FORWARD, "c": observed.LOSS}
    parts = [
        profiling._found(name, known)[1]
        for name in ("a/b", "c", "a/b-0-TransposeNHWCToNCHW-LayoutOptimizer", "ArithmeticOptimizer/Fold_c/a/b", "Fold/c", "new")
    ]
    assert parts == [observed.FORWARD, observed.LOSS, observed.FORWARD, observed.FORWARD, observed.LOSS, observed.REST]


def test_an_npu_profiles_by_itself(tmp_path):
    from mtc.devices import npu_options

    options = profiling.npu_profiling_options(str(tmp_path))
    npu_options.check(options, "910")
    asked = json.loads(options["profiling_options"])
    assert options["profiling_mode"] is True
    assert (asked["output"], asked["training_trace"], asked["task_trace"]) == (str(tmp_path), "on", "on")
