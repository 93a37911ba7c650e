"""The benchmark's own machinery: what it compares is comparable, turns alternate, children sleep, failures are said. No statement about speed."""

import json
import os
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from benchmarks import bench, cases, child, data, pairs, parts, results, table
from benchmarks.reference import network, reader
from benchmarks.setting import Record, Setting
from mtc import config as configuration
from mtc import targets
from mtc.data import readers
from mtc.data.pipeline import Pipeline
from mtc.errors import UserError
from mtc.nets import cpm
from mtc.skeleton import BODY

pytestmark = pytest.mark.last

TINY = ["model.crop=64", "model.width=0.05", "model.stages=2", "train.device=cpu"]


@pytest.fixture
def parity_config(small_data):
    """The parity preset without jitter, at a tiny size: parity_config("train.batch_size=2")."""
    still = ["data.root={}".format(small_data), "data.crop_scale_sigma=0", "data.crop_offset_sigma=0"]
    return lambda *overrides: configuration.load("ascend_perf", TINY + still + list(overrides))


@pytest.fixture
def fake_python(tmp_path):
    """Write a shell script that stands in for a worker's interpreter and return its path."""

    def write(text):
        path = tmp_path / "python"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)

    return write


class FakeChild:
    """Answers "run" with a fixed time and notes who was asked."""

    def __init__(self, seconds, log):
        self.seconds, self.log = seconds, log

    def ask(self, command, name=None, count=0):
        self.log.append((command, name, count))
        return {"seconds": [self.seconds] * count}


def test_reference_reader_makes_the_samples_of_our_legacy_crop(parity_config, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "PARALLEL", 2)  # samples that nobody wants take long to make
    config = parity_config("train.batch_size=2")
    path = str(tmp_path / "sample.tfrecords")
    assert reader.write_records(readers.training(config)["coco"], path) > 2
    with tf.Graph().as_default(), tf.Session() as session:
        iterator = reader.iterator(path, config, BODY)
        session.run(iterator.initializer)
        theirs = session.run(iterator.get_next())
        with Pipeline(readers.training(config), config, BODY) as batches:
            ours = next(batches)
        heat, pof = session.run(
            [
                targets.heatmaps(tf.constant(ours.uv), tf.constant(ours.valid), 64, config.targets.sigma),
                targets.orientation_fields(*(tf.constant(v) for v in (ours.uv, ours.xyz, ours.valid)), BODY.limbs, 64, config.targets.limb_width),
            ]
        )
    difference = np.abs(theirs["image_crop"] - (ours.image / 255.0 - 0.5))
    assert difference.max() < 0.05  # they decode JPEGs with different arithmetic
    assert difference.mean() < 0.003
    assert np.abs(theirs["mask_crop"] - ours.mask / 255.0).max() < 0.004
    np.testing.assert_array_equal(theirs["body_valid"], ours.valid)
    assert not theirs["PAF_type"].any()
    np.testing.assert_allclose(theirs["scoremap2d"], heat, atol=1e-5)
    assert np.mean(np.abs(theirs["PAF"] - pof) > 1e-4) < 1e-4  # a pixel on a limb's very edge may fall on either side


def test_reference_network_answers_as_ours():
    layers = cpm.plan(BODY, stages=2, width=0.05)
    values = cpm.initial_values(layers, seed=3)
    image = np.random.RandomState(0).uniform(-0.5, 0.5, [1, 64, 64, 3]).astype(np.float32)

    def answers(build):
        with tf.Graph().as_default(), tf.Session() as session:
            heat, pof = build(tf.constant(image))
            for variable in tf.global_variables():
                variable.load(values[variable.op.name], session)
            return session.run(heat + pof)

    def ours(x):
        maps, _ = cpm.build(x, BODY, stages=2, width=0.05)
        return maps.heat, maps.pof

    for a, b in zip(answers(ours), answers(lambda x: network.network(x, BODY.heat_channels, BODY.pof_channels, stages=2, width=0.05))):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("overrides", [["data.mix={coco: 1, synthetic3d: 1}"], ["compat.ignore_paf_2d=false"]])
