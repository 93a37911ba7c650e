"""An Airflow of the tests' own, set up before the first import of Airflow reads its configuration, and an interpreter that plays the steps."""

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOME = pathlib.Path(tempfile.mkdtemp(prefix="mtc-dag-test-"))
REAL_PYTHON = os.environ.get("MTC_PYTHON") or str(ROOT / ".venv-train" / "bin" / "python")


def free_port():
    """A port that nobody listens on at this moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


for name in [name for name in os.environ if name.startswith(("AIRFLOW", "MTC_"))]:
    del os.environ[name]
os.environ.update(
    AIRFLOW_HOME=str(HOME / "airflow"),
    MTC_HOME=str(ROOT),
    MTC_RUNS=str(HOME / "runs"),
    MTC_PORT=str(free_port()),
    AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=str(free_port()),
    AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT=str(free_port()),
)
sys.path.insert(0, str(ROOT / "plugins"))

from mtc_airflow import environment  # noqa: E402

environment.complete()


@pytest.fixture(scope="session", autouse=True)
def _clean_up():
    yield
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_database():
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture(scope="session")
def dag(airflow_database):
    """The DAG, as Airflow reads it."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags"))
    assert bag.import_errors == {}
    return bag.dags["mtc_train"]


class Steps:
    """The fake training interpreter: what its steps shall do, and what was started."""

    def __init__(self, runs):
        self.runs = runs
        self.plan()

    def plan(self, **acts):
        """Set what each start of a step does: plan(train=["fail", "ok"])."""
        (self.runs / "plan.json").write_text(json.dumps(acts))

    def starts(self, step=None):
        """What was started so far, oldest first."""
        path = self.runs / "starts.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [start for start in found if step in (None, start["step"])]


def make_steps(runs):
    """Put the fake interpreter into a folder and return (its path, its Steps)."""
    runs.mkdir(parents=True, exist_ok=True)
    python = runs / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {shlex.quote(str(ROOT / "test" / "dag" / "fake_python.py"))} "$@"\n')
    python.chmod(0o755)
    return python, Steps(runs)


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Steps for one test, with run directories of its own; whatever it leaves running is ended."""
    python, fake = make_steps(tmp_path / "runs")
    monkeypatch.setenv("MTC_RUNS", str(fake.runs))
    monkeypatch.setenv("MTC_PYTHON", str(python))
    yield fake
    for start in fake.starts():
        with contextlib.suppress(ProcessLookupError):
            os.kill(start["pid"], signal.SIGKILL)


def wait_for(condition, what, seconds=60):
    """Wait until a condition holds and return its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Let Ctrl-C work: a shell starts what it runs in the background with SIGINT ignored, and Python then leaves it so."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
