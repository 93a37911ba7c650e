"""Where the project, its runs and its training interpreter are, and the settings of Airflow that `scripts/env.sh` exports.

Every value can be set from outside; what is unset gets the default given here, the same as in `scripts/env.sh`, so that
`python -m mtc_airflow.local` also works in a shell that sourced nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

CONTROL = "import sys; from tasks import control; sys.exit(control.main())"
"""`tasks.control` in this interpreter: there may be no training interpreter where Airflow is, and the command needs none."""


def project() -> Path:
    """The root of the project: `MTC_HOME`, or the folder that holds `plugins/`."""
    return Path(os.environ.get("MTC_HOME") or Path(__file__).resolve().parents[2])


def runs() -> Path:
    """The folder of all run directories: `MTC_RUNS`, or `runs/` in the project."""
    return Path(os.environ.get("MTC_RUNS") or project() / "runs").absolute()


def training_python() -> Path:
    """The interpreter with TensorFlow: `MTC_PYTHON`, or the one that `make setup` made."""
    return Path(os.environ.get("MTC_PYTHON") or project() / ".venv-train" / "bin" / "python")


def airflow_home() -> Path:
    """Airflow's folder: `AIRFLOW_HOME`, or `.airflow/` in the project."""
    return Path(os.environ.get("AIRFLOW_HOME") or project() / ".airflow").absolute()


def port() -> int:
    """The port of the web UI: `MTC_PORT`, or 8080. Errors: SystemExit with a sentence where it is no port."""
    given = os.environ.get("MTC_PORT") or "8080"
    if not given.isdigit() or not 0 < int(given) < 65536:
        print(f"MTC_PORT={given}: expected a number from 1 to 65535", file=sys.stderr)
        raise SystemExit(2)
    return int(given)


def url() -> str:
    """The address of the web UI, without a slash at the end."""
    return f"http://127.0.0.1:{port()}"


def complete() -> None:
    """Give every setting of Airflow that is not in the environment the project's default. Call it before Airflow is imported."""
    settings = {
        "MTC_HOME": project(),
        "AIRFLOW_HOME": airflow_home(),
        "AIRFLOW__CORE__DAGS_FOLDER": project() / "dags",
        "AIRFLOW__CORE__PLUGINS_FOLDER": project() / "plugins",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": 4,  # 32 forked workers otherwise
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": port(),
        "AIRFLOW__API__WORKERS": 1,
        "AIRFLOW__API__BASE_URL": url(),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url()}/execution/",
        # With Airflow's own values, an API server that is away for half a minute kills the training. Both have to be raised.
        "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": 120,
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 1800,
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 30,
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": 30,
        "TF_CPP_MIN_LOG_LEVEL": 3,  # the steps inherit it: TensorFlow's remarks on the CPU say nothing about a run
    }
    for name, value in settings.items():
        os.environ.setdefault(name, str(value))
    # Airflow starts its parts by the name `airflow`, also where this interpreter's folder is not on the path.
    here = str(Path(sys.executable).parent)
    if here not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = here + os.pathsep + os.environ.get("PATH", "")


def clean_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command of the project: without Airflow's settings, which hold secrets, and without this interpreter's paths.

    Other entries of PYTHONPATH stay: CANN puts npu_bridge there.
    """
    environ = os.environ if environ is None else environ
    dropped = ("AIRFLOW", "_AIRFLOW", "__AIRFLOW", "PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in environ.items() if not name.startswith(dropped)}
    root = project()
    ours = [root, Path(sys.prefix)]
    foreign = [p for p in environ.get("PYTHONPATH", "").split(os.pathsep) if p and not any(Path(p).absolute().is_relative_to(o) for o in ours)]
    kept["PYTHONPATH"] = os.pathsep.join([str(root), *foreign])
    kept["PYTHONUNBUFFERED"] = "1"
    return kept


@contextlib.contextmanager
def only_one(purpose: str) -> Iterator[None]:
    """Hold this Airflow home for one local server or demo: two schedulers on one SQLite database would start every task twice.

    Errors: BlockingIOError says who holds it.
    """
    path = airflow_home() / "in_use_by"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        print(f"{path} cannot be written: {error.strerror}; this user needs a copy of the project of its own", file=sys.stderr)
        raise SystemExit(2) from None
    with open(path, "a+", encoding="utf-8") as holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder.seek(0)
            raise BlockingIOError(f"Airflow in {airflow_home()} is in use by {holder.read().strip() or 'another process'}") from None
        holder.truncate(0)
        holder.write(f"{purpose} (process {os.getpid()})\n")
        holder.flush()
        yield
