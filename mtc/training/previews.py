"""Pictures of the network's answers while training goes on: made every so many steps, drawn by a thread of its own.

Drawing belongs to the report, above this floor: the step that trains brings the function that does it. A picture that cannot be drawn or written is
told once, and costs no step.
"""

import logging
import threading

from mtc.evaluation import held_out

log = logging.getLogger("mtc.training")


class Previews:
    """The held-out samples of a run that are drawn again and again. Use as a context manager: the end waits for the last picture."""

    def __init__(self, config, skeleton, draw):
        """draw: `mtc.report.predictions.write` without its first two arguments. Errors: UserError where there is no sample, or none can be read."""
        self._truth, self._images = held_out.chosen(config, skeleton, config.previews.samples)
        self._draw, self._skeleton, self._keep = draw, skeleton, config.previews.keep
        self._thread, self._failed = None, False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._thread:
            self._thread.join()

    def make(self, step, answer, batch):
        """Have the answers after a step drawn. answer: function from (batch, S, S, 3) uint8 crops to [heat, pof] of the last stage."""
        heat, pof = held_out.asked(answer, self._images, batch)
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
