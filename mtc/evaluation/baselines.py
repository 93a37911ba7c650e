"""What a network must beat to have learned anything: answers that look at no pixel.

The mean pose answers, for every crop, the mean position of each joint over the training samples' crops; since crops are centred and scaled on
the person, it is far better than chance. The mean direction does the same for the limbs in 3D.
"""

import numpy as np

from mtc.data import crop
from mtc.evaluation import metrics

MOST = 20000
"""A mean over more samples than this moves by less than a hundredth of a pixel; evenly spaced ones stand for all."""


def evenly(samples, most):
    """Return at most `most` of the samples, evenly spaced, in order: a data set's order is often not random."""
    if len(samples) <= most:
        return list(samples)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, most).round().astype(int)]


def mean_pose(samples, *, config, skeleton):
    """Return (J, 2) float32, pixels of a crop: the mean of each joint over the samples' crops without jitter. A joint valid in none: the middle."""
    total, count = np.zeros((len(skeleton.joints), 2)), np.zeros(len(skeleton.joints))
    for sample in evenly(samples, MOST):
        uv = crop.label_sample(sample, size=config.model.crop, config=config, skeleton=skeleton)[1].uv
        total[sample.valid] += uv[sample.valid]
        count[sample.valid] += 1
    middle = config.model.crop / 2.0
    return np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], middle).astype(np.float32)


def mean_directions(samples, *, skeleton):
    """Return (L, 3) float64: the mean of each limb's unit direction over the 3D samples, 0 where it is never known."""
    total = np.zeros((len(skeleton.limbs), 3))
    for sample in samples:
        if sample.xyz is not None:
            xyz = sample.xyz * np.array([-1, 1, 1]) if sample.mirror else sample.xyz
            directions, known = metrics.limb_directions(xyz[None], sample.valid[None], skeleton.limbs)
            total += directions[0] * known[0][:, None]
    return total / max(len(samples), 1)
