"""One process at a time: an advisory lock that the kernel drops when its holder dies, however it dies (flock(2))."""

import contextlib
import errno
import fcntl
import logging
import os
import time

from mtc.errors import UserError

log = logging.getLogger("mtc.lock")


@contextlib.contextmanager
def exclusive(path, what, patience=600.0):
    """Hold the lock file `path`. `what` holds it otherwise, and may still be saving after a signal: wait for it, at most `patience` seconds.

    Errors: UserError with the other's process id; OSError where the file cannot be opened.
    """
    with open(path, "a+", encoding="ascii") as f:
        waiting = 0.0
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            f.seek(0)
            holder = f.read().strip() or "unknown"
            if waiting >= patience:
                raise UserError("{} is held by another {} (process {}); stop it or choose another --run-dir".format(path, what, holder))
            if not waiting:
                log.warning("waiting for another %s (process %s) to leave", what, holder)
            time.sleep(0.2)
            waiting += 0.2
        f.seek(0)
        f.truncate()
        f.write(str(os.getpid()))
        f.flush()
        yield
