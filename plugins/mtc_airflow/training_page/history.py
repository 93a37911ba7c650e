"""A run's metrics.jsonl in memory, read on as it grows: 400,000 steps cost a second once, and what came since costs what it is long.

The same rules as `mtc.report.history`: a start at step N takes back what was recorded after N, a step that comes again replaces the earlier one, a
torn last line waits for its rest. (The report is made in the training interpreter, which Airflow does not have.)
"""

from __future__ import annotations

import bisect
import contextlib
import math
import os
import threading
from array import array
from collections import OrderedDict
from pathlib import Path
from typing import Any

import msgspec

COLUMNS = ("time", "loss", "loss_2d", "loss_pof", "baseline_2d", "baseline_pof", "lr", "grad_norm", "seconds", "waited")
"""Numbers of each step that are kept; NaN where a line has none."""

BLOCK = 1 << 22
MOST_RUNS = 12
"""Runs that stay in memory, the ones that were looked at last: 35 MB each at 400,000 steps."""


class _Line(msgspec.Struct):
    kind: str = ""
    step: int = 0
    time: float | None = None
    loss: float | None = None
    loss_2d: float | None = None
    loss_pof: float | None = None
    baseline_2d: float | None = None
    baseline_pof: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    seconds: float | None = None
    waited: float | None = None


class History:
    """What a metrics.jsonl says up to now. Call `refresh` first; hold `lock` while reading."""

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.RLock()
        self._decode = msgspec.json.Decoder(_Line).decode
        self._forget()

    def refresh(self) -> History:
        """Read what was appended since the last call; all of it where the file was replaced."""
        with self.lock, contextlib.suppress(FileNotFoundError), open(self.path, "rb") as f:
            found = os.fstat(f.fileno())
            if found.st_ino != self._inode or found.st_size < self._offset:
                self._forget()
                self._inode = found.st_ino
            f.seek(self._offset)
            while block := f.read(BLOCK):
                end = block.rfind(b"\n") + 1
                if not end:
                    if len(block) < BLOCK:
                        break  # a line that is still being written
                    end = len(block)  # no line is so long: damaged
                for line in block[:end].splitlines():
                    self._take(line)
                self._offset += end
                f.seek(self._offset)
        return self

    def __len__(self) -> int:
        return len(self.steps)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind that count, in their order."""
        return [event for event in self.events if event["kind"] == kind]

    def last(self, column: str) -> float | None:
        """The newest number of a column, or None."""
        values = self.columns[column]
        return values[-1] if values and math.isfinite(values[-1]) else None

    def _forget(self) -> None:
        self._inode, self._offset = 0, 0
        self.steps = array("q")
        self.columns = {name: array("d") for name in COLUMNS}
        self.events: list[dict[str, Any]] = []
        self.damaged = 0

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            found = self._decode(line)
            if found.kind == "train":
                self._step(found)
            else:
                self._event(msgspec.json.decode(line))
        except (msgspec.MsgspecError, OverflowError, TypeError, ValueError):
            self.damaged += 1

    def _step(self, found: _Line) -> None:
        if self.steps and self.steps[-1] >= found.step:
            self._take_back(found.step - 1)
        self.steps.append(found.step)
        for name, values in self.columns.items():
            value = getattr(found, name)
            values.append(math.nan if value is None else value)

    def _event(self, event: dict[str, Any]) -> None:
        if event.get("kind") == "start":
            step = int(event.get("step") or 0)
            self._take_back(step)
            self.events = [e for e in self.events if e["kind"] in ("start", "end", "control") or int(e.get("step") or 0) <= step]
        if event.get("kind"):
            self.events.append(event)

    def _take_back(self, step: int) -> None:
        """Forget the steps after `step`."""
        keep = bisect.bisect_right(self.steps, step)
        del self.steps[keep:]
        for values in self.columns.values():
            del values[keep:]


class Histories:
    """The histories of the runs that were looked at last."""

    def __init__(self):
        self._lock, self._known = threading.Lock(), OrderedDict()

    def of(self, run_dir: Path) -> History:
        """The history of a run directory, up to date."""
        path = run_dir / "metrics.jsonl"
        with self._lock:
            found = self._known.pop(path, None) or History(path)
            self._known[path] = found
            while len(self._known) > MOST_RUNS:
                self._known.popitem(last=False)
        return found.refresh()
