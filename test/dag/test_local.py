"""`make airflow`: a running Airflow, the DAG triggered and stopped in it over the REST API, and its end."""

import json
import signal
import subprocess
import sys
import urllib.error

import psutil
import pytest

from test.dag.conftest import HOME, wait_for
from test.dag.local_airflow import Local, running


@pytest.fixture(scope="module")
def airflow():
    """One Airflow for the tests of this file; the last one ends it."""
    with running(HOME / "local") as local:
        yield local


def test_it_says_where_it_is_and_how_to_start_a_run(airflow):
    said = airflow.output.read_text()
    assert f"http://127.0.0.1:{airflow.port}" in said
    assert "no login" in said
    assert "airflow dags trigger mtc_train" in said


def test_a_second_one_is_refused_with_a_reason(airflow):
    again = subprocess.run([sys.executable, "-m", "mtc_airflow.local"], env=airflow.environ, capture_output=True, text=True)
    assert again.returncode == 2
    assert "is in use by a local Airflow" in again.stdout


def test_a_demo_beside_it_is_refused_with_the_way_to_start_it_there(airflow):
    demo = subprocess.run([sys.executable, "-m", "mtc_airflow.demo"], env=airflow.environ, capture_output=True, text=True)
    assert demo.returncode == 2
    assert 'airflow dags trigger mtc_train --conf \'{"preset": "demo"}\'' in demo.stdout


def test_a_taken_port_is_refused_with_the_way_to_another(airflow, tmp_path):
    environ = {**airflow.environ, "AIRFLOW_HOME": str(tmp_path / "other")}
    other = subprocess.run([sys.executable, "-m", "mtc_airflow.local"], env=environ, capture_output=True, text=True)
    assert other.returncode == 2
    assert f"MTC_PORT={airflow.port + 1} make airflow" in other.stdout


def test_a_triggered_run_is_followed_to_success(airflow):
    airflow.trigger("manual:one+1", steps=5)
    wait_for(lambda: airflow.state("manual:one+1") in ("success", "failed"), "the run", 120)
    assert airflow.state("manual:one+1") == "success"
    result = airflow.rest("GET", "/api/v2/dags/mtc_train/dagRuns/manual:one+1/taskInstances/train/xcomEntries/return_value?deserialize=true")["value"]
    assert result == {"run_dir": str(airflow.run_dir("manual:one+1")), "figures": {"answer": 42}}
    log = json.dumps(airflow.rest("GET", "/api/v2/dags/mtc_train/dagRuns/manual:one+1/taskInstances/train/logs/1"))
    assert "step train begins" in log
    assert "10%" not in log


def test_a_bad_value_is_refused_at_once(airflow):
    with pytest.raises(urllib.error.HTTPError, match="400"):
        airflow.trigger("bad", device="tpu")


def test_marking_the_training_failed_stops_it_after_it_has_saved(airflow):
    task = airflow.start_training("marked")
    (airflow.steps.runs / "slow_save").touch()
    airflow.rest("PATCH", "/api/v2/dags/mtc_train/dagRuns/marked/taskInstances/train", {"new_state": "failed"})
    wait_for(lambda: airflow.state("marked", "train") == "failed", "the end of the task", 60)
    # Airflow kills the task's own processes after five seconds; the step lives on until it has saved.
    wait_for(lambda: not any(p.pid != task and "task_runner" in " ".join(p.cmdline()) for p in airflow.processes()), "the task's process", 60)
    assert psutil.pid_exists(task)
    (airflow.steps.runs / "slow_save").unlink()
    wait_for((airflow.run_dir("marked") / "checkpoint").exists, "the checkpoint")
    wait_for(lambda: airflow.state("marked") == "failed", "the end of the run", 60)


def test_ctrl_c_lets_a_running_training_save_and_leaves_nothing_behind(airflow):
    airflow.start_training("interrupted")
    assert airflow.end(signal.SIGINT) == 0
    assert (airflow.run_dir("interrupted") / "checkpoint").read_text() == "saved"
    assert "stopping train of" in airflow.output.read_text()


def test_sigterm_while_it_starts_leaves_nothing_behind(tmp_path):
    local = Local(tmp_path)
    try:
        wait_for(lambda: len(local.processes()) > 1, "Airflow's first process")
        assert local.end(signal.SIGTERM) == 0
    finally:
        for process in local.processes():
            process.kill()
