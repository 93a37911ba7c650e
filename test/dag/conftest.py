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
from typing import NamedTuple

import pytest

from test import leaks

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOME = pathlib.Path(tempfile.mkdtemp(prefix="mtc-dag-test-"))
TINY = (
    "synthetic.train_images=12", "synthetic.val_images=6", "synthetic.samples_3d=8", "synthetic.width=240", "model.width=0.1", "model.crop=64",
    "train.steps=4", "train.batch_size=2", "train.snapshot_every=2", "train.lr=1e-3", "train.lr_steps=", "report.samples=4", "report.pictures=1",
)  # fmt: skip
REAL_PYTHON = os.environ.get("MTC_PYTHON") or str(ROOT / ".venv-train" / "bin" / "python")


def free_port():
    """A port that nobody listens on at this moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


KEPT = ("MTC_PICTURES", "MTC_AWAY_SECONDS")  # meant for the tests themselves
for name in [name for name in os.environ if name.startswith(("AIRFLOW", "MTC_")) and name not in KEPT]:
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


def quick_python():
    """Return the training interpreter as a script that trains a shallow network without haste (`test.shallow`), for tests of what is around that."""
    python = HOME / "quick" / "python"
    if not python.exists():
        python.parent.mkdir()
        paths = f'{shlex.quote(str(ROOT / "test" / "shallow"))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        python.write_text(f'#!/bin/sh\nSHALLOW_PAUSE=0.05 PYTHONPATH={paths} exec {shlex.quote(REAL_PYTHON)} "$@"\n')
        python.chmod(0o755)
    return str(python)


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


class WholeJob(NamedTuple):
    """A run of the DAG on real parts, its checkpoints in S3."""

    code: int
    output: str
    command_lines: set[str]
    """Of processes that held a credential while it ran."""
    folder: pathlib.Path
    """Run directory, data, Airflow's home with its database and logs, and the output; nothing else was told where to write."""
    run_dir: pathlib.Path
    server: pathlib.Path
    """What the S3 server keeps."""


@pytest.fixture(scope="session")
def whole_job(tmp_path_factory):
    """A finished `make demo` that is as small as it gets, with credentials that occur nowhere else."""
    if not os.access(REAL_PYTHON, os.X_OK):
        pytest.skip(f"no training interpreter at {REAL_PYTHON}; set MTC_PYTHON")
    folder = tmp_path_factory.mktemp("job")
    server = tmp_path_factory.mktemp("s3") / "server"
    environ = {**leaks.credentials(), "AIRFLOW_HOME": str(folder / "airflow"), "MTC_RUNS": str(folder / "runs"), "MTC_PYTHON": REAL_PYTHON}
    environ["PYTHONPATH"] = str(ROOT / "plugins")
    with leaks.s3_server(server) as endpoint:
        settings = [*TINY, f"data.root={folder / 'data'}", "storage.uri=s3://bucket/runs", f"storage.endpoint={endpoint}"]
        command = [sys.executable, "-m", "mtc_airflow.demo", *(word for setting in settings for word in ("--set", setting))]
        code, lines = leaks.run(command, folder / "output", env=environ)
    run_dir = next((folder / "runs").glob("mtc_train/*"), folder)
    return WholeJob(code, (folder / "output").read_text(), lines, folder, run_dir, server)


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
