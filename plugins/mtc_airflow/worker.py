"""A Celery worker that stops cleanly: `python -m mtc_airflow.worker --queues npu --concurrency 1`; the words are those of `airflow celery worker`.

Celery ends gently by waiting for its tasks, and a training takes days; whoever stops the worker then kills it, in a container with all that runs
there. So on SIGTERM or SIGINT this asks, beside the worker, the steps that run on this machine for this Airflow to save and leave. Their tasks are
tried again, on the next worker of the queue, and resume. The exit code is the worker's. SIGQUIT, Celery's cold end, is passed on as it is.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
import sys
import time

from mtc_airflow import leftovers

POLL_SECONDS = 0.5


def main(words: list[str]) -> int:
    """Run the worker until it ends; return its exit code."""
    asked_to_end = []
    worker = subprocess.Popen([sys.executable, "-m", "airflow", "celery", "worker", *words])

    def end(number, frame):
        asked_to_end.append(number)
        with contextlib.suppress(ProcessLookupError):
            worker.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGQUIT, lambda number, frame: worker.send_signal(number))
    asked: set[int] = set()
    while worker.poll() is None:
        if asked_to_end:  # also those that a task was just about to start
            leftovers.ask_all(asked, functools.partial(print, flush=True))
        time.sleep(POLL_SECONDS)
    return worker.returncode if worker.returncode >= 0 else 128 - worker.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
