"""`python -m tasks.control --run-dir DIR save|stop|steps|lr-factor|list`: steers a training that runs, between two of its steps.

`save` makes a checkpoint now; `stop` makes one and ends with exit code 3; `steps N` changes the last step; `lr-factor F` multiplies the schedule's
learning rate from the next step on; `list` shows what was asked so far. Needs no TensorFlow: Airflow's Training page calls it in its own
interpreter. Exit codes: 0 done, 1 refused or not answered in time, 2 a mistake in what was asked.
"""

import argparse
import fcntl
import os
import sys
import time

from mtc import lock
from mtc.errors import UserError
from mtc.training import control
from tasks.step import FAILED, RUN_LOCK, SUCCESS, USER_ERROR

_POLL = 0.1


def main(argv=None):
    """Return the exit code."""
    options = _parse(argv)
    try:
        if options.verb == "list":
            return _list(options.run_dir)
        return _ask(options)
    except UserError as error:
        print("error: {}".format(error), file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print("error: {}: {}".format(error.filename or options.run_dir, error.strerror or error), file=sys.stderr)
        return FAILED


def _parse(argv):
    parser = argparse.ArgumentParser(prog="python -m tasks.control", description="Steer a training that runs.")
    parser.add_argument("--run-dir", required=True, metavar="DIR", help="the run directory of the training")
    parser.add_argument("--by", default=os.environ.get("USER", ""), metavar="NAME", help="who asks; default: $USER")
    parser.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="for the answer; default: %(default)s")
    verbs = parser.add_subparsers(dest="verb", metavar="save|stop|steps|lr-factor|list")
    verbs.required = True
    verbs.add_parser("save", help="make a checkpoint now")
    verbs.add_parser("stop", help="make a checkpoint and end; the same training goes on from there when it is started again")
    verbs.add_parser("steps", help="end after another step").add_argument("value", type=int, metavar="N", help="number of the last step")
    factor = verbs.add_parser("lr-factor", help="multiply the schedule's learning rate")
    factor.add_argument("value", type=float, metavar="F", help="above 0, at most 1")
    verbs.add_parser("list", help="what was asked so far, and what became of it")
    return parser.parse_args(argv)


def _ask(options):
    holder = _trainer(options.run_dir)
    request = control.ask(options.run_dir, options.verb.replace("-", "_"), getattr(options, "value", None), options.by)
    give_up = time.monotonic() + options.wait
    while time.monotonic() < give_up:
        found = next((entry for entry in control.read(options.run_dir) if entry["id"] == request), {})
        if "outcome" in found:
            print(_line(found))
            return SUCCESS if found["outcome"] == control.DONE else FAILED
        time.sleep(_POLL)
    print("asked {}: it looks between two steps".format(holder))
    return SUCCESS if options.wait <= 0 else FAILED


def _trainer(run_dir):
    """Return the holder of the run's lock. Errors: UserError where nobody trains."""
    path = os.path.join(run_dir, RUN_LOCK)
    nobody = "nobody trains in {}: start python -m tasks.train there, with --set train.… for other values".format(run_dir)
    try:
        with open(path, "rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
        raise UserError(nobody)
    except FileNotFoundError:
        raise UserError(nobody) from None
    except BlockingIOError:
        return lock.read(path) or "the trainer"


def _list(run_dir):
    for entry in control.read(run_dir):
        print(_line(entry))
    return SUCCESS


def _line(entry):
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["time"]))
    value = "" if entry["value"] is None else " {}".format(entry["value"])
    answer = "{} after step {}".format(entry["outcome"], entry["step"]) if entry.get("outcome") else "not answered yet"
    reason = ": {}".format(entry["reason"]) if entry.get("reason") else ""
    return "{}  {}{} by {}: {}{}".format(when, entry["action"], value, entry["by"] or "somebody", answer, reason)


if __name__ == "__main__":
    sys.exit(main())
