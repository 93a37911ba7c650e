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
TAIL_BYTES = 1 << 17
"""So much of the journal's end is enough for a rate."""


def run_directory(dag_id: str, run_id: str) -> Path:
    """The run directory of a DAG run: readable, safe as a path, and another one for every run id.

    Run ids hold ':' and '+', and any text where a user names one; a name that had to be changed gets a part of the id's hash.
    """
    return environment.runs() / _safe(dag_id) / _safe(run_id)


def record(run_dir: Path, step: str) -> dict[str, Any]:
    """What a step wrote last to `steps/<step>.json`; {} where there is none, or one that is no JSON object."""
    return json_object(run_dir / "steps" / f"{step}.json")


def record_since(run_dir: Path, step: str, started: float) -> dict[str, Any]:
    """The record that a command wrote which was started at a Unix time; {} where it has written none, and what is there is an earlier try's."""
    found = record(run_dir, step)
    begun = max(found.get("started", 0), (found.get("unchanged") or {}).get("time", 0))
    return found if begun >= started - 1 else {}


def own_record(job: Mapping[str, Any], step: str) -> dict[str, Any]:
    """The record that a job's command wrote, as of `record_since`."""
    return record_since(Path(job["prefix"]).parents[1], step, job["started"])


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
    written = own_record(job, step)
    if written and written.get("status") != "success":
        return str(written.get("error") or "")
    return next((line[len("error: ") :] for line in reversed(last_lines(job)) if line.startswith("error: ")), "")


def last_lines(job: Mapping[str, Any]) -> list[str]:
    """The last lines that a command has printed, at most 64 KiB of them."""
    try:
        with open(f"{job['prefix']}.log", "rb") as output:
            output.seek(max(job["offset"], output.seek(0, os.SEEK_END) - 65536))
            return [shown(line) for line in output]
    except OSError:
        return []


def log_prefix(run_dir: Path, task_id: str, map_index: int = -1) -> Path:
    """Beginning of the names of a task's files in `logs/`: `.log` has all that its commands have printed, over all tries."""
    return run_dir / "logs" / (task_id.replace(".", "_") + (f"_{map_index}" if map_index >= 0 else ""))


def progress(run_dir: Path) -> dict[str, Any]:
    """How far a training is: {"step", "of", "loss", "images_per_second", "eta_seconds", "uploaded"}; {} before the first step."""
    try:
        with open(run_dir / "metrics.jsonl", "rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = f.read().split(b"\n")[1:-1]
    except OSError:
        return {}
    steps = []
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        steps += [found] if isinstance(found, dict) and found.get("kind") == "train" else []
    if not steps:
        return {}
    config, last = json_object(run_dir / "config.json").get("train") or {}, steps[-1]
    seconds = [s["seconds"] for s in steps if isinstance(s.get("seconds"), (int, float))]
    mean = sum(seconds) / len(seconds) if seconds else None
    uploads = json_object(run_dir / "uploads.json").get("checkpoints") or {}
    uploaded = sorted(name for name, entry in uploads.items() if isinstance(entry, dict) and entry.get("state") == "uploaded")
    answer = {"step": last.get("step"), "of": config.get("steps"), "loss": last.get("loss"), "uploaded": uploaded[-1] if uploaded else None}
    if mean:
        answer["images_per_second"] = round((config.get("batch_size") or 0) / mean, 2)
        answer["eta_seconds"] = round(max(0, (config.get("steps") or 0) - (last.get("step") or 0)) * mean)
    return answer


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
