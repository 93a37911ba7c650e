"""Held-out accuracy while training goes on: a fixed set of crops, judged the same way each time, in one number."""

import numpy as np

from mtc.data import readers
from mtc.evaluation import baselines, decode, held_out, metrics


class Examiner:
    """Judges a network by its answers to held-out samples."""

    def __init__(self, config, skeleton):
        """Choose `evaluation.samples` held-out samples, evenly spaced. Errors: UserError where there are none, or a file cannot be read."""
        samples = baselines.evenly(readers.held_out(config), config.evaluation.samples)
        self._truth = held_out.read_truth(samples, config, skeleton)
        self._images = np.stack([held_out.crop_of(sample, config, skeleton).image for sample in samples])
        self._metric = config.evaluation.metric

    def __len__(self):
        return len(self._images)

    def score(self, answer, batch):
        """Return the score of a network, a float between 0 and 1, higher is better; 0 where it answers no numbers.

        answer: function from (batch, S, S, 3) uint8 crops to its [heat, pof] maps of the last stage.
        """
        uv = []
        for start in range(0, len(self._images), batch):
            images = self._images[start : start + batch]
            full = np.concatenate([images, np.repeat(images[-1:], batch - len(images), axis=0)])
            heat, _ = answer(full)
            found, height = decode.keypoints(heat[: len(images)])
            uv.append(np.where(np.isfinite(height)[..., None], found, np.nan))
        labels = np.concatenate(uv), self._truth.uv, self._truth.valid, self._truth.yardstick
        if self._metric == "auc":
            value = metrics.auc(metrics.pck(*labels, thresholds=metrics.CURVE))
        else:
            value = metrics.pck(*labels, thresholds=held_out.THRESHOLDS)[0]
        return float(value) if np.isfinite(value) else 0.0
