"""How a run stands, from the files of its run directory: what the Training page shows beside the curves, and the list of runs.

Knows nothing of Airflow or TensorFlow. A file that is missing or damaged means that there is nothing to say about its subject.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import json
import math
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

from mtc_airflow import run_directory
from mtc_airflow.training_page import series
from mtc_airflow.training_page.history import History

PUBLISHED = {"GPU": 0.0038, "Ascend 910": 0.0043}
"""Mean of the last ten losses in the reference's README, as in `mtc.report.figures`."""

RATE_STEPS = 100
"""Steps that the rate and the remaining time are judged by."""
QUIET_SECONDS = 300
"""A trainer that says nothing for so long, and for ten times its usual step, is worth a warning."""
SPARK_POINTS = 60


def of_run(run_dir: Path, history: History) -> dict[str, Any]:
    """All that the page shows of a run beside its curves; JSON-able."""
    config, holder = run_directory.json_object(run_dir / "config.json"), trainer(run_dir)
    requests = control_requests(run_dir)
    with history.lock:
        start, end = _start(history), _end(history)
        last = last_step(config, requests)
        pace = _pace(history)
        batch = _number(_get(config, "train", "batch_size"))
        images = batch / pace["seconds"] if batch and pace["seconds"] else None
        flop, peak = _number(start.get("flop_per_image")), _number(_get(start, "device", "flop_per_second"))
        step = history.steps[-1] if len(history) else _integer(start.get("step"))
        answer = {
            "name": config.get("name"),
            "live": holder is not None,
            "trainer": holder,
            "status": _status(holder, start, end),
            "step": step,
            "last_step": last,
            "loss": history.last("loss"),
            "learning_rate": history.last("lr"),
            "images_per_second": images,
            "mfu": images * flop / peak if images and flop and peak else None,
            "eta_seconds": (last - step) * pace["wall"] if holder and last and step is not None and pace["wall"] else None,
            "quiet_seconds": round(time.time() - history.columns["time"][-1], 1) if len(history) and holder else None,
            "batch_size": batch,
            "seconds": _number(end.get("seconds")) if end else None,
            "starts": len(history.of_kind("start")),
            "device": start.get("device") or {},
            "versions": start.get("versions") or {},
            "parameters": _integer(start.get("parameters")),
            "memory": _memory(holder),
            "metric": _get(config, "evaluation", "metric"),
            "evaluations": [{k: e.get(k) for k in ("step", "score", "best")} for e in history.of_kind("evaluation")],
            "checkpoints": checkpoints(run_dir, history),
            "previews": previews(run_dir),
            "requests": requests,
            "breakdown": _breakdown(history),
            "published": PUBLISHED,
            "published_fits": _get(config, "fetch", "source") not in (None, "synthetic"),
            "report": (run_dir / "report.html").is_file(),
            "run_dir": str(run_dir),
            "storage": _get(config, "storage", "uri"),
        }
        answer["warnings"] = warnings(answer, history, start, pace)
    return answer


def brief(run_dir: Path, history: History) -> dict[str, Any]:
    """What the list of runs shows of one."""
    config, holder, requests = run_directory.json_object(run_dir / "config.json"), trainer(run_dir), control_requests(run_dir)
    with history.lock:
        start, end = _start(history), _end(history)
        scores = [e["score"] for e in history.of_kind("evaluation") if isinstance(e.get("score"), (int, float))]
        return {
            "name": config.get("name"),
            "status": _status(holder, start, end),
            "step": history.steps[-1] if len(history) else None,
            "last_step": last_step(config, requests),
            "loss": history.last("loss"),
            "best": max(scores, default=None),
            "metric": _get(config, "evaluation", "metric"),
            "spark": series.bucket_means(history.columns["loss"], SPARK_POINTS),
        }


