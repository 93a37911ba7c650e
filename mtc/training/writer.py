"""Writes checkpoints beside the training loop, from a copy of the variables on the host: one thread, one checkpoint at a time.

The loop hands over arrays that nobody changes any more and goes on; the next save waits for the last. What goes wrong in the thread is raised in the
loop, by the next call of anything here.
"""

import threading
import time

import numpy as np

from mtc.errors import RunFailed
from mtc.training import checkpoints
from mtc.training.bundle import BundleWriter


class CheckpointWriter:
    """Saves checkpoints of a run. Use as a context manager."""

    def __init__(self, run_dir, on_saved, guard=lambda: None, before=lambda: None):
        """on_saved(directory, step, seconds, stalled, copied) is called from the thread once a checkpoint is whole, with the seconds of writing, of
        the loop's waiting in `save`, and of the copy, which is part of that. guard() is called before each save and may raise: the lock of the run
        directory, which somebody else may hold by now. before() is called from the thread before anything is written.
        """
        self._run_dir, self._on_saved, self._guard, self._before = run_dir, on_saved, guard, before
        self._bundle = BundleWriter()
        self._thread, self._error = None, None
        self.saved = None
        """Directory of the last checkpoint that was written, or None."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._thread is not None:
            self._thread.join()
        self._bundle.close()

    def save(self, step, copy, facts):
        """Start to write the checkpoint of a step; returns once the save before has ended and the copy is made.

        copy() returns {name: array} of all variables, arrays that nobody changes any more; facts() the JSON-able state. Errors: what went wrong in
        the save before, or here.
        """
        started = time.monotonic()
        self.wait()
        self._guard()
        state, copying = facts(), time.monotonic()
        values = copy()
        ended = time.monotonic()
        spent = ended - started, ended - copying
        self._thread = threading.Thread(target=self._save, args=(step, values, state, spent), name="checkpoint", daemon=True)
        self._thread.start()

    def check(self):
        """Raise what went wrong in the thread, once."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self):
        """Wait until nothing is being written. Errors: those of `check`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _save(self, step, values, state, spent):
        started = time.monotonic()
        try:
            broken = sorted(name for name, value in values.items() if not np.isfinite(value).all())
            if broken:
                raise RunFailed("the weights are not finite after step {} ({}): nothing is saved; lower train.lr".format(step, broken[0]))
            self._before()
            directory = checkpoints.save(self._run_dir, step, lambda prefix: self._bundle.write(prefix, values), state)
            self.saved = directory
            self._on_saved(directory, step, time.monotonic() - started, *spent)
        except OSError as error:
            path = error.filename or checkpoints.folder(self._run_dir)
            self._error = RunFailed("the checkpoint of step {} cannot be written: {}: {}".format(step, path, error.strerror or error))
        except BaseException as error:  # raised in the loop
            self._error = error