def test_all_forms_of_the_loss_that_are_timed_are_the_same_loss(overrides):
    def facts(form):
        case = cases.CASES["loss"]({"preset": "ascend_perf", "overrides": TINY + overrides, "form": form, "seed": 1})
        assert len(case.run(2)) == 2
        case.close()
        return case.facts

    reference = facts("reference")
    for form in ("full_resolution", "low_resolution"):
        assert facts(form) == pytest.approx(reference, rel=1e-4)


def test_turns_alternate_and_warm_up_is_dropped():
    log = []
    a, b = FakeChild(2.0, log), FakeChild(0.5, log)
    seconds = pairs.rounds({"A": pairs.Contestant(a, "a", warm_up=3), "B": pairs.Contestant(b, "b", least=2)}, 2, turn_seconds=2.0, settle=True)
    assert seconds == {"A": [2.0, 2.0], "B": [0.5, 0.5]}
    assert log[:3] == [("run", "a", 3), ("settle", None, 0), ("run", "a", 1)]
    assert log[-4:] == [("run", "a", 1), ("run", "b", 4), ("run", "a", 1), ("run", "b", 4)]


def test_a_ratio_is_the_median_of_rounds():
    found = pairs.ratio([8.0, 8.0, 80.0], [1.0, 2.0, 10.0])
    assert (found["median"], found["quartiles"], found["values"]) == (8.0, [6.0, 8.0], [8.0, 4.0, 8.0])


def test_a_dead_child_is_reported_with_its_last_output(fake_python):
    with pytest.raises(child.ChildDied, match=r"(?s)exit code 7 at 'hello'.*no room left"), child.start(fake_python("echo no room left >&2; exit 7")):
        pass


def test_a_killed_child_is_suspected_to_lack_memory(fake_python):
    with pytest.raises(child.ChildDied, match=r"signal 9 \(SIGKILL\) at 'hello': out of memory"), child.start(fake_python("kill -KILL $$")):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="waits for a stopped child as Linux does")
def test_a_child_sleeps_unless_it_is_asked(fake_python):
    with child.start(fake_python('while read line; do echo "{}"; done')) as worker:
        for _ in range(2):
            assert os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED).si_status  # comes back because the child was stopped after its answer
            assert worker.ask("hello") == {}


def test_parts_are_kept_until_they_are_measured_again(tmp_path):
    path = str(tmp_path / "bench.json")
    results.update(path, "a", {"numbers": {"loss_ratio": 9.0}})
    document = results.update(path, "f", {"numbers": {"fraction_of_peak": 0.9}})
    assert (document["loss_ratio"], document["fraction_of_peak"], document["input_ratio"]) == (9.0, 0.9, None)
    assert results.update(path, "a", {"numbers": {"loss_ratio": 10.0}})["loss_ratio"] == 10.0
    with open(path, encoding="utf-8") as f:
        assert set(json.load(f)["parts"]) == {"a", "f"}


def test_the_table_says_what_was_met_missed_and_why_not_measured(tmp_path):
    part = {"ratios": [], "timings": [], "reasons": {}, "machine": results.machine(), "versions": {}}
    part["options"] = {"quick": True, "size": 64, "width": 0.05, "batch": 1, "pairs": 1, "set": []}
    path = str(tmp_path / "bench.json")
    results.update(path, "a", dict(part, numbers={"loss_ratio": 9.0}))
    results.update(path, "d", dict(part, numbers={"non_network_fraction": 0.2}))
    document = results.update(path, "c", dict(part, numbers={"step_ratio_tf1": None}, reasons={"step_ratio_tf1": "no Python 3.7"}))
    rows = {row.split("`")[1]: row for row in table.markdown(document).splitlines() if row.startswith("| `")}
    assert rows["loss_ratio"].endswith("met |")
    assert "quick" in rows["loss_ratio"]
    assert "**missed**" in rows["non_network_fraction"]
    assert "null: no Python 3.7" in rows["step_ratio_tf1"]
    assert "not measured" in rows["fraction_of_peak"]


