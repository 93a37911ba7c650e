"""Our own training on the double: what it asks of npu_bridge, in which order, and where its graph would run."""

import json
import os
import subprocess
import sys

import pytest
import tensorflow.compat.v1 as tf

from mtc.training import checkpoints, trial
from tasks import doctor, train
from test.npu.conftest import DOUBLE, clean_environment
from test.shallow import FOLDER as SHALLOW
from test.shallow import shallow  # noqa: F401 (a fixture)
from test.training.test_training import assert_same_variables, metrics

pytestmark = pytest.mark.first

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NPU = (
    "train.device=npu", "npu.chip=910", "train.precision=mixed_fp16", "model.stages=1", "model.crop=32", "train.batch_size=4", "train.steps=4",
    "train.snapshot_every=2", "evaluation.samples=0", "previews.every=0",
)  # fmt: skip
SMALL = ("channels",)
"""Lints about networks as small as a test's."""
SHARED = SMALL + ("late-import",)
"""And about sessions of tests that this process has run before; what has a process of its own must not have any."""


def troubles(lints, harmless=SHARED):
    return [(entry["rule"], entry["message"]) for entry in lints if entry["rule"] not in harmless]


def steps(run):
    """Return the journal's lines of steps, without what differs between any two runs."""
    lines = [line for line in metrics(run) if line["kind"] == "train"]
    return [{key: value for key, value in line.items() if key not in ("time", "seconds", "waited")} for line in lines]


def test_a_training_gives_the_adapter_nothing_to_complain_about(trained, npu_double):
    run = trained(*NPU)
    assert troubles(npu_double.lints()) == []
    calls = [entry["api"] for entry in npu_double.journal() if entry["kind"] == "call"]
    assert calls.index("npu_config_proto") < calls.index("npu_ops.initialize_system") < calls.index("npu_ops.shutdown_system")
    runs = [entry for entry in npu_double.journal() if entry["kind"] == "run"]
    assert [entry["loops"] for entry in runs if entry["trains"]] == [1] * 4
    assert {entry["device"] for entry in runs if entry["part"] == "checkpoint"} == {"host"}
    assert [line["loss_scale"] for line in steps(run)] == [2.0**15] * 4
    start = metrics(run)[0]
    assert (start["device"]["kind"], start["precision"]) == ("npu", "mixed_fp16")
    assert "allow_mix_precision" in start["device"]["name"]


def test_an_overflow_that_the_status_register_tells_changes_no_weight_and_lowers_the_scale(trained, npu_double):
    npu_double.inject_overflow([2, 3])
    run = trained(*NPU)
    assert troubles(npu_double.lints()) == []
    assert [(line["step"], line["scale"]) for line in metrics(run) if line["kind"] == "overflow"] == [(2, 2.0**15), (3, 2.0**15)]
    assert [line["loss_scale"] for line in steps(run)] == [2.0**15, 2.0**15, 2.0**15, 2.0**14]
    saved = tf.train.load_checkpoint(checkpoints.bundle_prefix(checkpoints.newest_good(str(run))))
    assert (saved.get_tensor("loss_scale"), saved.get_tensor("good_steps"), saved.get_tensor("bad_steps")) == (2.0**14, 1, 0)
    assert saved.get_tensor("global_step") == 4
    assert saved.get_tensor("beta1_power") == pytest.approx(0.9**3)  # two of four steps were made


def test_steps_in_one_call_are_the_steps_one_by_one_also_after_a_resume(trained, npu_double):
    one = trained(*NPU, run="one by one")
    npu_double.reset()
    trained(*NPU, "npu.iterations_per_loop=2", "train.only=2", run="looped")
    assert troubles(npu_double.lints()) == []
    npu_double.reset()
    looped = trained(*NPU, "npu.iterations_per_loop=2", run="looped")
    assert troubles(npu_double.lints()) == []
    assert [entry["loops"] for entry in npu_double.journal() if entry["kind"] == "run" and entry["trains"]] == [2]
    assert steps(looped) == steps(one)
    assert_same_variables(one, looped)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("npu.iterations_per_loop=3",), "npu.iterations_per_loop=3: must divide train.steps - train.start_step=4"),
        (("npu.options.precison_mode=fp16",), "npu.options"),
        (("train.precision=mixed_bf16",), "train.precision=mixed_bf16"),
        (("train.replicas=2",), "train.replicas=2: a process has one NPU"),
    ],
)
def test_what_the_adapter_would_take_without_a_word_is_refused(small, npu_double, capfd, options, sentence):
    assert train.main(small(*(NPU + options))) == 2
    assert sentence in capfd.readouterr().err


def test_several_steps_in_one_call_are_refused_elsewhere(small, capfd):
    assert train.main(small(*(NPU + ("train.device=cpu", "npu.iterations_per_loop=2")))) == 2
    assert "only an NPU makes several steps in one call" in capfd.readouterr().err


