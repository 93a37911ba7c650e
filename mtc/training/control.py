"""What a person asks of a training that runs: save now, stop, end at another step, a lower learning rate.

`control.jsonl` in the run directory gets one JSON object a line. Requests, {"v": 1, "id", "time", "by", "action", "value"}, come from whoever may
write there: the Training page, `python -m tasks.control`. The trainer looks between two steps and appends its answer, {"v": 1, "answers": id, "step",
"outcome", "reason", "time"}, flushed to the disk before it acts. What lasts, a learning rate or a last step, holds for the steps after that of the
answer, also when the run goes on from an earlier checkpoint: so the run that was killed is the run that was not.
"""

import errno
import json
import logging
import math
import os
import time
import uuid
from typing import Any, Dict, List, NamedTuple

from mtc.errors import UserError

log = logging.getLogger("mtc.training")

NAME = "control.jsonl"
SAVE, STOP, STEPS, LR_FACTOR = "save", "stop", "steps", "lr_factor"
DONE, REFUSED, EXPIRED = "done", "refused", "expired"
LINE_BYTES = 4096
"""Longest line that is written: one write(2) of so much is not mixed with another's."""


class Request(NamedTuple):
    """What somebody asks for."""

    id: str
    by: str
    action: str
    value: Any
    time: float


def ask(run_dir, action, value=None, by=""):
    """Append a request to the run's control file and return its id. Errors: UserError where the request makes no sense; OSError."""
    why = _nonsense(action, value)
    if why:
        raise UserError(why)
    request = Request(uuid.uuid4().hex, str(by)[:200], action, value, round(time.time(), 3))
    _append(os.path.join(run_dir, NAME), dict(request._asdict(), v=1))
    return request.id


class Control:
    """A trainer's side of the control file."""

    def __init__(self, run_dir, lasting, last):
        """lasting: what a checkpoint's state remembers, [[id, step, action, value, instead of]], extended here; last: `train.steps` of the
        configuration. What was asked for instead of another `train.steps` counts no more.
        """
        self._path, self._lasting, self._last = os.path.join(run_dir, NAME), lasting, last
        self._offset, self._failed = 0, False
        self._since = time.time()
        self._waiting: List[Request] = []
        known, answered = {entry[0] for entry in lasting}, {}
        for line in self._new_lines():
            request = _request(line)
            if request:
                self._waiting.append(request)
            elif isinstance(line.get("answers"), str):
                answered[line["answers"]] = line
        for request in self._waiting:
            answer = answered.get(request.id, {})
            if answer.get("outcome") == DONE and request.action in (STEPS, LR_FACTOR) and request.id not in known:
                lasting.append([request.id, answer["step"], request.action, request.value, answer.get("instead_of")])
        lasting.sort(key=lambda entry: entry[1])
        self._waiting = [request for request in self._waiting if request.id not in answered and request.id not in known]

    def lr_factor(self, step):
        """What the schedule's learning rate of a step is multiplied by."""
        return next((value for _, since, action, value, _ in reversed(self._lasting) if action == LR_FACTOR and since < step), 1.0)

    @property
    def last(self):
        """Number of the run's last step as it is now."""
        return next((value for _, _, action, value, of in reversed(self._lasting) if action == STEPS and of == self._last), self._last)

    def take(self, step):
        """Answer the requests that have come in, after a step. Returns the list of `Request`s that are granted: the caller saves and stops."""
        requests, self._waiting = self._waiting, []
        if self._has_grown():
            requests += [request for request in map(_request, self._new_lines()) if request]
        granted = []
        for request in requests:
            outcome, reason = self._judge(request, step)
            answer = {"v": 1, "answers": request.id, "step": step, "outcome": outcome, "reason": reason, "time": round(time.time(), 3)}
            answer["instead_of"] = self._last if request.action == STEPS else None
            try:
                _append(self._path, answer)
            except OSError as error:  # it would be forgotten by a crash: rather not
                log.warning("%s of %s is not done: %s cannot be written: %s", request.action, request.by, self._path, error.strerror or error)
                continue
            log.info("%s asks for %s%s: %s", request.by or "somebody", request.action, _shown(request.value), reason or outcome)
            if outcome == DONE:
                granted.append(request)
                if request.action in (STEPS, LR_FACTOR):
                    self._lasting.append([request.id, step, request.action, request.value, answer["instead_of"]])
        return granted

    def _judge(self, request, step):
        """Return (outcome, reason)."""
        why = _nonsense(request.action, request.value)
        if why:
            return REFUSED, why
        if request.action in (SAVE, STOP) and request.time < self._since:
            return EXPIRED, "it was meant for a trainer that had ended"
        if request.action == STEPS and request.value < step:
            return REFUSED, "step {} is made already".format(step)
        return DONE, ""

    def _has_grown(self):
        try:
            return os.stat(self._path).st_size > self._offset
        except OSError:
            return False

    def _new_lines(self):
        """Return the JSON objects that were appended since the last call; a line that is still being written waits."""
        try:
            with open(self._path, "rb") as f:
                f.seek(self._offset)
                data = f.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            if not self._failed:
                self._failed = True
                log.warning("%s cannot be read: %s", self._path, error.strerror or error)
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [line for line in map(_object, whole.splitlines()) if line]


def read(run_dir) -> List[Dict[str, Any]]:
    """Return all requests of a run, oldest first: {"id", "time", "by", "action", "value"} and, once answered, "step", "outcome" and "reason"."""
    try:
        with open(os.path.join(run_dir, NAME), "rb") as f:
            lines = [line for line in map(_object, f.read().splitlines()) if line]
    except FileNotFoundError:
        return []
    answers = {line["answers"]: line for line in lines if isinstance(line.get("answers"), str)}
    found = []
    for request in filter(None, map(_request, lines)):
        answer = answers.get(request.id)
        found.append(dict(request._asdict(), **({key: answer.get(key) for key in ("step", "outcome", "reason")} if answer else {})))
    return found


def _nonsense(action, value):
    """Return what is wrong with a request, or ""."""
    if action in (SAVE, STOP):
        return "" if value is None else "{} takes no value, not {!r}".format(action, value)
    if action == STEPS:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return "" if whole and 1 <= value <= 10**9 else "steps: expected the number of the last step, not {!r}".format(value)
    if action == LR_FACTOR:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return "" if number and 0 < value <= 1 else "lr_factor: expected a number above 0, at most 1, not {!r}".format(value)
    return "unknown action {!r}; known: {}".format(action, ", ".join((SAVE, STOP, STEPS, LR_FACTOR)))


def _request(line):
    if not isinstance(line.get("id"), str) or "action" not in line:
        return None
    moment = line.get("time")
    moment = moment if isinstance(moment, (int, float)) else 0.0
    return Request(line["id"], str(line.get("by", ""))[:200], line["action"], line.get("value"), moment)


def _object(line):
    try:
        value = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _append(path, record):
    data = (json.dumps(record, sort_keys=True) + "\n").encode("utf-8")
    assert len(data) <= LINE_BYTES
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        if os.write(fd, data) < len(data):
            os.write(fd, b"\n")  # a torn line hides no other
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.fsync(fd)
    finally:
        os.close(fd)


def _shown(value):
    return "" if value is None else "={}".format(value)
