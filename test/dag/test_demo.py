"""`make demo`: the DAG from its first task to its last, what a person sees of it, and its ends."""

import json
import os
import signal
import subprocess
import sys

import pytest

from test.dag.conftest import ROOT, wait_for


@pytest.fixture
def demo(tmp_path, steps):
    """Start a demo with an Airflow home of its own."""

    def start(*arguments, **environ):
        environ = {**os.environ, "AIRFLOW_HOME": str(tmp_path / "airflow"), "PYTHONPATH": str(ROOT / "plugins"), **environ}
        return subprocess.Popen(
            [sys.executable, "-m", "mtc_airflow.demo", *arguments], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


def test_demo_shows_every_step_and_ends_with_the_report(demo, steps):
    process = demo("--set", "train.seed=3")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    order = [line.split()[0] for line in output.splitlines() if " done " in line]
    assert order[0] == "validate"
    assert sorted(order[1:3]) == ["fetch_coco", "fetch_snapshot"]
    assert sorted(order[3:5]) == ["preprocess_masks_0", "preprocess_masks_1"]
    assert order[5:] == ["preprocess_merge", "train", "evaluate", "report"]
    assert "report.html" in output
    assert "PCK@0.1           0.500" in output
    assert "12.5 images/s" in output
    assert "few samples" in output
    assert steps.starts("train")[0]["argv"][3:7] == ["--config", "demo", "--set", "train.seed=3"]


def test_a_failed_demo_says_why(demo, steps):
    steps.plan(train=["user_error"])
    process = demo()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the demo failed: train: train.steps=0: must be above 0" in output


def test_ctrl_c_stops_the_demo_after_the_training_has_saved(demo, steps):
    steps.plan(train=["wait"])
    process = demo()
    wait_for(lambda: steps.starts("train"), "the training", 120)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert [path.read_text() for path in steps.runs.glob("mtc_train/*/checkpoint")] == ["saved"]
    assert "saves and leaves" in output


def test_a_missing_training_interpreter_is_said_before_anything_starts(demo):
    process = demo(MTC_PYTHON="/nowhere/python")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "/nowhere/python is missing: run `make setup`" in output


def test_the_whole_job_runs_on_real_parts(whole_job):
    assert whole_job.code == 0, whole_job.output
    report = json.loads((whole_job.run_dir / "report.json").read_text())
    assert set(report["pck"]) >= {"trained", "untrained", "mean_pose"}
    assert report["loss"]["last_mean"] > 0
    made = {path.stem for path in (whole_job.run_dir / "steps").glob("*.json")}
    shards = {"preprocess_shard_1_of_2", "preprocess_shard_2_of_2"}
    assert made == {"doctor", "fetch_coco", "fetch_snapshot", *shards, "preprocess", "train", "evaluate", "report"}
    assert list(whole_job.server.rglob("MANIFEST.json"))
