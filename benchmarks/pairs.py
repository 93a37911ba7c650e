"""Paired measurements: contestants run in turn, A B A B ..., so that whatever else the machine does disturbs all alike.

What is compared is the ratio within each round; its median and quartiles are reported. The first runs of each contestant are dropped.
"""

from typing import Any, NamedTuple

import numpy as np


class Contestant(NamedTuple):
    """A case in a child process."""

    child: Any
    """`benchmarks.child.Child`."""
    name: str
    """What the case is called there."""
    warm_up: int = 1
    """Iterations that are dropped before."""
    least: int = 1
    """Iterations of a turn, at least."""


def rounds(contestants, count, *, turn_seconds, settle=False, tell=lambda text: None):
    """Return {label: [seconds of one iteration, the mean of its turn] a round} after `count` rounds.

    contestants: {label: Contestant}; turn_seconds: how long a turn should take, in whole iterations; settle: wait after the warm-up until buffers are
    full, so that a step is not charged with samples that later steps use.
    """
    iterations = {}
    for label, (child, name, warm_up, least) in contestants.items():
        tell("{}: warming up".format(label))
        child.ask("run", name=name, count=warm_up)
        if settle:
            child.ask("settle")
        seconds = np.mean(child.ask("run", name=name, count=least)["seconds"])
        iterations[label] = max(least, min(1000, int(round(turn_seconds / max(seconds, 1e-6)))))
    measured = {label: [] for label in contestants}
    for number in range(count):
        for label, (child, name, _, _) in contestants.items():
            measured[label].append(float(np.mean(child.ask("run", name=name, count=iterations[label])["seconds"])))
        tell("round {}/{}: {}".format(number + 1, count, ", ".join("{} {:.4g} s".format(label, turns[-1]) for label, turns in measured.items())))
    return measured


def summary(values):
    """Return {"median", "quartiles": [lower, upper], "values"} of numbers."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "quartiles": [float(low), float(high)], "values": [float(v) for v in values]}


def ratio(slow, fast):
    """Return the `summary` of how many times longer `slow` took than `fast`, round by round."""
    return summary([a / b for a, b in zip(slow, fast)])
