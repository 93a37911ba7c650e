"""Work that is divided over processes: results in order, no more of them ahead than there is memory for, and no process left behind."""

import collections
import ctypes
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from mtc.errors import RunFailed

AHEAD = 3
"""Jobs a worker that are begun before the first result is taken."""

_SIGNAL_AT_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG, prctl(2)

_work = None


def ordered(work, jobs, workers):
    """Yield work(job) for each job in order. work: any function; jobs: picklable; workers: processes, below 2 for this one alone.

    Errors: what `work` raises; RunFailed where a process was killed.
    """
    if workers < 2:
        yield from map(work, jobs)
        return
    # Forked, so that what `work` refers to is shared and not copied.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (work, os.getpid()))
    waiting = collections.deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(_do, job))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        text = "a process of the {} that share the work was killed: is the memory enough? data.workers=1 takes the least"
        raise RunFailed(text.format(workers)) from None
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown()


def _begin(work, parent):
    global _work
    _work = work
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends the others
    ctypes.CDLL(None).prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _do(job):
    return _work(job)