def test_a_whole_run_writes_figures_and_prints_the_table(small_data, tmp_path, capsys):
    out = tmp_path / "bench.json"
    which, letter, number = ("tf1", "d", "non_network_fraction") if tf.__version__.startswith("1.") else ("tf2", "f", "fraction_of_peak")
    words = ["--only", letter, "--size", "64", "--width", "0.05", "--batch", "1", "--pairs", "2", "--quick"]
    words += ["--data", small_data, "--set", "model.stages=2", "--out", str(out)]
    assert bench.run(bench.arguments(words), dict({"tf1": None, "tf2": None}, **{which: sys.executable})) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    part = document["parts"][letter]
    assert part["versions"] == {which: dict(part["versions"][which], tensorflow=tf.__version__)}
    assert document[number] == part["ratios"][0]["median"]
    assert [len(row["values"]) for row in part["timings"]] == [2] * (4 if letter == "d" else 5)
    assert "| `{}` | {:.3g} |".format(number, document[number]) in capsys.readouterr().out


@pytest.mark.parametrize(("letter", "missing"), [("a", None), ("c", "tf1"), ("f", "tf2")])
def test_what_no_interpreter_can_measure_is_null_with_a_reason(letter, missing):
    pythons = {"tf1": "python3.7", "tf2": "python3.11"}
    pythons = {which: None if missing in (None, which) else python for which, python in pythons.items()}
    record = Record()
    parts.PARTS[letter](Setting(pythons, 64, 0.05, 1, 1, True, None, [], lambda text: None, {}), record)
    assert set(record.numbers.values()) == {None}
    assert all("there is no interpreter with TensorFlow" in record.reasons[name] for name in record.numbers)


def test_a_child_that_dies_costs_its_numbers_and_not_the_run(fake_python):
    record, told = Record(), []
    parts.peak(Setting({"tf1": None, "tf2": fake_python("exit 1")}, 64, 0.05, 1, 1, True, None, [], told.append, {}), record)
    assert record.numbers == {"fraction_of_peak": None}
    assert "exit code 1" in record.reasons["fraction_of_peak"]
    assert "exit code 1" in told[-1]


def test_peak_memory_is_taken_from_the_processes_of_the_steps():
    record, peaks = Record(), {(1, "tf1", "reference_step"): (6.0, {"tensorflow": "1.15.0"}), (1, "tf1", "our_step"): (2.0, {"tensorflow": "1.15.0"})}
    parts.memory(Setting({"tf1": "no python", "tf2": None}, 64, 0.05, 1, 1, True, None, [], lambda text: None, peaks), record)
    assert (record.numbers, record.versions) == ({"peak_memory_ratio": 3.0}, {"tf1": {"tensorflow": "1.15.0"}})


def test_interpreters_are_told_apart_by_their_tensorflow(fake_python):
    python = fake_python("echo 1.15.0")
    assert bench.interpreters([python, python]) == {"tf1": python, "tf2": None}
    with pytest.raises(UserError, match="cannot be started"):
        bench.interpreters(["/nowhere/python"])
    with pytest.raises(UserError, match="has TensorFlow"):
        bench.interpreters([fake_python("exit 1")])


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--only", "a,z"])
    assert "there is no part 'z'" in capsys.readouterr().err


def test_data_that_is_not_prepared_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no COCO.json"):
        data.prepare(str(tmp_path), str(tmp_path), sys.executable)


def test_every_number_has_a_part():
    assert {letter for letter, _, _ in results.NUMBERS.values()} == set(parts.PARTS) == set(parts.TITLES)
