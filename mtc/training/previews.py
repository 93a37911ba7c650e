"""Pictures of the network's answers while training goes on: made every so many steps, drawn by a thread of its own.

Drawing belongs to the report, above this floor: the step that trains brings the function that does it. A picture that cannot be drawn or written is
told once, and costs no step.
"""

import logging
import threading

import numpy as np

from mtc.data import readers
from mtc.evaluation import baselines, held_out

log = logging.getLogger("mtc.training")


class Previews:
    """The held-out samples of a run that are drawn again and again. Use as a context manager: the end waits for the last picture."""

    def __init__(self, config, skeleton, draw):
        """draw: `mtc.report.predictions.write` without its first two arguments. Errors: UserError where there is no sample, or none can be read."""
        samples = baselines.evenly(readers.held_out(config), config.previews.samples)
        self._truth = held_out.read_truth(samples, config, skeleton)
        self._images = np.stack([held_out.crop_of(sample, config, skeleton).image for sample in samples])
        self._draw, self._skeleton, self._keep = draw, skeleton, config.previews.keep
        self._thread, self._failed = None, False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._thread:
            self._thread.join()

    def make(self, step, answer, batch):
        """Have the answers after a step drawn. answer: function from (batch, S, S, 3) uint8 crops to [heat, pof] of the last stage."""
        count = len(self._images)
        full = np.concatenate([self._images, np.repeat(self._images[-1:], batch - count, axis=0)])
        heat, pof = (maps[:count] for maps in answer(full))
        if self._thread:
            self._thread.join()
        self._thread = threading.Thread(target=self._work, args=(step, heat, pof), name="previews", daemon=True)
        self._thread.start()

    def _work(self, step, heat, pof):
        try:
            directory = self._draw(step, self._truth, self._images, heat, pof, self._skeleton, self._keep)
        except Exception as error:
            if not self._failed:
                self._failed = True
                log.warning("the answers after step %d are not drawn: %s; training goes on", step, error)
        else:
            log.info("Drew %s", directory)
