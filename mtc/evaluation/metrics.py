"""How far predicted joints and limbs are from the labels.

All labelled (valid) joints of all samples count alike, also those that a crop cuts off: a joint that cannot be seen is a miss, not an excuse.
Distances are relative to the longer side of the person's box, so that PCK says the same for a child far away and a grown-up near the camera. Source
of the measures: PCK of Yang & Ramanan (TPAMI 2013); EPE and AUC as in the reference's evaluation.
"""

import numpy as np

CURVE = np.linspace(0, 0.5, 51)
"""Thresholds of the PCK curve and its area."""

RESAMPLES = 1000


def distances(predicted, truth):
    """Return (N, J) float64 pixels between joints (N, J, 2); a prediction that is no number is infinitely far."""
    d = np.sqrt(np.square(predicted.astype(np.float64) - truth.astype(np.float64)).sum(axis=-1))
    return np.where(np.isfinite(d), d, np.inf)


def pck(predicted, truth, valid, yardstick, thresholds=(0.1, 0.2)):
    """Return the share of valid joints within `threshold` times the yardstick, (T,) float64; NaN where no joint is valid.

    predicted, truth: (N, J, 2) pixels; valid: (N, J) bool; yardstick: (N,) pixels, the longer side of each person's box.
    """
    return _share(_hits(predicted, truth, valid, yardstick, thresholds).sum(axis=(1, 2)), valid.sum())


def pck_by_joint(predicted, truth, valid, yardstick, thresholds=(0.1, 0.2)):
    """Return the same for each joint: (T, J) float64, NaN for a joint that is valid in no sample."""
    return _share(_hits(predicted, truth, valid, yardstick, thresholds).sum(axis=1), valid.sum(axis=0))


def auc(curve):
    """Return the area under a PCK curve at `CURVE`'s thresholds, 1 for a perfect answer."""
    curve = np.asarray(curve)
    return float((curve[1:] + curve[:-1]).mean() / 2)


def epe(predicted, truth, valid, yardstick):
    """Return the end-point error over the valid joints: "mean", "median" in pixels, "mean_relative" in yardsticks; NaN where no joint is valid."""
    d = distances(predicted, truth)
    if not valid.any():
        return {"mean": float("nan"), "median": float("nan"), "mean_relative": float("nan")}
    relative = (d / np.maximum(yardstick, 1e-6)[:, None])[valid]
    return {"mean": float(d[valid].mean()), "median": float(np.median(d[valid])), "mean_relative": float(relative.mean())}


def pck_gain(predicted, other, truth, valid, yardstick, threshold):
    """Return (gain, low, high): PCK of `predicted` minus PCK of `other` on the same samples, and its 95 % interval.

    The interval is the bootstrap's over samples (joints of one person are not independent), with a fixed seed: the same data gives the same numbers.
    """
    hits = [_hits(p, truth, valid, yardstick, (threshold,))[0].sum(axis=1) for p in (predicted, other)]
    difference, counts = (hits[0] - hits[1]).astype(np.float64), valid.sum(axis=1)
    drawn = np.random.RandomState(0).randint(0, len(counts), size=(RESAMPLES, len(counts)))
    gains = _share(difference[drawn].sum(axis=1), counts[drawn].sum(axis=1))
    if not np.isfinite(gains).any():
        return float("nan"), float("nan"), float("nan")
    low, high = np.nanpercentile(gains, [2.5, 97.5])
    return float(difference.sum() / counts.sum()), float(low), float(high)


def limb_directions(xyz, valid, limbs):
    """Return unit directions (N, L, 3) float64 and which of them are known (N, L) bool: both joints valid and apart. xyz: (N, J, 3)."""
    start, end = np.asarray(limbs).T
    vector = xyz[:, end].astype(np.float64) - xyz[:, start]
    length = np.linalg.norm(vector, axis=-1)
    known = valid[:, start] & valid[:, end] & (length > 0)
    return vector / np.where(length > 0, length, 1)[..., None], known


def angles(predicted, directions):
    """Return (..., ) float64 degrees between predicted vectors (..., 3) of any length and unit directions (..., 3).

    A vector of length 0, or one that is no number, says nothing about the direction: 90 degrees, what a random answer has on average.
    """
    predicted = np.where(np.isfinite(predicted), predicted, 0).astype(np.float64)
    length = np.linalg.norm(predicted, axis=-1)
    cosine = (predicted * directions).sum(axis=-1) / np.where(length > 0, length, 1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _hits(predicted, truth, valid, yardstick, thresholds):
    """Return (T, N, J) bool."""
    d = distances(predicted, truth)
    return valid & (d[None] <= np.asarray(thresholds, np.float64)[:, None, None] * np.asarray(yardstick, np.float64)[None, :, None])


def _share(hits, count):
    """Return hits / count, NaN where nothing was counted."""
    count = np.asarray(count)
    return np.where(count > 0, hits / np.where(count > 0, count, 1).astype(np.float64), np.nan)
