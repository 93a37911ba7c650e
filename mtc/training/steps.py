"""Runs single steps: feeds batches, and keeps what the loop wants to know of a step until it asks.

A step's losses stay on the device, in the graph's table, so that no step waits for numbers to travel. Where the graph stages its input, the
next batch travels while this one is computed.
"""

import time
from typing import List, NamedTuple

from mtc.errors import UserError
from mtc.losses import Losses
from mtc.training.graph import BLOCK


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


class Steps:
    """Makes the steps of a run in a session."""

    def __init__(self, session, training, batches, last):
        """training: `mtc.training.graph.TrainingGraph`; batches: iterator of `mtc.data.pipeline.Batch`; last: number of the run's last step."""
        self._session, self._training, self._batches, self._last = session, training, batches, last
        self._staged = None
        self._error = None
        self._made = []  # (number, rate, names, seconds, waited) of the steps whose losses are still on the device
        session.run(training.initialise)

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
        if self._training.stage is None:
            self._session.run(self._training.train, {**feed, **self._training.feed(batch)})
        else:
            if not self._staged:
                self._session.run(self._training.stage, self._training.feed(batch))
            waited += self._run_staged(number, feed)
        self._made.append((number, rate, batch.names, time.perf_counter() - started, waited))

    def done(self):
        """Return the list of `Done` steps since the last call; waits for the device."""
        rows = self._session.run(self._training.table) if self._made else []
        made = [Done(number, Losses(*(float(v) for v in row)), *others) for row, (number, *others) in zip(rows, self._made)]
        self._made = []
        return made

    def _run_staged(self, number, feed):
        """Make a step of the batch on the device and send the next one. Returns the seconds of waiting for that."""
        started = time.perf_counter()
        self._staged = None
        if number < self._last:
            try:
                self._staged = self._next()
            except UserError as error:  # of the step after this one
                self._error = error
        waited = time.perf_counter() - started
        if self._staged:
            self._session.run([self._training.train, self._training.stage], {**feed, **self._training.feed(self._staged)})
        else:
            self._session.run(self._training.train, feed)
        return waited

    def _next(self):
        if self._error:
            raise self._error
        return next(self._batches)
