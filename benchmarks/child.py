"""The driver's end of a `benchmarks.worker` process, which sleeps (SIGSTOP) whenever it is not asked for anything.

Stopped, a process cannot fill its input buffers at the expense of the other contestant, nor get ready for free what its own next turn is timed on.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile

from mtc.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_TAIL = 15
"""Lines of a dead child's output that are shown."""


class ChildDied(RuntimeError):
    """A worker process ended before it answered; the text says how, and shows what it printed last."""


@contextlib.contextmanager
def start(python):
    """Yield a `Child` of an interpreter; at the end it and all that it has started are killed. Errors: as of `Child.ask`."""
    environ = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", PYTHONPATH=ROOT, PYTHONUNBUFFERED="1")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with tempfile.TemporaryFile() as stderr:
        # A session of its own: signals reach the processes that it starts itself too, and Ctrl-C is the driver's business.
        process = subprocess.Popen([python, "-m", "benchmarks.worker"], cwd=ROOT, env=environ, stderr=stderr, start_new_session=True, **pipes)
        child = Child(python, process, stderr)
        try:
            child.versions = child.ask("hello")
            yield child
        finally:
            child.kill()


class Child:
    """A worker process that `start` has started."""

    def __init__(self, python, process, stderr):
        self.python, self.process, self._stderr = python, process, stderr
        self.versions = {}
        self._busy = ""

    def ask(self, command, **request):
        """Wake the process, send a command, return its answer and put it to sleep again.

        Errors: UserError that the worker reports; ChildDied where it ends without an answer.
        """
        self._busy = " ".join([command] + [str(request[key]) for key in ("name", "case") if key in request])
        self._signal(signal.SIGCONT)
        try:
            self.process.stdin.write((json.dumps(dict(request, command=command)) + "\n").encode("utf-8"))
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise ChildDied(self._obituary())
        self._signal(signal.SIGSTOP)
        answer = json.loads(line.decode("utf-8"))
        if "user_error" in answer:
            raise UserError(answer["user_error"])
        return answer

    def kill(self):
        """End the process and all that it has started."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # a command that it did not live to read
            self.process.stdin.close()
        self.process.stdout.close()

    def _signal(self, number):
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def _obituary(self):
        code = self.process.wait()
        how = "exit code {}".format(code) if code >= 0 else "signal {} ({})".format(-code, signal.Signals(-code).name)
        hint = ": out of memory?" if code == -signal.SIGKILL else ""
        self._stderr.seek(0)
        printed = self._stderr.read().decode("utf-8", "replace").strip().splitlines()[-_TAIL:]
        text = "the benchmark process of {} ended with {} at '{}'{}; it printed last:\n{}"
        return text.format(self.python, how, self._busy, hint, "\n".join("    " + line for line in printed) or "    nothing")
