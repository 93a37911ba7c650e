"""Where one DAG run keeps its files, and what its steps left there.

A run directory belongs to the trainer (see the step contract in `tasks/step.py`); the Airflow side adds `logs/`, the captured output of each task.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtc_airflow import environment

FIGURE_BYTES = 2000
"""A figure whose JSON is longer than this stays in the step's record: XComs are for small things."""


def run_directory(dag_id: str, run_id: str) -> Path:
    """The run directory of a DAG run: readable, safe as a path, and another one for every run id.

    Run ids hold ':' and '+', and any text where a user names one; a name that had to be changed gets a part of the id's hash.
    """
    return environment.runs() / _safe(dag_id) / _safe(run_id)


def record(run_dir: Path, step: str) -> dict[str, Any]:
    """What a step wrote last to `steps/<step>.json`; {} where there is none, or one that is no JSON object."""
    return json_object(run_dir / "steps" / f"{step}.json")


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where there is no such file, or something else in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def small_figures(run_dir: Path, step: str) -> dict[str, Any]:
    """The figures of a step's record that are small enough for an XCom; None for numbers that JSON cannot say, such as the loss of a skipped step."""
    figures = _finite(record(run_dir, step).get("figures") or {})
    return {key: value for key, value in figures.items() if len(json.dumps(value)) <= FIGURE_BYTES}


def error(job: Mapping[str, Any], step: str) -> str:
    """Why a step's command failed, in its own words: from its record, or from its output where it could not write one; "" if it says nothing."""
    written = record(Path(job["prefix"]).parents[1], step)
    if written.get("status") != "success" and written.get("started", 0) >= job["started"] - 1:  # else it is an earlier try's
        return str(written.get("error") or "")
    return next((line[len("error: ") :] for line in reversed(last_lines(job)) if line.startswith("error: ")), "")


def last_lines(job: Mapping[str, Any]) -> list[str]:
    """The last lines that a command has printed, at most 64 KiB of them."""
    with open(f"{job['prefix']}.log", "rb") as output:
        output.seek(max(job["offset"], output.seek(0, os.SEEK_END) - 65536))
        return [shown(line) for line in output]


def log_file(run_dir: Path, task_id: str) -> Path:
    """All that the commands of a task have printed, over all tries."""
    return run_dir / "logs" / f"{task_id}.log"


def shown(line: bytes) -> str:
    """A line of captured output as a terminal would show it: what a progress bar drew last."""
    return line.rstrip(b"\r\n").rsplit(b"\r", 1)[-1].decode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _safe(name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".")[:80] or "run"
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
