"""An Airflow of a test's own, started by the command that people start it with."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.parse
import urllib.request

import psutil

from mtc_airflow import run_directory
from mtc_airflow.local import processes_of
from test.dag.conftest import ROOT, free_port, make_steps, wait_for


@contextlib.contextmanager
def running(home, **settings):
    """Yield a `Local` that is ready; nothing of it is left afterwards."""
    local = Local(home, **settings)
    try:
        local.wait_until_ready()
        yield local
    finally:
        for process in local.processes():
            process.kill()


class Asked:
    """An Airflow as its REST API shows it."""

    port: int
    headers: dict
    runs: pathlib.Path

    def rest(self, method, path, body=None, tries=4):
        """Ask the REST API; to look at something, again where a busy server does not answer in half a minute."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, data=data)
        for name, value in {"Content-Type": "application/json", **self.headers}.items():
            request.add_header(name, value)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
                return json.load(answer)
        except TimeoutError:
            if method != "GET" or tries == 1:
                raise
        return self.rest(method, path, body, tries - 1)

    def token(self, name, password):
        """What the API server gives a user who logs in."""
        return self.rest("POST", "/auth/token", {"username": name, "password": password})["access_token"]

    def log_in(self, name, password):
        """Ask as this user from now on."""
        self.headers["Authorization"] = f"Bearer {self.token(name, password)}"

    def trigger(self, run_id, **conf):
        self.rest("POST", "/api/v2/dags/mtc_train/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": conf})

    def found(self, run_id, task=None):
        """What there is to know of a run or of one of its tasks."""
        return self.rest("GET", f"/api/v2/dags/mtc_train/dagRuns/{urllib.parse.quote(run_id)}" + (f"/taskInstances/{task}" if task else ""))

    def state(self, run_id, task=None):
        """The state of a run or of one of its tasks."""
        return self.found(run_id, task)["state"]

    def run_dir(self, run_id):
        return self.runs / "mtc_train" / run_directory.run_directory("mtc_train", run_id).name


class Local(Asked):
    """A `python -m mtc_airflow.local` of its own, with played steps unless its environment names an interpreter."""

    def __init__(self, home, **settings):
        self.python, self.steps = make_steps(home / "runs")
        self.runs = self.steps.runs
        self.port = free_port()
        ports = {
            "MTC_PORT": self.port,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": free_port(),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": free_port(),
        }
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MTC_"))}
        self.environ = {**plain, **{name: str(port) for name, port in ports.items()}, "PYTHONPATH": str(ROOT / "plugins")}
        self.environ.update(AIRFLOW_HOME=str(home / "airflow"), MTC_RUNS=str(self.steps.runs), MTC_PYTHON=str(self.python))
        self.environ.update(settings)
        self.headers, self._sessions = {}, set()
        self.output = home / "output"
        self.start()

    def start(self):
        """Start it, again after `kill_all`."""
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen([sys.executable, "-m", "mtc_airflow.local"], env=self.environ, stdout=output, stderr=output)

    def kill_all(self):
        """Kill every process of Airflow, as if the machine's supervisor had gone mad; the commands of steps are none of them."""
        found = self.processes()
        for process in found:
            process.kill()
        self.process.wait()
        psutil.wait_procs(found, 30)

    def wait_until_ready(self):
        wait_for(lambda: self.process.poll() is not None or "Airflow is ready" in self.output.read_text(), "Airflow", 300)
        assert self.process.poll() is None, self.output.read_text()

    def processes(self):
        """Every process of this Airflow: the command itself, and the session that it has started Airflow in."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._sessions |= {child.pid for child in psutil.Process(self.process.pid).children()}
        return processes_of(self._sessions) + ([] if self.process.poll() is not None else [psutil.Process(self.process.pid)])

    def end(self, number):
        """Send a signal and return the exit code; nothing may be left."""
        self.process.send_signal(number)
        code = self.process.wait(90)
        assert self.processes() == []
        return code

    def start_training(self, run_id):
        """Trigger a run whose training goes on until it is stopped; return the process id of the training."""
        before = len(self.steps.starts("train"))
        self.steps.plan(train=["ok"] * before + ["wait"])
        self.trigger(run_id)
        return wait_for(lambda: self.steps.starts("train")[before:], "the training", 120)[0]["pid"]
