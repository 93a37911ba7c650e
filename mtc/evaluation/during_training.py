"""Held-out accuracy while training goes on: a fixed set of crops, judged the same way each time, in one number."""

import numpy as np

from mtc.evaluation import decode, held_out, metrics


class Examiner:
    """Judges a network by its answers to held-out samples."""

    def __init__(self, config, skeleton):
        """Choose `evaluation.samples` held-out samples, evenly spaced. Errors: UserError where there are none, or a file cannot be read."""
        self._truth, self._images = held_out.chosen(config, skeleton, config.evaluation.samples)
        self._metric = config.evaluation.metric

    def __len__(self):
        return len(self._images)

    def score(self, answer, batch):
        """Return the score of a network, a float between 0 and 1, higher is better; 0 where it answers no numbers.

        answer: function from (batch, S, S, 3) uint8 crops to its [heat, pof] maps of the last stage.
        """
        uv = []
        for start in range(0, len(self._images), batch):
            heat, _ = held_out.asked(answer, self._images[start : start + batch], batch)
            found, height = decode.keypoints(heat)
            uv.append(np.where(np.isfinite(height)[..., None], found, np.nan))
        labels = np.concatenate(uv), self._truth.uv, self._truth.valid, self._truth.yardstick
        if self._metric == "auc":
            value = metrics.auc(metrics.pck(*labels, thresholds=metrics.CURVE))
        else:
            value = metrics.pck(*labels, thresholds=held_out.THRESHOLDS)[0]
        return float(value) if np.isfinite(value) else 0.0
