"""Brings the data set and the pretrained snapshot to this machine: verified, whole or not at all, safely extracted.

`manifest` says which archives there are and what they must be, `sources` opens a URL or path, `download` brings and checks one file, `extract`
unpacks one archive, `dataset` does all that COCO needs, `subset` the same image by image, `pretrained` the snapshot. Here is what they share: the
report of progress, and the lock that keeps two fetches out of one folder.
"""

import contextlib
import logging
import math
import os
import sys
import time

from tqdm import tqdm

from mtc import lock
from mtc.errors import UserError

log = logging.getLogger("mtc.fetch")

SECONDS_BETWEEN_LINES = 10.0


class NoRoom(UserError):
    """The disk is too small: neither another source nor another try helps."""


@contextlib.contextmanager
def progress(label, total, done=0, enabled=True):
    """Yield a function to call with each number of bytes done: a bar on a terminal, otherwise a log line every ten seconds.

    `total` bytes (None: unknown), of which `done` were there before.
    """
    if not enabled:
        yield lambda count: None
    elif sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=label, unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True) as bar:
            yield bar.update
    else:
        yield _lines(label, total, done)


def _lines(label, total, done):
    state = {"done": done, "since": 0, "at": time.monotonic()}

    def update(count):
        state["done"] += count
        state["since"] += count
        seconds = time.monotonic() - state["at"]
        if seconds >= SECONDS_BETWEEN_LINES:
            rate = state["since"] / seconds if seconds else 0.0
            share = " ({:.0f} %)".format(100.0 * state["done"] / total) if total else ""
            left = ", {} left".format(_time_text((total - state["done"]) / rate)) if total and rate else ""
            log.info("%s: %s%s, %s/s%s", label, size_text(state["done"]), share, size_text(rate), left)
            state.update(since=0, at=time.monotonic())

    return update


@contextlib.contextmanager
def locked(folder):
    """Make a folder and keep other fetches out of it; they wait. The lock ends with the process, however it ends."""
    path = os.path.join(folder, ".fetch.lock")
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(folder, exist_ok=True)
            stack.enter_context(lock.exclusive(path, "fetch into {}".format(folder), patience=math.inf))
        except OSError as error:
            raise UserError("{} cannot be written: {}; choose another folder or make it writable".format(folder, error.strerror or error)) from None
        yield


def _time_text(seconds):
    """Return a duration as hours:minutes:seconds."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return "{}:{:02d}:{:02d}".format(minutes // 60, minutes % 60, seconds)


def size_text(size):
    """Return bytes as people read them: "18.0 GB" (binary multiples)."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            return "{:.0f} {}".format(size, unit) if unit == "B" else "{:.1f} {}".format(size, unit)
        size /= 1024.0
    raise AssertionError(size)