def trainer(run_dir: Path) -> dict[str, Any] | None:
    """Who trains in a run directory at this moment, as its lock says: {"pid", "host", "since", "state"}; None where nobody does."""
    path = run_dir / ".lock"
    try:
        with open(path, "rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        found = run_directory.json_object(path)
        return {key: found.get(key) for key in ("pid", "host", "since", "state", "what")}
    except OSError:
        return None


def last_step(config: dict[str, Any], requests: list[dict[str, Any]]) -> int | None:
    """Number of the run's last step: what was asked for while it ran, else what the configuration says."""
    asked = [
        r for r in requests if r.get("action") == "steps" and r.get("outcome") == "done" and r.get("instead_of") == _get(config, "train", "steps")
    ]
    return _integer(asked[-1]["value"]) if asked else _integer(_get(config, "train", "steps"))


def control_requests(run_dir: Path) -> list[dict[str, Any]]:
    """What was asked of the trainer so far, with its answers: the lines of control.jsonl, see `mtc.training.control`."""
    lines = []
    with contextlib.suppress(OSError), open(run_dir / "control.jsonl", "rb") as f:
        for line in f:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                lines += [value] if isinstance(value, dict) else []
    answers = {line["answers"]: line for line in lines if isinstance(line.get("answers"), str)}
    asked = [line for line in lines if isinstance(line.get("id"), str)]
    told = ("step", "outcome", "reason", "instead_of")
    return [{**{k: r.get(k) for k in ("time", "by", "action", "value")}, **{k: answers.get(r["id"], {}).get(k) for k in told}} for r in asked]


def checkpoints(run_dir: Path, history: History) -> list[dict[str, Any]]:
    """The run's checkpoints, newest first, with where they are: on this machine, waiting, in the storage, failed, removed again."""
    queue = run_directory.json_object(run_dir / "uploads.json").get("checkpoints")
    queue = queue if isinstance(queue, dict) else {}
    here = set()
    with contextlib.suppress(OSError):
        here = {int(name[5:]) for name in os.listdir(run_dir / "checkpoints") if re.fullmatch(r"step-\d{8,}", name)}
    rows: dict[int, dict[str, Any]] = {}
    for event in history.events:
        step = event.get("step")
        if event["kind"] == "checkpoint" and isinstance(step, int):
            rows[step] = {k: event.get(k) for k in ("step", "time", "bytes", "seconds", "stalled", "copied", "path", "memory")}
        elif event["kind"] == "upload" and isinstance(step, int):
            rows.setdefault(step, {"step": step}).update(uri=event.get("uri"), upload_seconds=event.get("seconds"), removed=False)
        elif event["kind"] == "upload_removed" and isinstance(step, int):
            rows.setdefault(step, {"step": step}).update(removed=True)
    for step in here - set(rows):
        rows[step] = {"step": step}
    for step, row in rows.items():
        entry = queue.get(f"step-{step:08d}")
        entry = entry if isinstance(entry, dict) else {}
        state = entry.get("state")
        if row.get("removed") or state == "removed":
            row["state"] = "removed from the storage"
        elif row.get("uri"):
            row["state"] = "uploaded"
        elif state == "failed":
            row["state"], row["reason"] = "upload failed", entry.get("reason")
        else:
            row["state"] = "waiting" if state == "waiting" else "here only" if step in here else "gone"
        row["here"] = step in here
        row.pop("removed", None)
    scores = {e.get("step"): e.get("score") for e in history.of_kind("evaluation")}
    return [dict(rows[step], score=scores.get(step)) for step in sorted(rows, reverse=True)]


def previews(run_dir: Path) -> list[int]:
    """The steps that have a contact sheet, ascending."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(run_dir / "previews"):
            if re.fullmatch(r"step-\d{8,}", name) and (run_dir / "previews" / name / "skeletons.json").is_file():
                found.append(int(name[5:]))
    return sorted(found)


def warnings(answer: dict[str, Any], history: History, start: dict[str, Any], pace: dict[str, Any]) -> list[str]:
    """What somebody who watches should know, a sentence each."""
    found = [f"{term} is 0 by construction: no sample of this configuration can train it" for term in start.get("dead_terms") or []]
    skipped, bad = history.of_kind("skipped"), {(e.get("source"), e.get("name")) for e in history.of_kind("bad_sample")}
    if skipped:
        found.append(f"{len(skipped)} step(s) were skipped because loss or gradient was no number; the last is step {skipped[-1].get('step')}")
    if bad:
        found.append(f"{len(bad)} sample(s) could not be used and were replaced, the first is {min(map(str, (name for _, name in bad)))}")
    for event in history.of_kind("non_finite")[-1:]:
        if not len(history) or int(event.get("step") or 0) >= history.steps[-1]:
            found.append(f"step {event.get('step')} had no number for loss or gradient and ended the training; see faults/ in the run directory")
    failed = [row["step"] for row in answer["checkpoints"] if row["state"] == "upload failed"]
    if failed:
        reason = next((row.get("reason") for row in answer["checkpoints"] if row["state"] == "upload failed" and row.get("reason")), "")
        found.append(f"checkpoints of step(s) {', '.join(map(str, sorted(failed)[:5]))} are on this machine only: {reason}")
    if history.damaged:
        found.append(f"{history.damaged} line(s) of metrics.jsonl are damaged and left out")
    quiet = answer["quiet_seconds"]
    if quiet and quiet > max(QUIET_SECONDS, 10 * (pace["wall"] or 0)):
        found.append(f"the trainer has not finished a step for {quiet / 60:.0f} minutes")
    lowered = [r for r in answer["requests"] if r["action"] == "lr_factor" and r["outcome"] == "done"]
    if lowered and lowered[-1]["value"] != 1:
        found.append(
            f"the learning rate is {lowered[-1]['value']} times the schedule's since step {lowered[-1]['step']}, as {lowered[-1]['by']} asked"
        )
    return found


def _status(holder, start: dict[str, Any], end: dict[str, Any] | None) -> str:
    """running, saving, success, stopped, failed, broken off, or not started."""
    if holder:
        return "saving" if holder.get("state") == "leaving" else "running"
    if not start:
        return "not started"
    if end is None:  # killed, or the machine went down
        return "broken off"
    return str(end.get("status") or "broken off")


def _pace(history: History) -> dict[str, Any]:
    """Seconds a step over the last ones: of computing, and by the clock (with all that comes between)."""
    start = _start(history).get("step")
    first = bisect.bisect_right(history.steps, start) if isinstance(start, int) else 0
    first = max(first, len(history) - RATE_STEPS - 1)
    seconds = [value for value in history.columns["seconds"][first + 1 :] if math.isfinite(value)]  # the first step of a start builds the graph
    times = [value for value in history.columns["time"][first:] if math.isfinite(value)]
    mean = sum(seconds) / len(seconds) if seconds else None
    wall = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
    return {"seconds": mean, "wall": max(filter(None, (mean, wall)), default=None)}


def _breakdown(history: History) -> dict[str, Any] | None:
    """Where the time of the steps went: {"step", "data", "checkpoint"} in seconds."""
    seconds, waited = (series.total(history.columns[name]) for name in ("seconds", "waited"))
    stalled = sum(value for value in (_number(e.get("stalled")) for e in history.of_kind("checkpoint")) if value)
    return {"step": seconds - waited, "data": waited, "checkpoint": stalled} if seconds else None


def _memory(holder) -> dict[str, Any] | None:
    """Bytes that the trainer has now and had at most, where it runs on this machine."""
    if not holder or holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return None
    try:
        text = Path(f"/proc/{holder['pid']}/status").read_text()
    except OSError:
        return None
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, flags=re.MULTILINE))
    return {"now": int(found["VmRSS"]) * 1024, "most": int(found["VmHWM"]) * 1024} if len(found) == 2 else None


def _start(history: History) -> dict[str, Any]:
    """The line of the last start, or {}."""
    return next((event for event in reversed(history.events) if event["kind"] == "start"), {})


def _end(history: History) -> dict[str, Any] | None:
    """The line with which the last start ended, or None."""
    last = next((event for event in reversed(history.events) if event["kind"] in ("start", "end")), {})
    return last if last.get("kind") == "end" else None


def _get(value, *keys):
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _number(value) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def _integer(value) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
