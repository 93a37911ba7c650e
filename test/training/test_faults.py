"""What goes wrong in the middle of a run: numbers that are none, files that cannot be read, trainers that were replaced. Nothing that was good is
lost."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtc.data import pipeline
from mtc.nets import cpm
from mtc.storage import local
from mtc.training import checkpoints, graph
from tasks import train
from test.graph_cache import cached
from test.training.test_training import assert_same_variables, metrics

pytestmark = pytest.mark.first

_FRAGILE = cached(getattr(graph.build, "__wrapped__", graph.build))
"""Graphs that the fixture `poisoned` has built: apart from all others."""


@pytest.fixture
def poisoned(monkeypatch):
    """Give white images in place of chosen batches, by the number of their first sample, and have the network no numbers for these."""
    numbers, forward, take, make = set(), cpm.forward, pipeline.Pipeline.__next__, pipeline.Pipeline.make

    def fragile(image, *arguments, **options):
        maps = forward(image, *arguments, **options)
        factor = tf.where(tf.reduce_min(image) > 0.49, np.float32("nan"), 1.0)
        return cpm.Maps(*([factor * stage for stage in stages] for stages in maps))

    def spoil(batch):
        if batch.first in numbers:
            batch.image[:] = 255
        return batch

    monkeypatch.setattr(cpm, "forward", fragile)
    monkeypatch.setattr(graph, "build", _FRAGILE)
    monkeypatch.setattr(pipeline.Pipeline, "__next__", lambda self: spoil(take(self)))
    monkeypatch.setattr(pipeline.Pipeline, "make", lambda self, first: spoil(make(self, first)))
    return numbers


@pytest.fixture
def damaged_data(small_data, tmp_path):
    """A copy of the data in which 3D samples can be damaged: returns (root, damage), damage(i) cuts the i-th image's file, damage(i, repair=True)
    mends it."""
    root = tmp_path / "data"
    shutil.copytree(small_data, str(root), ignore=shutil.ignore_patterns("archives"))
    images = sorted((root / "synthetic3d" / "train").iterdir())

    def damage(i, repair=False):
        whole = os.path.join(small_data, "synthetic3d", "train", images[i].name)
        with open(whole, "rb") as f:
            images[i].write_bytes(f.read()[: None if repair else -100])
        return images[i].name

    return root, damage


def record(run):
    return json.loads((run / "steps" / "train.json").read_text())


def kinds(run, kind):
    return [line for line in metrics(run) if line["kind"] == kind]


def test_a_step_without_numbers_stops_the_run_as_it_was_before_and_leaves_its_batch(poisoned, trained, small, tmp_path):
    good = trained("train.steps=5", run="good")
    poisoned.add(10)  # what step 6 is made of
    assert train.main(small("train.steps=12", "train.log_every=5", "train.snapshot_every=100")) == 1
    run, said = tmp_path / "run", record(tmp_path / "run")["error"]
    fault = run / "faults" / "step-00000006"
    assert said.startswith("step 6: the loss is nan")
    assert all(text in said for text in ("step-00000005", str(fault), "train.skip_non_finite=1"))
    arrays = np.load(str(fault / "batch.npz"))
    assert (arrays["image"] == 255).all()
    assert all(name in said for name in arrays["names"])
    assert cv2.imread(str(fault / "crops.png")).shape == (64, 128, 3)
    assert json.loads((fault / "step.json").read_text())["total"] == "nan"
    assert_same_variables(good, run)
    assert [line["step"] for line in kinds(run, "train")] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in kinds(run, "non_finite")] == [6]
    assert kinds(run, "end")[-1]["status"] == "failed"

    assert train.main(small("train.steps=12", "train.log_every=5", "train.snapshot_every=100")) == 1  # the same again, and nothing is lost by it
    assert [os.path.basename(d) for d in checkpoints.listed(str(run))] == ["step-00000005"]


def test_a_bounded_number_of_such_steps_is_skipped_if_so_configured_and_counted_across_restarts(poisoned, trained, small, tmp_path):
    poisoned.update({4, 14})  # steps 3 and 8
    straight = trained("train.steps=10", "train.skip_non_finite=2", run="straight")
    assert record(straight)["figures"]["skipped"] == 2
    assert [line["step"] for line in kinds(straight, "skipped")] == [3, 8]
    assert [line["loss"] for line in kinds(straight, "train") if line.get("skipped")] == [None, None]
    assert (straight / "faults" / "step-00000003" / "batch.npz").exists()
    trained("train.steps=5", "train.skip_non_finite=2")
    assert_same_variables(straight, trained("train.steps=10", "train.skip_non_finite=2"))

    trained("train.steps=5", "train.skip_non_finite=1", run="strict")
    assert train.main(small("train.steps=10", "train.skip_non_finite=1", run="strict")) == 1
    assert record(tmp_path / "strict")["error"].startswith("step 8: ")


def test_a_corrupt_sample_is_replaced_counted_and_named_and_a_resume_does_the_same(trained, damaged_data):
    root, damage = damaged_data
    name = damage(2)
    options = ("data.root={}".format(root), "data.mix={synthetic3d: 1}", "data.max_bad_fraction=0.2")
    straight = trained("train.steps=9", *options, run="straight")
    assert [(line["source"], line["name"].rpartition("/")[2]) for line in kinds(straight, "bad_sample")] == [("synthetic3d", name)]
    assert record(straight)["figures"]["bad_samples"] == 1
    trained("train.steps=4", *options)
    resumed = trained("train.steps=9", "data.workers=1", *options)
    assert_same_variables(straight, resumed)
    assert len(kinds(resumed, "bad_sample")) == 1


def test_more_corrupt_samples_than_allowed_stop_the_run_after_saving_and_repairs_are_noticed(trained, small, damaged_data, tmp_path, capsys):
    root, damage = damaged_data
    names = damage(1), damage(4)
    options = ("data.root={}".format(root), "data.mix={synthetic3d: 1}", "data.max_bad_fraction=0.2", "compat.shuffle=false", "train.steps=9")
    for attempt in range(2):
        assert train.main(small(*options)) == 2
        err = capsys.readouterr().err
        assert "2 of its 6 samples cannot be used" in err
        assert all(name in err for name in names), attempt
    before = len(kinds(tmp_path / "run", "train"))
    assert checkpoints.newest_good(str(tmp_path / "run")).endswith("step-{:08d}".format(before))
    damage(1, repair=True)
    assert train.main(small(*options)) == 0
    assert [line["step"] for line in kinds(tmp_path / "run", "train")] == list(range(1, 10))


def test_a_full_log_disk_does_not_stop_training(trained, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("metrics.jsonl", "train.log"):
        (run / name).symlink_to("/dev/full")
    (run / "events").write_text("in the way")
    trained("train.steps=4")
    assert checkpoints.newest_good(str(run)).endswith("step-00000004")


def stop_between_writes(process, store):
    """Stop a process in its tracks, but not while it holds the lock of the storage folder, which would keep everybody else out."""
    while True:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        with open(str(store / local._LOCK), "rb") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                process.send_signal(signal.SIGCONT)
        time.sleep(0.01)


def test_an_old_trainer_that_wakes_up_stops_and_changes_nothing(small, tmp_path):
    """The first trainer's machine is stopped in its tracks; another one takes over once the lease has run out; the first one wakes up."""
    settings = ("train.steps=100000", "train.snapshot_every=5", "storage.lease_seconds=1", "checkpoint.keep_last=2")
    storage = tmp_path / "storage" / "run"

    def command(*overrides, run):
        return [sys.executable, "-m", "tasks.train"] + small(*settings + overrides, run=run)

    old = subprocess.Popen(command(run="old/run"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    assert any(line.startswith("Iteration 20\t") for line in iter(old.stdout.readline, ""))
    stop_between_writes(old, storage.parent)

    refused = subprocess.run(command(run="new/run"), capture_output=True, text=True, check=False, timeout=120)
    assert refused.returncode == 2
    assert "held by another python -m tasks.train (process {} on".format(old.pid) in refused.stderr

    last = json.loads((storage / "latest.json").read_text())["step"] + 10
    new = subprocess.run(
        command("train.steps={}".format(last), run="new/run") + ["--take-over"], stderr=subprocess.PIPE, check=False, timeout=200
    )  # fmt: skip
    assert new.returncode == 0, new.stderr
    before = {str(path): path.read_bytes() for path in storage.rglob("*") if path.is_file() and path.name != "lease.json"}
    old.send_signal(signal.SIGCONT)
    _, err = old.communicate(timeout=60)
    assert old.returncode == 1
    assert "taken over by python -m tasks.train" in err
    assert {str(path): path.read_bytes() for path in storage.rglob("*") if path.is_file() and path.name != "lease.json"} == before
    assert json.loads((storage / "latest.json").read_text())["step"] == last
