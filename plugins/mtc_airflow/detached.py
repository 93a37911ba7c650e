"""Commands that outlive the process that started them: their own session, output to a file, exit code kept in a file.

Airflow gives a stopped task five seconds and then kills its process group; a trainer needs longer to save, and should not die with a worker. So a
command is started in its own session and known by a *job*, plain data that a later process can use: process id, the kernel's start time of that
process, and the boot it belongs to name one process for ever (a process id alone is used again). Needs /proc (Linux).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RUNNING, LOST = "running", "lost"

# sh -c _KEEP_EXIT_CODE PREFIX COMMAND...: survives the signals that are meant for the command, and writes its exit code.
# `trap :` and not `trap ""`: an ignored signal would stay ignored in the command until it installs its own handler, seconds of imports later.
_KEEP_EXIT_CODE = 'trap : TERM INT HUP; "$@"; code=$?; echo $code >"$0.exit.tmp" && mv "$0.exit.tmp" "$0.exit"; exit $code'


def start(command: Sequence[str], *, prefix: Path, cwd: Path, env: Mapping[str, str], owner: str, step: str = "") -> dict[str, Any]:
    """Start a command and return its job. Files: `<prefix>.log` (appended to), `.exit` and `.job`; owner marks whose job it is, step what it does."""
    started = time.time()
    prefix.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{prefix}.exit").unlink(missing_ok=True)
    with open(f"{prefix}.log", "ab") as log:
        offset = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            ["/bin/sh", "-c", _KEEP_EXIT_CODE, str(prefix), *command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, env=dict(env), start_new_session=True,
        )  # fmt: skip
    # Our own child stays in /proc until it is waited for, so a command that has ended already has its start time, too.
    job = {"pid": process.pid, "ticks": _stat(process.pid)[19], "boot": _boot()}
    job.update(prefix=str(prefix), offset=offset, started=started, owner=owner, step=step)
    job_file = Path(f"{prefix}.job")
    temporary = job_file.with_suffix(".job.tmp")
    temporary.write_text(json.dumps(job), encoding="utf-8")
    temporary.replace(job_file)
    return job


def status(job: Mapping[str, Any]) -> str | int:
    """RUNNING, the exit code, or LOST: killed without a code, or on another machine or an earlier boot of this one."""
    with contextlib.suppress(ChildProcessError):  # our own child has to be collected, else it stays as a zombie
        os.waitpid(job["pid"], os.WNOHANG)
    if job["boot"] != _boot():
        return LOST
    if _start_ticks(job["pid"]) == job["ticks"]:
        return RUNNING
    try:
        return int(Path(f"{job['prefix']}.exit").read_text())
    except (OSError, ValueError):
        return LOST


def stop(job: Mapping[str, Any]) -> None:
    """Send SIGTERM to a running job and all that it started; a step saves and leaves."""
    if status(job) == RUNNING:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job["pid"], signal.SIGTERM)


def last(prefix: Path) -> dict[str, Any] | None:
    """The job that was started last with this prefix, or None."""
    try:
        return json.loads(Path(f"{prefix}.job").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def of_run(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The last job of each task of a run."""
    for path in sorted((run_dir / "logs").glob("*.job")):
        job = last(path.with_suffix(""))
        if job is not None:
            yield job


def running(runs: Path, owner: str) -> Iterator[dict[str, Any]]:
    """All running jobs of an owner below a folder of run directories."""
    for path in sorted(runs.glob("*/*/logs/*.job")):
        job = last(path.with_suffix(""))
        if job is not None and job["owner"] == owner and status(job) == RUNNING:
            yield job


def _start_ticks(pid: int) -> str | None:
    """When the kernel started a process, in clock ticks since boot; None for one that has ended."""
    try:
        fields = _stat(pid)
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _stat(pid: int) -> list[str]:
    """What /proc tells of a process, from its state on (proc(5)). Errors: OSError where there is none."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _boot() -> str:
    """This boot of this machine."""
    return f"{os.uname().nodename} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
