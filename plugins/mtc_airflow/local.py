"""Airflow on this machine with one command: `python -m mtc_airflow.local` (`make airflow`).

Starts `airflow standalone` on 127.0.0.1, waits until it answers, says how to use it, and on Ctrl-C, SIGTERM or SIGHUP stops all that it started.
Stopping has an order: running steps first, which save and leave while Airflow can still take note of it; then Airflow by SIGINT, because a SIGTERM
would end only its first process and leave the others behind; then whatever is left of its session.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Container

import psutil

from mtc_airflow import environment, leftovers
from mtc_airflow.run_dag import DAG_ID

START_SECONDS = 300
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
REPORT_SECONDS = 20
"""How long the tasks of stopped steps get to tell Airflow about it."""
END_SECONDS = 30
"""How long Airflow gets to end by itself."""


def main() -> int:
    """Serve until a signal comes; return the exit code: 0 stopped on request, 1 Airflow failed, 2 something to put right first."""
    environment.complete()
    signals = _Signals()
    try:
        with environment.only_one("a local Airflow (make airflow)"):
            return serve(signals)
    except BlockingIOError as error:
        _say(f"{error}: stop that one first")
        return 2


def serve(signals: _Signals) -> int:
    """Start Airflow, wait for a signal, stop it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", environment.port()))
        except OSError:
            _say(f"port {environment.port()} is taken: choose another one, `MTC_PORT={environment.port() + 1} make airflow`")
            return 2
    if os.environ["AIRFLOW__API__HOST"] in ("127.0.0.1", "localhost"):
        os.environ.setdefault("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True")
    log = environment.airflow_home() / "logs" / "standalone.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        airflow = subprocess.Popen(
            [sys.executable, "-m", "airflow", "standalone"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    _say(f"starting Airflow (log: {log})")
    try:
        if not wait_until_ready(airflow, signals):
            if signals.came.is_set():
                return 0
            _say(f"Airflow did not start: see {log}")
            return 1
        introduce()
        while not signals.came.wait(1):
            if airflow.poll() is not None:
                _say(f"Airflow ended by itself: see {log}")
                return 1
        return 0
    finally:
        hurry = stop_steps(signals)
        stop_airflow(airflow, seconds=3 if hurry else END_SECONDS)
        _say("Airflow has stopped")


def wait_until_ready(airflow: subprocess.Popen, signals: _Signals) -> bool:
    """Wait until the server, the scheduler and the DAG are there; False where Airflow ended, a signal came or it took too long."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and airflow.poll() is None:
        health = _get("/api/v2/monitor/health") or {}
        healthy = all((health.get(part) or {}).get("status") == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))
        # Before its first parse, `airflow dags trigger` would not find the DAG. With a login we may not ask.
        if healthy and (not _without_login() or _get(f"/api/v2/dags/{DAG_ID}")):
            return True
        if signals.came.wait(0.5):
            return False
    return False


def introduce() -> None:
    """Say where Airflow is and how it is used."""
    passwords = f"with login: the password is in {environment.airflow_home()}/simple_auth_manager_passwords.json.generated"
    login = "no login: everybody on this machine may use it" if _without_login() else passwords
    _say(
        f"""
Airflow is ready: {environment.url()}   ({login})

  Watch   {environment.url()}/dags/{DAG_ID}
  Start   the Trigger button there, or in another shell:
            source scripts/env.sh
            airflow dags trigger {DAG_ID}
            airflow dags trigger {DAG_ID} --conf '{{"preset": "coco_body", "source": "/data/coco", "device": "gpu"}}'
  Stop    Ctrl-C here. A running training saves first; it goes on when Airflow is started again.
"""
    )


def stop_steps(signals: _Signals) -> bool:
    """Ask all running steps to save and leave; wait for them, and until their tasks have told Airflow. Returns whether a second signal ended that."""
    signals.came.clear()
    asked: set[int] = set()
    reported_by = time.monotonic() + REPORT_SECONDS
    while True:
        if leftovers.ask_all(asked, _say, " (Ctrl-C again: do not wait for it)"):
            reported_by = time.monotonic() + REPORT_SECONDS
        elif not asked or time.monotonic() > reported_by or not _running_tasks():
            return False
        if signals.came.wait(0.5):
            return True


def stop_airflow(airflow: subprocess.Popen, seconds: float) -> None:
    """End Airflow and every process of its session."""
    with contextlib.suppress(ProcessLookupError):
        if airflow.poll() is None:
            airflow.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                airflow.wait(seconds)
    for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        left = processes_of({airflow.pid})
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        psutil.wait_procs(left, timeout=seconds)
    airflow.wait()


class _Signals:
    """Notes SIGINT, SIGTERM and SIGHUP instead of being interrupted by them at any place."""

    def __init__(self):
        self.came = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, frame: self.came.set())


def processes_of(sessions: Container[int]) -> list[psutil.Process]:
    """The live processes of sessions, wherever they hang in the process tree."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _running_tasks() -> int:
    """How many tasks Airflow counts as running; 0 where it cannot be asked."""
    return (_get("/api/v2/dags/~/dagRuns/~/taskInstances?state=running&limit=1") or {}).get("total_entries", 0)


def _without_login() -> bool:
    return os.environ.get("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "").lower() == "true"


def _get(path: str) -> dict | None:
    """A JSON answer of Airflow, or None where it gives none."""
    try:
        with _DIRECT.open(environment.url() + path, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone: that is what SIGHUP is for
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
