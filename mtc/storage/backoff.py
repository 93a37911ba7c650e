"""Pauses between tries: growing, bounded, and jittered, so that many clients of a server that comes back do not come back at once.

Source: "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), the form that keeps at least half of the pause.
"""

import logging
import random
import time

from mtc.storage import TransientError

log = logging.getLogger("mtc.storage")

LONGEST = 60.0


def pause(attempt, first=1.0):
    """Return the seconds to wait after try number `attempt` (1, 2, …) failed."""
    return min(LONGEST, first * 2.0 ** min(attempt - 1, 30)) * random.uniform(0.5, 1)


def patiently(action, what, patience, first=1.0):
    """Return what `action()` returns; try it again after a TransientError until `patience` seconds have passed, then raise the last one."""
    give_up, attempt = time.monotonic() + patience, 0
    while True:
        try:
            return action()
        except TransientError as error:
            attempt += 1
            wait = pause(attempt, first)
            if time.monotonic() + wait > give_up:
                raise
            log.warning("%s: %s; next try in %.1f s", what, error, wait)
            time.sleep(wait)
