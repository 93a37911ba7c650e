"""`make airflow`: a running Airflow, the DAG triggered and stopped in it over the REST API, and its end."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

import psutil
import pytest

from mtc_airflow import run_directory
from test.dag.conftest import HOME, ROOT, free_port, make_steps, wait_for


class Local:
    """A `python -m mtc_airflow.local` of its own, with played steps."""

    def __init__(self, home):
        self.python, self.steps = make_steps(home / "runs")
        self.port = free_port()
        ports = {
            "MTC_PORT": self.port,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": free_port(),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": free_port(),
        }
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MTC_"))}
        self.environ = {**plain, **{name: str(port) for name, port in ports.items()}, "PYTHONPATH": str(ROOT / "plugins")}
        self.environ.update(AIRFLOW_HOME=str(home / "airflow"), MTC_RUNS=str(self.steps.runs), MTC_PYTHON=str(self.python))
        self.output = home / "output"
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen([sys.executable, "-m", "mtc_airflow.local"], env=self.environ, stdout=output, stderr=output)

    def wait_until_ready(self):
        wait_for(lambda: self.process.poll() is not None or "Airflow is ready" in self.output.read_text(), "Airflow", 300)
        assert self.process.poll() is None, self.output.read_text()

    def processes(self):
        """Every process that has this Airflow's home in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("AIRFLOW_HOME") == self.environ["AIRFLOW_HOME"] and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                pass
        return found

    def end(self, number):
        """Send a signal and return the exit code; nothing may be left."""
        self.process.send_signal(number)
        code = self.process.wait(90)
        assert self.processes() == []
        return code

    def rest(self, method, path, body=None):
        """Ask the REST API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, data=data)
        request.add_header("Content-Type", "application/json")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)

    def trigger(self, run_id, **conf):
        self.rest("POST", "/api/v2/dags/mtc_train/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": conf})

    def start_training(self, run_id):
        """Trigger a run whose training goes on until it is stopped; return the process id of the training."""
        before = len(self.steps.starts("train"))
        self.steps.plan(train=["ok"] * before + ["wait"])
        self.trigger(run_id)
        return wait_for(lambda: self.steps.starts("train")[before:], "the training", 120)[0]["pid"]

    def state(self, run_id, task=None):
        """The state of a run or of one of its tasks."""
        path = f"/api/v2/dags/mtc_train/dagRuns/{urllib.parse.quote(run_id)}" + (f"/taskInstances/{task}" if task else "")
        return self.rest("GET", path)["state"]

    def run_dir(self, run_id):
        return self.steps.runs / "mtc_train" / run_directory.run_directory("mtc_train", run_id).name


@pytest.fixture(scope="module")
def airflow():
    """One Airflow for the tests of this file; the last one ends it."""
    local = Local(HOME / "local")
    try:
        local.wait_until_ready()
        yield local
    finally:
        for process in local.processes():
            process.kill()


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
    wait_for(lambda: airflow.state("marked") == "failed", "the end of the run", 60)
    # Airflow kills the task's own processes after five seconds; the step lives on until it has saved.
    wait_for(lambda: not any(p.pid != task and "task_runner" in " ".join(p.cmdline()) for p in airflow.processes()), "the task's process", 60)
    assert psutil.pid_exists(task)
    (airflow.steps.runs / "slow_save").unlink()
    wait_for((airflow.run_dir("marked") / "checkpoint").exists, "the checkpoint")


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
