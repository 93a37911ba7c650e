"""All of a run that is not a variable of the graph and yet decides how it goes on: what state.json of a checkpoint holds.

Schedule, augmentation and order of samples follow from the step and the seed; everything else that a straight run would carry in memory is here.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Dict, List


@dataclass
class RunState:
    """The state of a run after a step."""

    step: int
    samples: int
    """Data cursor: samples used so far, the number of the next one."""
    skipped: int = 0
    """Steps skipped because their loss or gradient was no number."""
    overflows: int = 0
    """Steps left out because their gradient overflowed with the loss scale."""
    bad_samples: List[Any] = field(default_factory=list)
    """Samples that could not be read so far: `mtc.data.pipeline.BadSamples.state`."""
    evaluations: List[List[float]] = field(default_factory=list)
    """[step, score] of the held-out evaluations, oldest first."""
    without_gain: int = 0
    """Evaluations since the best one."""
    stopped_early: bool = False
    control: List[List[Any]] = field(default_factory=list)
    """What was asked for and lasts: `mtc.training.control.Control`."""
    seconds: float = 0.0
    """Time spent in training by all attempts until here, of steps that count."""

    def best(self, count):
        """Return the steps of the best evaluations, best first; of equals the earlier one."""
        ranked = sorted(self.evaluations, key=lambda pair: (-pair[1], pair[0]))
        return [int(step) for step, _ in ranked[:count]]

    def judge(self, score, evaluation):
        """Note the score of a held-out evaluation after this step. Returns whether it is the best so far.

        evaluation: the config's section; with its patience worn out, `stopped_early` becomes true.
        """
        best = max((pair[1] for pair in self.evaluations), default=float("-inf"))
        better = score > best + evaluation.min_gain if self.evaluations else True
        self.evaluations.append([self.step, score])
        self.without_gain = 0 if better else self.without_gain + 1
        self.stopped_early = bool(evaluation.patience) and self.without_gain >= evaluation.patience
        return better

    def to_json(self) -> Dict[str, Any]:
        """Return the JSON-able state, but for the step, which the checkpoint has already."""
        return {
            "samples": self.samples,
            "skipped": self.skipped,
            "overflows": self.overflows,
            "bad_samples": [list(entry) for entry in self.bad_samples],
            "evaluations": [list(pair) for pair in self.evaluations],
            "without_gain": self.without_gain,
            "stopped_early": self.stopped_early,
            "control": [list(entry) for entry in self.control],
            "seconds": round(self.seconds, 3),
        }


def from_json(found):
    """Return the `RunState` of a checkpoint's state.json."""
    known = {key: found[key] for key in RunState(0, 0).to_json() if key in found}
    return RunState(step=found["step"], **known)


class Clock:
    """Adds the time that passes to a `RunState.seconds`."""

    def __init__(self, state):
        self._state, self._since = state, time.monotonic()

    def tick(self):
        """Add what has passed since the last tick."""
        now = time.monotonic()
        self._state.seconds += now - self._since
        self._since = now
