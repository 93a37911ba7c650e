"""How to measure (`Setting`), what was measured (`Record`), and the processes in which it happens."""

import contextlib
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from benchmarks import child, pairs
from benchmarks.child import ChildDied

LABELS = {"tf1": "TF 1.15", "tf2": "TF 2"}


class Setting(NamedTuple):
    """How to measure."""

    pythons: Dict[str, Any]
    """{"tf1": interpreter or None, "tf2": ...}."""
    size: int
    width: float
    batch: Optional[int]
    """In place of 1 and 4."""
    pairs: Optional[int]
    quick: bool
    root: Optional[str]
    """Of the data set; None where no part needs one."""
    overrides: List[str]
    """`section.key=value` for all cases."""
    tell: Callable[[str], None]
    peaks: Dict[Any, Any]
    """{(batch, "tf1" or "tf2", case): (GB, versions)} of processes that did nothing but steps of one case: filled by (c), used and filled by (e)."""

    def options(self, batch, overrides=(), preset="ascend_perf", **others):
        """Return the options of a case."""
        own = ["model.crop={}".format(self.size), "model.width={}".format(self.width), "train.batch_size={}".format(batch), "train.device=cpu"]
        return dict(
            others, preset=preset, overrides=own + (["data.root={}".format(self.root)] if self.root else []) + list(overrides) + self.overrides
        )

    def batches(self):
        """Return (the small batch size, the large one)."""
        return (self.batch, self.batch) if self.batch else (1, 4)

    def rounds(self, usual):
        """Return how many rounds to measure where `usual` are enough on a quiet machine."""
        return self.pairs or (max(2, usual // 2) if self.quick else usual)

    def turn(self, usual):
        """Return the seconds of a turn."""
        return usual / 5 if self.quick else usual

    def note_peak(self, batch, which, case, worker):
        """Keep the high-water mark of a process."""
        self.peaks[batch, which, case] = worker.ask("memory")["peak_bytes"] / 1e9, worker.versions


class Record:
    """What a part has measured."""

    def __init__(self):
        self.numbers, self.reasons, self.ratios, self.timings, self.facts, self.versions = {}, {}, [], [], {}, {}

    def timing(self, what, values, unit="s"):
        """Keep raw figures and return their summary."""
        found = dict(pairs.summary(values), what=what, unit=unit)
        self.timings.append(found)
        return found

    def ratio(self, what, slow, fast):
        """Keep the ratio of two contestants, round by round, and return its median."""
        found = dict(pairs.ratio(slow, fast), what=what)
        self.ratios.append(found)
        return found["median"]

    def give(self, name, value, reason=""):
        """Set a number, or why there is none."""
        self.numbers[name] = value
        if value is None:
            self.reasons[name] = reason


class Disagreement(RuntimeError):
    """What is to be compared does not compute the same."""


@contextlib.contextmanager
def started(setting, record, which):
    """Yield a `Child` with TensorFlow "tf1" or "tf2", whose versions are noted."""
    with child.start(setting.pythons[which]) as worker:
        record.versions[which] = worker.versions
        yield worker


@contextlib.contextmanager
def noting(setting, record, *names):
    """Turn the death of a child, and what cannot be compared, into the reason why `names` are missing."""
    try:
        yield
    except (ChildDied, Disagreement) as error:
        setting.tell("error: {}".format(error))
        for name in names:
            record.give(name, None, str(error))


def missing(which):
    """Return why there is no figure of a TensorFlow that no interpreter has."""
    return "there is no interpreter with {} (make setup)".format("TensorFlow 1.15 on Python 3.7" if which == "tf1" else "TensorFlow 2")