def test_a_run_in_the_middle_of_a_call_is_refused(trained, small, npu_double, capfd):
    trained(*NPU, "train.only=1", "train.snapshot_every=1")
    assert train.main(small(*(NPU + ("npu.iterations_per_loop=2",)))) == 2
    assert "the run stands at step 1, in the middle of that" in capfd.readouterr().err


@pytest.mark.timeout(900)  # two processes
@pytest.mark.parametrize("table", [True, False], ids=["rank table", "HCCL decides"])
def test_two_ranks_run_the_same_graphs_in_the_same_order(small, trained, tmp_path, table):
    environ = dict(clean_environment(), PYTHONPATH=os.pathsep.join([DOUBLE, SHALLOW]), NPU_DOUBLE_OVERFLOW="2")
    environ["NPU_DOUBLE_JOURNAL"] = str(tmp_path / "journal.{rank}.jsonl")
    options = ("train.precision=fp32",) if table else ("evaluation.samples=2", "npu.gradient_fusion=60,40")
    command = [sys.executable, "-m", "tasks.launch", "--ranks", "2"]
    if table:
        device = [{"device_id": str(i), "device_ip": "192.168.100.{}".format(100 + i), "rank_id": str(i)} for i in range(2)]
        servers = [{"server_id": "test-{}".format(os.getpid()), "device": device}]
        (tmp_path / "table.json").write_text(json.dumps({"status": "completed", "version": "1.0", "server_count": "1", "server_list": servers}))
        command += ["--rank-table", str(tmp_path / "table.json")]
    else:
        from mtc.training.ranks.link import free_port

        environ.update(CM_CHIEF_IP="127.0.0.1", CM_CHIEF_PORT=str(free_port()), CM_CHIEF_DEVICE="0")
        environ["NPU_DOUBLE_JOURNAL"] = str(tmp_path / "journal.jsonl")
    command += ["--"] + small(*(NPU + options), run="two")
    done = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout

    sys.path.insert(0, DOUBLE)
    try:
        import npu_double
    finally:
        sys.path.remove(DOUBLE)
    if table:
        journals = [npu_double.read_journal(str(tmp_path / "journal.{}.jsonl".format(rank))) for rank in range(2)]
        assert npu_double.graphs_differ(*journals) == ""
    else:
        journals = [npu_double.read_journal(str(tmp_path / "journal.jsonl"))]
        split = [entry["args"]["dataSizeList"] for entry in journals[0] if entry.get("api") == "hccl.set_split_strategy_by_size"]
        assert [60.0, 40.0] in split  # the journal of both ranks, which have no numbers of their own when they begin it
    for journal in journals:
        assert troubles((entry for entry in journal if entry["kind"] == "lint"), harmless=SMALL) == []
    if table:
        alone = trained(*(NPU + options + ("train.device=cpu",)), run="one")
        assert [line["loss"] for line in steps(tmp_path / "two")] == pytest.approx([line["loss"] for line in steps(alone)], rel=1e-4)
    else:  # both left the same step out
        assert [line["step"] for line in metrics(tmp_path / "two") if line["kind"] == "overflow"] == [2]


def test_the_doctor_has_the_npu_make_steps_and_compares_them(small, npu_double, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ASCEND_OPP_PATH", str(tmp_path))
    assert doctor.main(small(*NPU) + ["--device", "npu"]) == 0
    printed = capfd.readouterr().err
    assert "CANN's operators at {}, hccl is there, one device".format(tmp_path) in printed
    assert "3 steps of a small network, losses within" in printed
    assert [entry["device"] for entry in npu_double.journal() if entry["kind"] == "run" and entry["trains"]] == ["npu"] * 3 + ["host"] * 3


@pytest.mark.parametrize(("path", "sentence"), [(None, "ASCEND_OPP_PATH is not set"), ("/nowhere/opp", "ASCEND_OPP_PATH=/nowhere/opp is no folder")])
def test_the_doctor_tells_what_cann_misses(small, npu_double, monkeypatch, capfd, path, sentence):
    monkeypatch.delenv("ASCEND_OPP_PATH", raising=False)
    if path:
        monkeypatch.setenv("ASCEND_OPP_PATH", path)
    monkeypatch.setattr(trial, "run", lambda config, device: trial.Trial([1.0], [1.0], 0.0, 0.0))
    assert doctor.main(small(*NPU) + ["--device", "npu"]) == 2
    assert sentence in capfd.readouterr().err


def test_the_doctor_refuses_a_device_that_computes_something_else(small, monkeypatch, capfd):
    monkeypatch.setattr(trial, "run", lambda config, device: trial.Trial([1.0, float("nan")], [1.0, 1.0], 0.0, 0.0))
    assert doctor.main(small() + ["--device", "cpu"]) == 2
    assert "losses within inf of the CPU's" in capfd.readouterr().err
    monkeypatch.setattr(trial, "run", lambda config, device: trial.Trial([1.0, 1.02], [1.0, 1.0], 0.0, 0.0))
    assert doctor.main(small() + ["--device", "cpu"]) == 2
    assert "more than 0.01, so something is wrong (train.precision=fp32 tells)" in capfd.readouterr().err
