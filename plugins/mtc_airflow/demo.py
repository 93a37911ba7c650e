"""The whole job in minutes with one command: `python -m mtc_airflow.demo` (`make demo`).

Runs the DAG `mtc_train` with the preset `demo` through Airflow (`mtc_airflow.run_dag`, in its own process), shows what the steps print instead of
what Airflow logs, and ends with the report's path and its headline figures. Exit code 0: success; 1: failed; 2: something to put right first;
3: stopped after the running step had saved.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mtc_airflow import detached, environment, run_directory
from mtc_airflow.run_dag import DAG_ID

PLAIN_SECONDS = 10
"""How often a running step's last line is shown where the output is no terminal."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mtc_airflow.demo", description="Run the whole DAG on synthetic data.")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one key of the preset; may be repeated"
    )
    overrides = parser.parse_args(argv).overrides
    environment.complete()
    if not os.access(environment.training_python(), os.X_OK):
        print(f"the training interpreter {environment.training_python()} is missing: run `make setup`, or set MTC_PYTHON")
        return 2
    try:
        with environment.only_one("a demo (make demo)"):
            return run({"preset": "demo", "set": overrides})
    except BlockingIOError as error:
        print(f'{error}: wait for it, or start the demo there: airflow dags trigger {DAG_ID} --conf \'{{"preset": "demo"}}\'')
        return 2


def run(conf: dict[str, Any]) -> int:
    """Run the DAG with a conf, show its progress and how it ended."""
    log = environment.airflow_home() / "logs" / "demo.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    run_after = datetime.now(timezone.utc).isoformat(timespec="seconds")
    run_dir = run_directory.run_directory(DAG_ID, f"manual__{run_after}")
    print(f"{DAG_ID} with the preset {conf['preset']}, in {run_dir}\nAirflow's own log: {log}", flush=True)
    paths = [str(environment.project() / "plugins"), os.environ.get("PYTHONPATH", "")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    stop = _StopOnSignals()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mtc_airflow.run_dag", run_after, json.dumps(conf)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, start_new_session=True,
        )  # fmt: skip
    shown = Progress(run_dir)
    while process.poll() is None or (stop.wanted and any(_running_steps(run_dir))):
        stop.forward(process, run_dir)
        shown.update()
        time.sleep(0.3)
    shown.update()
    if process.returncode == 0:
        print(headline(run_dir))
        return 0
    if stop.wanted:  # whatever Airflow made of the interruption
        print(f"stopped; what was saved is in {run_dir}")
        return 3
    print(f"the demo failed: {shown.reason or _last_error(log)}\nAirflow's log: {log}")
    return 1


def headline(run_dir: Path) -> str:
    """The report's place and its headline figures, for people."""
    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    loss, pck = report["loss"], report["pck"]
    lines = [
        "",
        f"report            {run_dir / 'report.html'}",
        f"heat-map loss     {_loss(loss['last_mean_2d'])} over the last steps; an empty answer {_loss(loss['baseline_2d'])}",
        f"POF loss          {_loss(loss['last_mean_pof'])} over the last steps; an empty answer {_loss(loss['baseline_pof'])}",
    ]
    for threshold in sorted(pck["trained"] if pck else ()):  # none where the report could not evaluate: its warnings say why
        trained, untrained, mean_pose = (f"{pck[who][threshold]:.3f}" for who in ("trained", "untrained", "mean_pose"))
        lines.append(f"PCK@{threshold}           {trained} on held-out people; untrained {untrained}, always the mean pose {mean_pose}")
    lines.append(f"throughput        {report['throughput']['images_per_second']:.1f} images/s")
    lines += [f"warning           {warning}" for warning in report["warnings"]]
    return "\n".join(lines)


def _loss(value: float | None) -> str:
    return "none" if value is None else f"{value:.6f}"


class Progress:
    """Shows the commands of a run as they come and go: a line each, with what they printed last while they run."""

    def __init__(self, run_dir: Path):
        self.run_dir, self.reason = run_dir, ""
        self._ended: set[tuple[str, int]] = set()
        self._terminal = sys.stdout.isatty()
        self._last_shown: dict[str, float] = {}

    def update(self) -> None:
        """Show what has changed."""
        paths = sorted((self.run_dir / "logs").glob("*.job"), key=lambda path: path.stat().st_mtime)
        for path in paths:
            job = detached.last(path.with_suffix(""))
            if job is None or (path.stem, job["pid"]) in self._ended:
                continue
            status = detached.status(job)
            if status == detached.RUNNING:
                self._running(path.stem, job)
            else:
                self._ended.add((path.stem, job["pid"]))
                self._end(path.stem, job, status)

    def _running(self, task: str, job: dict[str, Any]) -> None:
        lines = [line for line in run_directory.last_lines(job) if line.strip()]
        now = time.monotonic()
        if not lines or now - self._last_shown.get(task, 0.0) < (0 if self._terminal else PLAIN_SECONDS):
            return
        self._last_shown[task] = now
        text = f"  {task:<15} {lines[-1].strip().expandtabs(2)}"
        if self._terminal:
            print(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K", end="", flush=True)
        else:
            print(text, flush=True)

    def _end(self, task: str, job: dict[str, Any], status: str | int) -> None:
        step = run_directory.record(self.run_dir, job.get("step") or task)
        seconds = f"{max(0.0, Path(job['prefix'] + '.exit').stat().st_mtime - job['started']):.0f} s" if isinstance(status, int) else ""
        if status == 0:
            figures = ", ".join(f"{key} {value}" for key, value in (step.get("figures") or {}).items() if isinstance(value, (int, float, str)))
            text = f"{task:<15} done {seconds:>7}   {figures}"
        else:
            self.reason = f"{task}: {run_directory.error(job, job.get('step') or task) or f'exit code {status}'} (its output: {job['prefix']}.log)"
            text = f"{task:<15} ended with {status} after {seconds}"
        width = shutil.get_terminal_size().columns - 1 if self._terminal else 200
        print(f"{chr(13) if self._terminal else ''}  {text}"[:width] + ("\x1b[K" if self._terminal else ""), flush=True)


class _StopOnSignals:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a Ctrl-C for the process that runs the DAG."""

    def __init__(self):
        self.wanted, self._sent = False, 0.0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._want)

    def _want(self, number, frame):
        self.wanted = True

    def forward(self, process: subprocess.Popen, run_dir: Path) -> None:
        """Send it; again where no step runs and Airflow has not left: between two tasks it may take a Ctrl-C for the failure of a task."""
        if not self.wanted or time.monotonic() - self._sent < 5:
            return
        if self._sent == 0.0:
            print("\nstopping: the running step saves and leaves", flush=True)
        elif any(_running_steps(run_dir)):
            return
        self._sent = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)


def _running_steps(run_dir: Path):
    jobs = (detached.last(path.with_suffix("")) for path in (run_dir / "logs").glob("*.job"))
    return (job for job in jobs if job is not None and detached.status(job) == detached.RUNNING)


def _last_error(log: Path) -> str:
    """The last exception that Airflow logged: why the run ended where no step of it did."""
    found = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception|Failed|SystemExit): .*$", log.read_text(errors="replace"), flags=re.MULTILINE)
    return found[-1] if found else "Airflow ended before any step did"


if __name__ == "__main__":
    sys.exit(main())
