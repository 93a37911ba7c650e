"""Curves thinned for a screen: so many buckets of steps, each with its mean, lowest and highest value, so that no spike is lost."""

from __future__ import annotations

import bisect
import math
from typing import Any

from mtc_airflow.training_page.history import History

CURVES = ("loss", "loss_2d", "loss_pof", "baseline_2d", "baseline_pof", "lr", "grad_norm", "seconds", "waited")
MOST_POINTS = 2000


def thin(history: History, points: int, first: int | None = None, last: int | None = None) -> dict[str, Any]:
    """The curves of the steps from `first` to `last` in at most `points` buckets.

    {"steps": [last step of each bucket], "count": steps in all, "<curve>": {"mean": […], "low": […], "high": […]}}; null: no number.
    """
    with history.lock:
        start = bisect.bisect_left(history.steps, first) if first is not None else 0
        stop = bisect.bisect_right(history.steps, last) if last is not None else len(history.steps)
        count = max(0, stop - start)
        buckets = min(max(points, 1), MOST_POINTS, count)
        edges = [start + count * i // buckets for i in range(buckets + 1)] if buckets else [start]
        answer: dict[str, Any] = {"steps": [history.steps[edge - 1] for edge in edges[1:]], "count": count}
        for name in CURVES:
            answer[name] = _bucketed(history.columns[name], edges)
        return answer


def total(values) -> float:
    """The sum of the numbers among the values of a curve."""
    found = sum(values)
    return found if math.isfinite(found) else sum(value for value in values if math.isfinite(value))


def bucket_means(values, points: int) -> list[float | None]:
    """A curve in at most so many means, for a sparkline."""
    buckets = min(points, len(values))
    return _bucketed(values, [len(values) * i // buckets for i in range(buckets + 1)])["mean"] if buckets else []


def _bucketed(values, edges) -> dict[str, list[float | None]]:
    mean, low, high = [], [], []
    for begin, end in zip(edges, edges[1:], strict=False):
        part = values[begin:end]
        total = math.fsum(part) if len(part) < 3 else sum(part)
        if not math.isfinite(total):
            part = [value for value in part if math.isfinite(value)]
            total = sum(part)
        mean.append(total / len(part) if part else None)
        low.append(min(part) if part else None)
        high.append(max(part) if part else None)
    return {"mean": mean, "low": low, "high": high}
