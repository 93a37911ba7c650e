"""A run that is interrupted ends as one that is not: the same samples in the same order, the same weights to the last bit, the same decisions."""

import json
import shutil

import pytest
import tensorflow.compat.v1 as tf

from mtc import files
from mtc.training import checkpoints
from tasks import train
from test.training.test_training import assert_same_variables, metrics

MIXED = (
    "train.precision=mixed_fp16",
    "loss_scale.initial=1e25",
    "loss_scale.factor=256",
    "loss_scale.increase_every=2",
    "loss_scale.decrease_after=1",
)
"""Overflows at the start, and a scale that goes up and down after."""

EVERYTHING = (
    "train.ema=0.9", "evaluation.samples=2", "evaluation.patience=100", "augment.rotate=20", "augment.flip=0.5", "augment.blur=0.3",
    "data.mix={coco: 2, synthetic3d: 1}", "train.lr=1e-3,5e-4", "train.lr_steps=5",
)  # fmt: skip


def lines(run, *keys):
    """Return {step: values of the keys} of the steps that count."""
    return {line["step"]: [line[key] for key in keys] for line in metrics(run) if line["kind"] == "train"}


def state(run):
    """Return what the newest checkpoint says beside the weights, without what differs between any two runs."""
    found = checkpoints.state(checkpoints.newest_good(str(run)))
    return {key: value for key, value in found.items() if key not in ("uid", "fence", "seconds")}


@pytest.mark.parametrize(
    ("options", "stops"),
    [((), (5,)), (EVERYTHING, (6, 9)), (("train.replicas=2",), (6,)), (MIXED, (3, 9))],
    ids=["plain, inside an epoch", "everything, at the end of an epoch and inside", "two replicas, at the end of an epoch", "mixed precision"],
)
def test_interrupted_run_equals_straight_run(trained, options, stops):
    straight = trained("train.steps=12", *options, run="straight")
    for workers, last in enumerate(stops + (12,), start=1):
        run = trained("train.steps={}".format(last), "data.workers={}".format(workers), "data.prefetch={}".format(workers), *options, run="resumed")
    assert_same_variables(straight, run)
    assert lines(run, "sample", "ids", "loss", "loss_2d", "loss_pof", "grad_norm", "lr") == lines(
        straight, "sample", "ids", "loss", "loss_2d", "loss_pof", "grad_norm", "lr"
    )
    if not options:  # an evaluation belongs to each end of a run, so more ends have more
        assert state(run) == state(straight)


def test_a_run_that_stopped_early_stays_stopped(trained):
    options = ("evaluation.samples=2", "evaluation.patience=1", "evaluation.min_gain=1", "train.snapshot_every=2", "train.steps=100")
    run = trained(*options)  # no evaluation gains so much over the first
    assert state(run)["step"] == 4
    record = json.loads((run / "steps" / "train.json").read_text())
    assert (record["status"], record["figures"]["early_stop"], record["figures"]["step"]) == ("success", True, 4)
    assert metrics(run)[-1]["early_stop"] is True
    before = len(lines(run, "step"))
    assert train.main(["--force"] + arguments(run)) == 0
    assert len(lines(run, "step")) == before


def test_a_new_machine_with_an_empty_run_directory_goes_on_from_the_storage(trained, tmp_path):
    straight = trained("train.steps=8", run="straight")
    first = trained("train.steps=6", run="moved")
    shutil.rmtree(str(first))
    second = trained("train.steps=8", run="moved")
    assert metrics(second)[-1]["status"] == "success"
    assert sorted(lines(second, "step")) == list(range(1, 9))  # its history came along
    starts = [line for line in metrics(second) if line["kind"] == "start"]
    assert [(line["step"], line["uid"] == starts[0]["uid"]) for line in starts] == [(0, True), (6, True)]
    assert_same_variables(straight, second)


def test_going_on_from_the_storage_can_be_refused(trained, small, tmp_path, capsys):
    shutil.rmtree(str(trained("train.steps=2")))
    assert train.main(small("train.steps=4", "storage.resume=false")) == 2
    assert "belongs to another run" in capsys.readouterr().err
    assert checkpoints.listed(str(tmp_path / "run")) == []


