"""A run from data to uploaded checkpoints, stopped, resumed, damaged."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtc.errors import UserError
from mtc.lock import exclusive
from mtc.training import checkpoints, loop
from tasks import step, train


def test_a_run_leaves_metrics_log_lines_events_and_uploaded_checkpoints(trained, tmp_path, capsys):
    run = trained("train.steps=6")

    lines = metrics(run)
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert {line["v"] for line in lines} == {1}
    assert lines[0]["kind"] == "start"
    assert lines[0]["versions"]["tensorflow"] == tf.__version__
    assert lines[-1]["kind"] == "end"
    assert lines[-1]["status"] == "success"
    assert all(line["loss"] == pytest.approx(line["loss_2d"] + line["loss_pof"]) for line in lines if line["kind"] == "train")

    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Iteration")]
    form = r"Iteration \d+\t Loss \d\.\de-\d\d, Loss_2d \d\.\de-\d\d, Loss_PAF \d\.\de-\d\d, duration \d+\.\d{6}"
    assert [bool(re.fullmatch(form, line)) for line in printed] == [True] * 3  # train.log_every=2
    assert set(printed) <= set((run / "train.log").read_text().splitlines())

    assert [os.path.basename(d) for d in checkpoints.listed(str(run))] == ["step-00000006", "step-00000004"]
    for directory in checkpoints.listed(str(run)):
        stored = tmp_path / "storage" / "run" / "checkpoints" / os.path.basename(directory)
        assert contents(stored) == contents(pathlib.Path(directory))
    assert json.loads((tmp_path / "storage" / "run" / "latest.json").read_text())["step"] == 6
    assert event_tags(run) >= {"loss", "loss_2d", "loss_PAF", "learning_rate"}


def test_checkpoints_go_to_s3_while_training_and_nothing_is_pending_at_the_end(trained, s3, s3_server):
    run = trained("train.steps=6", "storage.uri=s3://bucket/runs", "storage.endpoint={}".format(s3), run="to-s3")
    stored = s3_server[1] / "bucket" / "runs" / "to-s3"
    for directory in checkpoints.listed(str(run)):
        assert contents(stored / "checkpoints" / os.path.basename(directory)) == contents(pathlib.Path(directory))
    assert [line["uri"] for line in metrics(run) if line["kind"] == "upload"] == [
        "s3://bucket/runs/to-s3/checkpoints/step-{:08d}".format(step) for step in (4, 6)
    ]


def test_a_storage_that_fails_ends_the_run_with_1_and_the_next_try_uploads_the_rest(small, tmp_path, monkeypatch):
    from mtc.storage import local

    put = local.LocalStorage.put
    monkeypatch.setattr(local.LocalStorage, "put", lambda self, path, key, on_bytes=None: (_ for _ in ()).throw(UserError("denied")))
    assert train.main(small("train.steps=2")) == 1
    record = json.loads((tmp_path / "run" / "steps" / "train.json").read_text())
    assert "step-00000002 could not be uploaded" in record["error"]
    monkeypatch.setattr(local.LocalStorage, "put", put)
    assert train.main(small("train.steps=2")) == 0
    assert (tmp_path / "storage" / "run" / "checkpoints" / "step-00000002" / "MANIFEST.json").exists()
    assert [line["step"] for line in metrics(tmp_path / "run") if line["kind"] == "train"] == [1, 2]


def test_the_variables_of_a_checkpoint_have_the_published_names(whole, trained):
    run = trained("train.steps=1")
    names = dict(tf.train.list_variables(checkpoints.bundle_prefix(checkpoints.newest_good(str(run)))))
    layers = 12 + 2 * 5 + 2 * 7  # front end, stage 1, one refinement stage
    assert len(names) == 3 * 2 * layers + 3
    assert {"CPM/conv1_1/weights", "CPM/conv1_1/weights/Adam", "CPM/conv1_1/weights/Adam_1", "beta1_power", "beta2_power", "global_step"} <= set(
        names
    )


def test_resumed_run_equals_straight_run(trained):
    straight = trained("train.steps=8", run="straight")
    trained("train.steps=4", run="resumed")
    resumed = trained("train.steps=8", "data.workers=1", run="resumed")
    assert_same_variables(straight, resumed)
    losses = [[line["loss"] for line in metrics(run) if line["kind"] == "train"] for run in (straight, resumed)]
    assert losses[0] == losses[1]


def test_a_finished_run_is_not_run_again(trained, small, capsys):
    run = trained("train.steps=2")
    before = (run / "metrics.jsonl").read_bytes()
    assert train.main(small("train.steps=2")) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_is_passed_over_and_trained_again(trained, capsys):
    straight = trained("train.steps=8", run="straight")
    run = trained("train.steps=8", run="damaged")
    newest = checkpoints.newest_good(str(run))
    data = next(os.path.join(newest, name) for name in os.listdir(newest) if ".data-" in name)
    with open(data, "r+b") as f:
        f.seek(1000)
        byte = f.read(1)
        f.seek(1000)
        f.write(bytes([byte[0] ^ 1]))

    run = trained("train.steps=8", run="damaged")

    assert "step-00000008 is passed over" in capsys.readouterr().err
    assert checkpoints.newest_good(str(run)).endswith("step-00000008")
    assert_same_variables(straight, run)


def test_sigterm_saves_exits_3_and_the_same_command_goes_on(small, tmp_path):
    def command(steps, run):
        return [sys.executable, "-m", "tasks.train"] + small(
            "train.steps={}".format(steps), "train.snapshot_every=100000", "train.log_every=1", run=run
        )

    process = subprocess.Popen(command(100000, "stopped"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("Iteration 3") for line in lines)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err

    run = tmp_path / "stopped"
    record = json.loads((run / "steps" / "train.json").read_text())
    step = checkpoints.state(checkpoints.newest_good(str(run)))["step"]
    assert record["status"] == "stopped"
    assert "SIGTERM at step {}".format(step) in record["error"]
    assert step >= 3
    assert (tmp_path / "storage" / "stopped" / "checkpoints" / "step-{:08d}".format(step) / "MANIFEST.json").exists()

    for name in ("stopped", "straight"):
        subprocess.run(command(step + 2, name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    assert_same_variables(tmp_path / "straight", run)


def test_a_stop_while_uploads_are_pending_exits_3_and_the_next_try_uploads_them(small, tmp_path):
    code = "import sys; from mtc.storage import TransientError, local; from tasks import train\n"
    code += "def put(self, path, key, on_bytes=None): raise TransientError('down')\nlocal.LocalStorage.put = put\nsys.exit(train.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code] + small("train.steps=2")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True)
    assert any("waiting for 1 uploads" in line for line in iter(process.stderr.readline, ""))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert train.main(small("train.steps=2")) == 0
    assert (tmp_path / "storage" / "run" / "checkpoints" / "step-00000002" / "MANIFEST.json").exists()


def test_a_file_that_cannot_be_read_costs_no_step(small, small_data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(small_data, str(root), ignore=shutil.ignore_patterns("archives"))
    last = sorted((root / "synthetic3d" / "train").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-100])
    overrides = ("data.root={}".format(root), "data.mix={synthetic3d: 1}", "train.steps=8", "compat.shuffle=false", "train.snapshot_every=100")
    assert train.main(small(*overrides)) == 2  # 6 samples, two a step: the third step meets it
    assert [os.path.basename(d) for d in checkpoints.listed(str(tmp_path / "run"))] == ["step-00000002"]
    shutil.copy(os.path.join(small_data, "synthetic3d", "train", last.name), str(last))
    assert train.main(small(*overrides)) == 0
    assert [line["step"] for line in metrics(tmp_path / "run") if line["kind"] == "train"] == list(range(1, 9))


def test_weights_that_are_not_finite_are_not_saved(small, tmp_path):
    assert train.main(small("train.steps=2", "train.snapshot_every=1", "train.lr=1e39,1e39")) == 1
    assert "the weights are not finite after step 1" in json.loads((tmp_path / "run" / "steps" / "train.json").read_text())["error"]
    assert checkpoints.listed(str(tmp_path / "run")) == []


def test_a_second_trainer_is_refused_by_name_and_changes_nothing(trained, small, tmp_path, monkeypatch, capsys):
    run = trained("train.steps=2")
    before = (run / "config.json").read_bytes(), (run / "steps" / "train.json").read_bytes()
    monkeypatch.setattr(step, "RUN_LOCK_PATIENCE", 0.0)
    with exclusive(str(run / ".lock"), "trainer"):
        assert train.main(small("train.steps=9")) == 2
    assert ".lock is held by another trainer (process {} on".format(os.getpid()) in capsys.readouterr().err
    assert ((run / "config.json").read_bytes(), (run / "steps" / "train.json").read_bytes()) == before


def test_a_trainer_waits_for_one_that_was_told_to_stop(trained, small, tmp_path):
    run = trained("train.steps=2")
    with exclusive(str(run / ".lock"), "trainer") as lock:
        lock.leave()
        command = [sys.executable, "-m", "tasks.train"] + small("train.steps=9")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True)
        assert any("waiting for another" in line for line in iter(process.stderr.readline, ""))
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert checkpoints.newest_good(str(run)).endswith("step-00000009")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_samples(small, tmp_path):
    assert train.main(small("train.steps=8", "train.lr=1e30,1e30")) == 1
    record = json.loads((tmp_path / "run" / "steps" / "train.json").read_text())
    assert record["error"].startswith("step 2: the ")
    assert ".jpg" in record["error"]
    assert [os.path.basename(d) for d in checkpoints.listed(str(tmp_path / "run"))] == ["step-00000001"]  # as it was before


def test_hands_train_too(trained):
    run = trained("train.steps=2", "model.kind=hand", "data.mix={synthetic_hand: 1}")
    assert all(line["loss_pof"] > 0 for line in metrics(run) if line["kind"] == "train")


def test_2d_labels_alone_with_ignore_train_no_pof_and_say_so(trained, capsys):
    run = trained("train.steps=1", "data.mix={coco: 1}", "compat.ignore_paf_2d=true")
    lines = metrics(run)
    assert lines[0]["dead_terms"] == ["loss_pof"]
    assert [line["loss_pof"] for line in lines if line["kind"] == "train"] == [0.0]
    assert "loss_pof is 0 by construction" in capsys.readouterr().err
    assert "loss_pof is 0 by construction" in (run / "train.log").read_text()


def test_2d_labels_train_pof_directions_without_ignore(trained):
    run = trained("train.steps=1", "data.mix={coco: 1}", "compat.ignore_paf_2d=false")
    assert metrics(run)[0]["dead_terms"] == []
    assert [line["loss_pof"] > 0 for line in metrics(run) if line["kind"] == "train"] == [True]


def test_missing_data_is_a_users_mistake(tmp_path, capsys):
    assert train.main(["--config", "demo", "--run-dir", str(tmp_path / "run"), "--set", "data.root={}".format(tmp_path / "nowhere")]) == 2
    assert "tasks.preprocess" in capsys.readouterr().err


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def event_tags(run):
    path = next((run / "events").iterdir())
    return {value.tag for event in tf.train.summary_iterator(str(path)) for value in event.summary.value}


def assert_same_variables(one, other):
    readers = [tf.train.load_checkpoint(checkpoints.bundle_prefix(checkpoints.newest_good(str(run)))) for run in (one, other)]
    names = sorted(readers[0].get_variable_to_shape_map())
    assert names == sorted(readers[1].get_variable_to_shape_map())
    different = [name for name in names if not np.array_equal(readers[0].get_tensor(name), readers[1].get_tensor(name))]
    assert different == []


def test_a_run_longer_than_the_table_of_losses_journals_every_step_once(trained, monkeypatch):
    monkeypatch.setattr(loop, "TELL_SECONDS", 1e9)
    settings = (
        "model.stages=1",
        "model.crop=32",
        "model.width=0.02",
        "train.batch_size=1",
        "train.snapshot_every=1000000",
        "train.log_every=1000000",
    )
    run = trained("train.steps=205", *settings)
    assert [line["step"] for line in metrics(run) if line["kind"] == "train"] == list(range(1, 206))
