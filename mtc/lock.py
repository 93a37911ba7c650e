"""One process at a time: an advisory lock that the kernel drops when its holder dies, however it dies (flock(2)).

The lock file names its holder (token, process, its start, host), so that whoever is refused can be told by whom, and whoever comes after a holder
that was killed knows whose traces it finds. Where asked for, `<file>.history` gets a line each time the lock changes hands.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
import uuid
from typing import Any, Dict, NamedTuple, Optional

from mtc.errors import TakenOver, UserError

log = logging.getLogger("mtc.lock")

LEAVING_PATIENCE = 600.0
"""Seconds that a holder gets which was told to stop and is still saving."""

_POLL = 0.2
_BUSY = (errno.EAGAIN, errno.EACCES)


class Holder(NamedTuple):
    """Who holds a lock, or held it last."""

    token: str
    """Drawn anew each time the lock is taken."""
    what: str
    pid: int
    host: str
    since: float
    """Unix seconds at which the lock was taken."""
    fence: int
    """How often the lock was taken until then: a later holder has a larger number."""
    state: str
    """held, leaving (was told to stop and is saving) or released."""

    def __str__(self):
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return "{} (process {} on {}, since {})".format(self.what, self.pid, self.host, since)


class Lock:
    """A lock that is held; made by `exclusive`."""

    def __init__(self, path, what, previous, keep_history):
        """previous: the `Holder` before, or None."""
        self.path, self._keep_history = path, keep_history
        self.previous = previous
        fence = previous.fence + 1 if previous else 1
        self.holder = Holder(uuid.uuid4().hex, what, os.getpid(), socket.gethostname(), round(time.time(), 3), fence, "held")

    @property
    def previous_is_gone(self):
        """Whether the holder before cannot write any more: it released the lock, or died on this machine, or there was none.

        A file system may not share locks between machines: of a holder elsewhere that did not release its lock nothing is known.
        """
        return self.previous is None or self.previous.state == "released" or self.previous.host == self.holder.host

    def leave(self):
        """Tell whoever waits that the holder was asked to stop and is on its way out. Safe at any time, never raises."""
        with contextlib.suppress(OSError):
            self._mark("leaving")

    def check(self):
        """Refuse to go on where the lock has another holder by now, as after a stop of this process or of its file server.

        Errors: TakenOver names the other one.
        """
        found = read(self.path)
        if found is not None and found.token != self.holder.token:
            raise TakenOver("{} was taken over by another {}; this one stops without writing".format(self.path, found))

    def _take(self):
        self._mark("held")
        self._note("taken")

    def _release(self):
        with contextlib.suppress(OSError, TakenOver):  # the disk may be full: the kernel drops the lock all the same
            self.check()
            self._mark("released")
            self._note("released")

    def _note(self, event):
        if self._keep_history:
            _append(self.path + ".history", dict(self.holder._asdict(), event=event, time=round(time.time(), 3)))

    def _mark(self, state):
        self.holder = self.holder._replace(state=state)
        line = json.dumps(dict(self.holder._asdict(), v=1), sort_keys=True) + "\n"
        fd = os.open(self.path, os.O_WRONLY)  # written in place: the lock belongs to this very file
        try:
            os.pwrite(fd, line.encode("utf-8").ljust(os.fstat(fd).st_size, b" "), 0)
            os.ftruncate(fd, len(line.encode("utf-8")))
        finally:
            os.close(fd)


@contextlib.contextmanager
def exclusive(path, what, patience=600.0, keep_history=False):
    """Hold the lock file `path` and yield its `Lock`.

    Another holder is waited for at most `patience` seconds, or `LEAVING_PATIENCE` seconds where it was told to stop and is still saving.
    Errors: UserError names the holder; OSError where the file cannot be opened.
    """
    with open(path, "a+b") as f:
        _wait(f, path, what, patience)
        lock = Lock(path, what, read(path), keep_history)
        lock._take()
        try:
            yield lock
        finally:
            lock._release()


def history(path):
    """Return the lines of a lock's history, oldest first: dictionaries with event ("taken", "released"), time and the fields of `Holder`."""
    try:
        with open(path + ".history", encoding="utf-8") as f:
            return [json.loads(line) for line in f if line.endswith("\n")]
    except FileNotFoundError:
        return []


def gone_tokens(lock):
    """Return the tokens of the holders of a lock that are known to have ended: what they have left behind, such as a lease, may be taken over."""
    if not lock.previous_is_gone:
        return set()
    gone = {line["token"] for line in history(lock.path) if line["host"] == socket.gethostname()}
    gone |= {lock.previous.token} if lock.previous else set()
    return gone - {lock.holder.token}


def _wait(f, path, what, patience):
    waited, told = 0.0, False
    while True:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _BUSY:
                raise
        holder = read(path)
        limit = max(patience, LEAVING_PATIENCE) if holder and holder.state == "leaving" else patience
        if waited >= limit:
            raise UserError(
                "{} is held by another {}: stop it (it saves first), or choose another --run-dir".format(path, holder or "{} (unknown)".format(what))
            )
        if not told:
            log.warning("waiting for another %s to leave", holder or what)
            told = True
        time.sleep(_POLL)
        waited += _POLL


def read(path) -> Optional[Holder]:
    """Return the holder that a lock file names, or None where it is empty or damaged."""
    try:
        with open(path, "rb") as f:
            found: Dict[str, Any] = json.loads(f.read().decode("utf-8"))
        return Holder(**{key: found[key] for key in Holder._fields})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _append(path, record):
    """Append a line in one write: a crash leaves it whole or absent, or torn at the very end of the file."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(fd, (json.dumps(record, sort_keys=True) + "\n").encode("utf-8"))
        finally:
            os.close(fd)
    except OSError as error:  # a full disk: the lock itself holds
        log.warning("%s cannot be written: %s", path, error.strerror or error)
