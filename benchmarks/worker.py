"""The process in which a case runs, in either training interpreter: takes commands as JSON lines, answers each with a JSON line.

    {"command": "hello"}                                                               -> versions
    {"command": "make", "name": ..., "case": one of `cases.CASES`, "options": {...}}   -> facts about the case
    {"command": "run", "name": ..., "count": k}                                        -> {"seconds": [of each iteration]}
    {"command": "settle"}        returns when nothing is computed in the background any more (buffers are full)
    {"command": "memory"}                                                              -> {"peak_bytes": resident set's high-water mark}
    {"command": "drop", "name": ...}

It ends with its input. Standard output belongs to the answers; whatever a library prints goes to standard error.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import sys
import time

from mtc import quiet
from mtc.errors import UserError

_QUIET = 0.03
"""Share of a core below which a process counts as idle."""
_PATIENCE = 300.0


def main():
    """Serve until the input ends."""
    if sys.platform == "linux":  # die with the driver, even while stopped: prctl(PR_SET_PDEATHSIG, SIGKILL)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    quiet.import_tensorflow()
    from benchmarks import cases

    made = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _answer(request, made, cases)
        except UserError as error:
            answer = {"user_error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def settle(interval=0.25):
    """Return when this process has used next to no CPU for two intervals in turn. Errors: RuntimeError after five minutes."""
    calm, give_up = 0, time.monotonic() + _PATIENCE
    while calm < 2:
        if time.monotonic() > give_up:
            raise RuntimeError("the process is still busy after {:g} s".format(_PATIENCE))
        before = time.process_time()
        time.sleep(interval)
        calm = calm + 1 if time.process_time() - before < _QUIET * interval else 0


def peak_bytes():
    """Return the high-water mark of this process's resident set."""
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="ascii") as f:
            for line in f:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _answer(request, made, cases):
    command = request["command"]
    if command == "hello":
        return versions()
    if command == "make":
        made[request["name"]] = cases.CASES[request["case"]](request["options"])
        return made[request["name"]].facts
    if command == "run":
        return {"seconds": made[request["name"]].run(request["count"])}
    if command == "settle":
        settle()
        return {}
    if command == "memory":
        return {"peak_bytes": peak_bytes()}
    assert command == "drop", command
    made.pop(request["name"]).close()
    return {}


def versions():
    """Return the versions that the figures of this interpreter depend on."""
    import cv2
    import numpy
    import tensorflow.compat.v1 as tf

    return {"python": platform.python_version(), "tensorflow": tf.__version__, "numpy": numpy.__version__, "opencv": cv2.__version__}


if __name__ == "__main__":
    main()
