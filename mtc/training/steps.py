"""Runs single steps: feeds batches, and keeps what the loop wants to know of a step until it asks.

A step's losses stay on the device, in the graph's table, so that no step waits for numbers to travel. Where the graph stages its input, the
next batch travels while this one is computed.
"""

import time
from typing import Any, List, NamedTuple

from mtc.errors import UserError
from mtc.losses import Losses
from mtc.training.graph import BLOCK, MADE, REFUSED, SKIPPED


class Done(NamedTuple):
    """A step that was made."""

    number: int
    losses: Losses
    """Of floats."""
    rate: float
    names: List[str]
    """Of its samples."""
    seconds: float
    waited: float
    """Part of the seconds in which no batch was ready."""
    first_sample: int = 0
    """Number of its first sample in the run."""
    bad: Any = ()
    """What could not be read on the way to its samples: `mtc.data.pipeline.Bad`."""
    grad_norm: float = 0.0
    """Euclidean norm of the gradient of all weights together."""
    code: int = MADE
    """`mtc.training.graph.MADE`, SKIPPED or REFUSED."""

    @property
    def skipped(self):
        """Whether the step changed no weight, its loss or gradient being no number."""
        return self.code == SKIPPED

    @property
    def refused(self):
        """Whether the step changed nothing, because too many had no number for a gradient."""
        return self.code == REFUSED


class Steps:
    """Makes the steps of a run in a session."""

    def __init__(self, session, training, batches, last, skipped=0, profile=None, dumps=None):
        """training: `mtc.training.graph.TrainingGraph`; batches: iterator of `mtc.data.pipeline.Batch`; last: number of the run's last step;
        skipped: steps that were skipped in the run before; profile, dumps: `mtc.training.profiling.Profile` and `mtc.training.dumps.Dumps` that look
        on, or None.
        """
        self._session, self._training, self._batches, self.last = session, training, batches, last
        self._profile, self._dumps = profile, dumps
        self._staged = None
        self._error = None
        self._made = []  # the `Done` steps whose losses are still on the device, without these
        session.run(training.initialise, {training.skipped: skipped})

    def full(self):
        """Whether `done` has to be called before the next step."""
        return len(self._made) == BLOCK

    def run(self, number, rate):
        """Make a step. Errors: UserError where its samples cannot be read; the step is not made then."""
        assert not self.full()
        started = time.perf_counter()
        feed = {self._training.rate: rate, self._training.place: len(self._made)}
        batch = self._staged or self._next()
        waited = time.perf_counter() - started
        if self._dumps:
            self._dumps.before(number, batch)
            started = time.perf_counter() - waited
        if self._training.stage is None:
            self._make(number, self._training.train, {**feed, **self._training.feed(batch)})
        else:
            if not self._staged:
                self._session.run(self._training.stage, self._training.feed(batch))
            waited += self._run_staged(number, feed)
        seconds = time.perf_counter() - started
        if self._profile:
            self._profile.after(number, seconds, waited)
        if self._dumps:
            self._dumps.after(number, batch, len(self._made))
        self._made.append(Done(number, None, rate, batch.names, seconds, waited, batch.first, batch.bad))

    def done(self):
        """Return the list of `Done` steps since the last call; waits for the device."""
        rows = self._session.run(self._training.table) if self._made else []
        made = []
        for done, row in zip(self._made, rows):
            *values, norm, code = (float(value) for value in row)
            made.append(done._replace(losses=Losses(*values), grad_norm=norm, code=int(code)))
        self._made = []
        return made

    def _run_staged(self, number, feed):
        """Make a step of the batch on the device and send the next one. Returns the seconds of waiting for that."""
        started = time.perf_counter()
        self._staged = None
        if number < self.last:
            try:
                self._staged = self._next()
            except UserError as error:  # of the step after this one
                self._error = error
        waited = time.perf_counter() - started
        if self._staged:
            self._make(number, [self._training.train, self._training.stage], {**feed, **self._training.feed(self._staged)})
        else:
            self._make(number, self._training.train, feed)
        return waited

    def _make(self, number, operations, feed):
        run = self._profile.run if self._profile and self._profile.wants(number) else self._session.run
        run(operations, feed)

    def _next(self):
        if self._error:
            raise self._error
        return next(self._batches)
