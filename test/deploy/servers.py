"""PostgreSQL, Redis and the parts of an Airflow, each started by its own command and stopped again."""

import contextlib
import glob
import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse

import psutil

from mtc_airflow.local import processes_of
from test.dag.conftest import ROOT, TINY, free_port, quick_python, wait_for
from test.dag.local_airflow import Asked


class Postgres:
    """A cluster of its own in a temporary folder. Use as a context manager."""

    def __init__(self):
        self._bin = pathlib.Path(
            max(glob.glob("/usr/lib/postgresql/*/bin/initdb"), default=None) or shutil.which("initdb")
        ).parent  # Debian's; else on PATH
        self.port = free_port()
        # The server refuses to run as root, and pytest's folders are shut for others.
        self._user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="mtc-postgres-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        if self._user:
            entry = pwd.getpwnam("postgres")
            os.chown(self._folder, entry.pw_uid, entry.pw_gid)

    def __enter__(self):
        self._run("initdb", "-D", "{}", "-U", "airflow", "-A", "trust", "-E", "UTF8")
        self.start()
        return self

    def __exit__(self, *error):
        self.stop()
        shutil.rmtree(self._folder)

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "-D", "{}", "-w", "-l", f"{self._folder}/server.log", "-o", options, "start")

    def stop(self, mode="fast"):
        """Mode "immediate" is what a machine that goes down does: connections break, and the next start recovers."""
        self._run("pg_ctl", "-D", "{}", "-w", "-m", mode, "stop")

    def new_database(self, name):
        """Make a database and return its address for SQLAlchemy."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "airflow", name)
        return f"postgresql+psycopg2://airflow@127.0.0.1:{self.port}/{name}"

    def _run(self, program, *words):
        words = [word.replace("{}", str(self._folder / "data")) for word in words]
        done = subprocess.run([*self._user, str(self._bin / program), *words], cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def redis():
    """Yield the port of a Redis server that keeps nothing."""
    port = free_port()
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir())
    try:
        wait_for(lambda: _ping(port), "Redis", 20)
        yield port
    finally:
        server.terminate()
        server.wait(20)


def _ping(port):
    import redis as client

    with contextlib.suppress(client.ConnectionError):
        return client.Redis(port=port).ping()
    return False


class Deployment(Asked):
    """An Airflow as processes of its own, each part a service: what systemd or a cluster would run. Use as a context manager."""

    PARTS = {
        "api-server": ["api-server"],
        "scheduler": ["scheduler"],
        "dag-processor": ["dag-processor"],
        "triggerer": ["triggerer"],
    }

    def __init__(self, home, database, parts=PARTS, **settings):
        self.home, self._commands, self._processes = home, parts, {}
        self._sessions = set()
        """Of all that was ever started: a part that was killed leaves processes behind."""
        self.prepared = []
        """Commands of Airflow's to run between the database and the parts."""
        self.port, self.headers, self.runs = free_port(), {}, home / "runs"
        url = f"http://127.0.0.1:{self.port}"
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MTC_", "AWS_"))}
        self.environ = {
            **plain,
            "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}",
            "MTC_HOME": str(ROOT),
            "MTC_RUNS": str(self.runs),
            "MTC_PYTHON": quick_python(),
            "AIRFLOW_HOME": str(home / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": "of these tests",
            "AIRFLOW__API_AUTH__JWT_SECRET": "of these tests, which is long enough for a signature, and of no others",
            "AIRFLOW__CORE__FERNET_KEY": "bXRjLXRlc3RzLW9ubHktbXRjLXRlc3RzLW9ubHkxMjM=",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "120",
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            **settings,
        }

    def __enter__(self):
        try:
            (self.home / "airflow").mkdir(parents=True)
            self.runs.mkdir()
            self.run(["db", "migrate"], *self.prepared, ["dags", "reserialize"])
            for name in self._commands:
                self.start(name)
            self.wait_for(self._ready, "Airflow", 240)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for process in processes_of(self._sessions):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self._processes.values():
            process.wait()

    def run(self, *commands):
        """Run commands of Airflow's one after another, in one process: each would take seconds to start."""
        program = "import json, sys\nfrom airflow.__main__ import main\nfor words in json.load(sys.stdin):\n    sys.argv[1:] = words\n    main()"
        done = subprocess.run(
            [sys.executable, "-c", program], env=self.environ, input=json.dumps(commands), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, name):
        """Start a part, again after `kill`."""
        with open(self.home / f"{name}.txt", "ab") as output:
            words = self._commands[name]
            command = [sys.executable, "-m", *([] if words[0].startswith("mtc_airflow") else ["airflow"]), *words]
            self._processes[name] = subprocess.Popen(
                command, env=self.environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            self._sessions.add(self._processes[name].pid)

    def tend(self):
        """Start parts that have ended by themselves again, as a service manager does."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                self.start(name)

    def kill(self, name, all_of_it=True):
        """SIGKILL for a part, with all processes of its session or the first alone. Commands of steps have sessions of their own."""
        for process in self.processes(name) if all_of_it else [psutil.Process(self._processes[name].pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._processes[name].wait()

    def stop(self, name, seconds=120):
        """SIGTERM for a part, as a service manager sends it, and its end."""
        self._processes[name].send_signal(signal.SIGTERM)
        self._processes[name].wait(seconds)
        self.kill(name)

    def freeze(self, name, seconds):
        """Let a part not answer for so long."""
        found = self.processes(name)
        for process in found:
            process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        for process in found:
            process.send_signal(signal.SIGCONT)

    def processes(self, name):
        """The live processes of a part."""
        return processes_of({self._processes[name].pid})

    def output(self):
        """What the parts have printed."""
        return "\n".join(f"--- {name}\n{(self.home / f'{name}.txt').read_text()}" for name in self._commands)

    def wait_for(self, condition, what, seconds):
        """Wait until a condition holds and return its value; else what the parts have printed is shown."""
        try:
            return wait_for(condition, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output()[-20000:]}") from None

    def start_training(self, run_id, *rules, **conf):
        """Trigger a run that trains until it is asked to end, and wait for its first steps."""
        tiny = [rule for rule in TINY if not rule.startswith(("train.steps", "train.snapshot_every"))]
        self.trigger(run_id, set=[*tiny, f"data.root={self.home / 'data'}", "train.steps=1000000", *rules], **conf)
        self.wait_for(lambda: len(self.journal(run_id)) > 2 or self.state(run_id) == "failed", "the first steps", 300)
        assert self.state(run_id) == "running", self.output()

    def more_steps(self, run_id):
        """Wait until some more steps are made."""
        before = len(self.journal(run_id))
        self.wait_for(lambda: len(self.journal(run_id)) > before + 5, "more steps", 60)

    def end_of(self, run_id):
        """Wait for the end of a run and return its state."""
        self.wait_for(lambda: self.state(run_id) in ("success", "failed"), f"the end of {run_id}", 300)
        return self.state(run_id)

    def tasks(self, run_id):
        """(task, state, tries) of all tasks of a run."""
        found = self.rest("GET", f"/api/v2/dags/mtc_train/dagRuns/{run_id}/taskInstances")["task_instances"]
        return [(task["task_id"], task["state"], task["try_number"]) for task in found]

    def page(self, method, path, body=None, run_id=None):
        """Ask the Training page."""
        query = urllib.parse.urlencode({"dag_id": "mtc_train", "run_id": run_id})
        return self.rest(method, f"{path}?{query}", body)

    def journal(self, run_id, kind="train"):
        """The lines of a kind in a run's metrics.jsonl."""
        try:
            with open(self.run_dir(run_id) / "metrics.jsonl", encoding="utf-8") as f:
                return [line for line in map(json.loads, (line for line in f if line.endswith("\n"))) if line["kind"] == kind]
        except FileNotFoundError:
            return []

    def healthy(self):
        """Whether all parts that say so are well."""
        with contextlib.suppress(OSError):
            health = self.rest("GET", "/api/v2/monitor/health", tries=1)
            return all((health.get(part) or {}).get("status") == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))
        return False

    def _ready(self):
        gone = {name: process.returncode for name, process in self._processes.items() if process.poll() is not None}
        assert not gone, f"{gone}\n{self.output()}"
        return self.healthy()
