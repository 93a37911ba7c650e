"""Storage in a folder of a mounted file system: objects are files, written under a temporary name and renamed (`mtc.files`).

An object's version is the SHA-256 of its content. Whoever changes an object holds the lock of the whole store, flock(2) on a hidden file in its root,
so between a conditional write's look at the version and its rename nobody else writes, in no process. One that is stopped (SIGSTOP) in that moment
keeps the lock until it goes on or is killed: the others wait, then say which process it is. A file system without locks still takes unconditional
writes.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import shutil
import socket
import time
from contextlib import ExitStack

from mtc import files
from mtc.errors import UserError
from mtc.storage import Conflict, Storage, TransientError, abandonable, check_key, is_temporary

_MENDED_BY_PEOPLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_LOCK = ".mtc-store-lock.tmp"
"""Named like a temporary file, so that it is no object. It names the process that holds the lock, or held it last."""

LOCK_PATIENCE = 30.0
"""Seconds that a write waits for the lock; it is held for as long as a small file takes to be flushed."""


class LocalStorage(Storage):
    """Objects as files below `root`, which is made when the first object is written."""

    def __init__(self, root):
        self.root = os.path.abspath(os.path.expanduser(root))

    def put(self, path, key, on_bytes=None):
        target = self._path(key)
        with open(path, "rb") as source, abandonable(on_bytes) as count, self._errors(key), ExitStack() as renamed, files.atomic_file(target) as f:
            last = 0
            for block in iter(lambda: source.read(files.BLOCK), b""):
                count(last)
                f.write(block)
                last = len(block)
            f.flush()
            os.fsync(f.fileno())  # takes its time, so not while others wait for the lock
            count(last)  # the last word on whether to go on
            renamed.enter_context(self._locked())

    def get(self, key, path):
        with self._errors(key), open(self._path(key), "rb") as source, files.atomic_file(path) as f:
            shutil.copyfileobj(source, f, files.BLOCK)

    def read_versioned(self, key):
        path = self._path(key)
        with self._errors(key):
            try:
                with open(path, "rb") as f:
                    data = f.read()
            except FileNotFoundError:
                return None, ""
        return data, _version(data)

    def write(self, key, data, expected=None):
        path = self._path(key)
        with self._errors(key):
            os.makedirs(self.root, exist_ok=True)
            with self._locked(needed=expected is not None):
                if expected is not None and self.read_versioned(key)[1] != expected:
                    raise Conflict(self.url(key))
                files.write_bytes(path, data)
        return _version(data)

    def honours_conditions(self):
        return True

    def stream(self, key, start=0):
        with self._errors(key):
            f = open(self._path(key), "rb")  # noqa: SIM115 - closed by the generator
            total = os.fstat(f.fileno()).st_size
            f.seek(start)
        return self._blocks(f, key), total

    def sizes(self, prefix=""):
        top = self._path(prefix) if prefix else self.root
        found = {}
        with self._errors(prefix):
            for folder, _, names in os.walk(top, onerror=_unless_missing):
                for name in names:
                    path = os.path.join(folder, name)
                    if not is_temporary(name):
                        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile: not there
                            found[os.path.relpath(path, self.root).replace(os.sep, "/")] = os.stat(path).st_size
        return found

    def delete(self, key):
        path = self._path(key)
        with self._errors(key), contextlib.suppress(FileNotFoundError), self._locked():
            os.unlink(path)
            files.fsync_dir(os.path.dirname(path))

    def abort_uploads(self, prefix=""):
        top, count = self._path(prefix) if prefix else self.root, 0
        with self._errors(prefix):
            for folder, _, names in os.walk(top, onerror=_unless_missing):
                for name in names:
                    if is_temporary(name) and name != _LOCK:
                        with contextlib.suppress(FileNotFoundError):  # finished or removed meanwhile
                            os.unlink(os.path.join(folder, name))
                            count += 1
        return count

    def url(self, key):
        return pathlib.Path(self.root, *check_key(key).split("/")).as_uri() if key else pathlib.Path(self.root).as_uri()

    def _path(self, key):
        return os.path.join(self.root, *check_key(key).split("/"))

    def _blocks(self, f, key):
        with f, self._errors(key):
            yield from iter(lambda: f.read(files.BLOCK), b"")

    @contextlib.contextmanager
    def _locked(self, needed=False):
        """Let nobody else change an object meanwhile; needed: fail where the file system has no locks."""
        path = os.path.join(self.root, _LOCK)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                _lock(fd, path)
            except OSError as error:
                if needed or error.errno not in _NO_LOCKS:
                    raise
            yield
        finally:
            # Closing would not do: another thread may have forked a process meanwhile, which has the descriptor too.
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    @contextlib.contextmanager
    def _errors(self, key):
        """Sort the system's errors: what a person must mend, and what may pass."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = "{}: {}".format(error.filename or self.url(key), error.strerror or error)
            if error.errno in _MENDED_BY_PEOPLE:
                raise UserError("folder {} cannot be used ({}): make it accessible or choose another one".format(self.root, reason)) from None
            raise TransientError(reason) from error


def _lock(fd, path):
    """Take the lock and note who has it. Errors: TransientError names who holds it for longer than `LOCK_PATIENCE`."""
    give_up, pause = time.monotonic() + LOCK_PATIENCE, 0.001
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > give_up:
                holder = os.pread(fd, 300, 0).decode("utf-8", "replace") or "another process"
                reason = "{} has held the lock {} for {:.0f} s: is it stopped?".format(holder, path, LOCK_PATIENCE)
                raise TransientError(reason) from None
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    with contextlib.suppress(OSError):  # a full disk: who holds it is for people only
        name = "process {} on {}".format(os.getpid(), socket.gethostname()).encode("utf-8")
        os.ftruncate(fd, os.pwrite(fd, name, 0))


def _version(data):
    return hashlib.sha256(data).hexdigest()


def _unless_missing(error):
    """os.walk hides errors; a folder that is not there is an empty one, all other errors count."""
    if not isinstance(error, FileNotFoundError):
        raise error
