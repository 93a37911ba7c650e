"""The end of a run: whatever of its commands still runs is asked to save and leave, and waited for.

Airflow loses a task that its worker dies under for the last time, and knows nothing of the command any more; left alone, a trainer would train on for
days. One on another machine is asked by way of the run directory, which both share.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtc_airflow import detached, environment

log = logging.getLogger(__name__)
PATIENCE = 900.0
"""Seconds that a command gets to save."""
POLL = 0.5


def stop(run_dir: Path) -> list[str]:
    """Stop what still runs for a run directory; returns the names of the tasks it belonged to."""
    jobs = [job for job in detached.of_run(run_dir) if detached.status(job) == detached.RUNNING]
    for job in jobs:
        log.warning("%s still runs (process %s) though its task has ended: it is asked to save and leave", Path(job["prefix"]).name, job["pid"])
        detached.stop(job)
    if not jobs and (run_dir / ".lock").exists():
        _ask_elsewhere(run_dir)
    give_up = time.monotonic() + PATIENCE
    while any(detached.status(job) == detached.RUNNING for job in jobs):
        if time.monotonic() > give_up:
            raise RuntimeError(f"{', '.join(Path(job['prefix']).name for job in jobs)} did not leave within {PATIENCE:.0f} s")
        time.sleep(POLL)
    return [Path(job["prefix"]).name for job in jobs]


def ask_all(asked: set[int], say: Callable[[str], None], hint: str = "") -> list[dict[str, Any]]:
    """Ask every step that runs on this machine for this Airflow to save and leave, each once, and return their jobs.

    asked: process ids of those that were asked, which this adds to. say(text) tells of each; hint: what a person may do meanwhile.
    """
    jobs = list(detached.running(environment.runs(), str(environment.airflow_home())))
    for job in jobs:
        if job["pid"] not in asked:
            asked.add(job["pid"])
            prefix = Path(job["prefix"])
            say(f"stopping {prefix.name} of {prefix.parents[1]}: it saves and leaves{hint}")
            detached.stop(job)
    return jobs


def _ask_elsewhere(run_dir: Path) -> None:
    """Ask a trainer that holds the run's lock on another machine to stop; there usually is none."""
    command = [sys.executable, "-c", environment.CONTROL, "--run-dir", str(run_dir), "--by=the end of the run", "--wait", "0", "stop"]
    done = subprocess.run(command, cwd=environment.project(), env=environment.clean_environment(), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        log.warning("a trainer on another machine still runs: %s", done.stdout.strip())