def test_a_local_checkpoint_that_is_damaged_is_fetched_from_the_storage(trained, capsys):
    run = trained("train.steps=6")
    flip(next(path for path in (run / "checkpoints" / "step-00000006").iterdir() if ".data-" in path.name))
    run = trained("train.steps=7")
    err = capsys.readouterr().err
    assert "step-00000006 is passed over" in err
    assert "resuming after step 6" in err
    assert len([line for line in metrics(run) if line["kind"] == "train"]) == 7  # no step was made twice


def test_where_all_copies_of_the_newest_are_damaged_the_one_before_is_used_and_named(trained, tmp_path, capsys):
    straight = trained("train.steps=6", run="straight")
    run = trained("train.steps=6")
    for root in (run, tmp_path / "storage" / "run"):
        flip(root / "checkpoints" / "step-00000006" / "state.json")
    run = trained("train.steps=6")
    err = capsys.readouterr().err
    assert "falling back to checkpoint {}".format(run / "checkpoints" / "step-00000004") in err
    assert_same_variables(straight, run)


def test_the_checkpoint_of_another_run_is_refused_by_name_unless_asked_for(trained, small, tmp_path, capsys):
    one, other = trained("train.steps=4", run="one"), trained("train.steps=2", run="other")
    shutil.copytree(str(one / "checkpoints" / "step-00000004"), str(other / "checkpoints" / "step-00000004"))
    before = contents(other)
    assert train.main(small("train.steps=6", run="other")) == 2
    err = capsys.readouterr().err
    assert "checkpoint {} is of another run".format(other / "checkpoints" / "step-00000004") in err
    assert contents(other) == before
    assert train.main(small("train.steps=6", "checkpoint.foreign=accept", run="other")) == 0
    assert lines(other, "sample")[5] == [8]


def test_the_checkpoint_of_another_configuration_is_refused_by_name(trained, small, capsys):
    run = trained("train.steps=2")
    assert train.main(small("train.steps=4", "train.seed=3")) == 2
    assert "train.seed was 0, is 3" in capsys.readouterr().err
    config = json.loads((run / "config.json").read_text())
    config["train"]["seed"] = 3  # as one who edits the file
    files.write_json(str(run / "config.json"), config)
    assert train.main(small("train.steps=4", "train.seed=3")) == 2
    err = capsys.readouterr().err
    assert "step-00000002 is of another configuration: train.seed was 0, is 3" in err
    assert train.main(small("train.steps=4", "train.seed=3", "checkpoint.foreign=accept")) == 0


def test_the_clock_goes_on(trained):
    trained("train.steps=4")
    first = checkpoints.state(checkpoints.newest_good(str(trained("train.steps=4"))))["seconds"]
    run = trained("train.steps=6")
    assert checkpoints.state(checkpoints.newest_good(str(run)))["seconds"] > first > 0


def test_retention_keeps_the_last_the_regular_and_the_best(trained, tmp_path):
    rules = ("checkpoint.keep_last=2", "checkpoint.keep_every=6", "checkpoint.keep_best=1", "storage.keep_last=1", "storage.keep_every=0")
    run = trained("train.steps=12", "train.snapshot_every=2", "evaluation.samples=2", *rules)
    best = checkpoints.state(checkpoints.newest_good(str(run)))["evaluations"]
    best = sorted(best, key=lambda pair: (-pair[1], pair[0]))[0][0]
    here = sorted(checkpoints.step_of(directory) for directory in checkpoints.listed(str(run)))
    assert here == sorted({6, 10, 12, best})
    there = sorted(int(path.name[5:]) for path in (tmp_path / "storage" / "run" / "checkpoints").iterdir() if list(path.iterdir()))
    assert there == sorted({12, best})


def test_the_average_of_the_weights_is_kept_and_taken_up(trained):
    run = trained("train.steps=2", "train.ema=0.9")
    names = dict(tf.train.list_variables(checkpoints.bundle_prefix(checkpoints.newest_good(str(run)))))
    assert "CPM/conv1_1/weights/ExponentialMovingAverage" in names
    other = trained("train.steps=1", "snapshot.uri={}".format(checkpoints.newest_good(str(run))), run="without")
    assert not any(name.endswith("Average") for name in dict(tf.train.list_variables(checkpoints.bundle_prefix(checkpoints.newest_good(str(other))))))


def arguments(run):
    """Return the arguments that repeat a run as its config.json has it."""
    return ["--config", str(run / "config.json"), "--run-dir", str(run)]


def contents(run):
    return {str(path): path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
