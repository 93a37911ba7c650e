"""Trainers as forked children of a process that has imported TensorFlow and built the graph, so that a cycle costs a second instead of ten.

The parent never opens a session: TensorFlow's threads start in the children, which are real processes, and die as such.
"""

import contextlib
import os
import signal
import sys
import time
import traceback

from mtc import quiet

quiet.import_tensorflow()

from benchmarks.crashing import points  # noqa: E402 - TensorFlow first, without its remarks
from mtc import config as configuration  # noqa: E402
from mtc.devices import peak  # noqa: E402
from mtc.skeleton import SKELETONS  # noqa: E402
from mtc.storage import backoff, lease  # noqa: E402
from mtc.training import graph, loop  # noqa: E402
from tasks import step, train  # noqa: E402
from test.graph_cache import cached  # noqa: E402

_PR_SET_PDEATHSIG = 1


class Child:
    """A trainer that runs."""

    def __init__(self, pid, output):
        self.pid, self.output, self.died, self._status = pid, output, None, None

    def wait(self, seconds):
        """Return the wait status once the child has ended, or None after `seconds`."""
        give_up = time.monotonic() + seconds
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.died, self._status = time.time(), status
                break
            if time.monotonic() >= give_up:
                return None
            time.sleep(0.002)
        return self._status

    def kill(self, number=signal.SIGKILL):
        """Send a signal; no error where the child has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def printed(self):
        """Return what it has printed, "" where it was killed before it could."""
        try:
            with open(self.output, encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""


def prepare(arguments):
    """Build the graph of the runs to come, once."""
    assert loop.graphs is graph  # imported here already, so that no child has to
    graph.build = cached(graph.build)
    peak.measure = lambda kind, session_config: None
    parsed = dict(overrides=[value for word, value in zip(arguments, arguments[1:]) if word == "--set"])
    config = configuration.load(arguments[arguments.index("--config") + 1], **parsed)
    graph.build(config, SKELETONS[config.model.kind])
    backoff.LONGEST, lease._SETTLE, step.RUN_LOCK_PATIENCE = 0.5, 0.05, 0.0


def start(arguments, output, environment, die_at=None, cwd=None):
    """Fork a trainer: `python -m tasks.train` with these arguments. die_at: (name of a point, count, file to touch) or None."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, output)
    code = 70
    try:
        _leave_the_parent(output, environment)
        if die_at:
            points.die_at(*die_at)
        code = train.main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _leave_the_parent(output, environment):
    """Make the child a process of its own: it writes to its own file, and does not outlive the parent."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ.update(environment)
