"""Runs single steps: feeds batches, and keeps what the loop wants to know of a step until it asks.

A step's losses stay on the device, in the graph's table, so that no step waits for numbers to travel. Where the graph stages its input, the
next batch travels while this one is computed.
"""

import time
from typing import Any, List, NamedTuple

import tensorflow.compat.v1 as tf

from mtc.data.bad_samples import Bad
from mtc.errors import UserError
from mtc.losses import Losses
from mtc.training.graph import BLOCK
from mtc.training.update import MADE, OVERFLOWED, REFUSED, SKIPPED


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
    """`mtc.training.update.MADE`, SKIPPED, REFUSED or OVERFLOWED."""
    loss_scale: float = 0.0
    """What the loss was multiplied by for the gradient; 0: no loss scale."""

    @property
    def skipped(self):
        """Whether the step changed no weight, its loss or gradient being no number."""
        return self.code == SKIPPED

    @property
    def overflowed(self):
        """Whether the step changed no weight, its gradient having overflowed because of the loss scale."""
        return self.code == OVERFLOWED

    @property
    def refused(self):
        """Whether the step changed nothing, because too many had no number for a gradient."""
        return self.code == REFUSED


class Steps:
    """Makes the steps of a run in a session."""

    def __init__(self, session, training, batches, last, skipped=0, team=None, profile=None, dumps=None):
        """training: `mtc.training.graph.TrainingGraph`; batches: iterator of `mtc.data.pipeline.Batch`; last: number of the run's last step;
        skipped: steps that were skipped in the run before; team: `mtc.training.ranks.team.Leader`, where this is one of several ranks;
        profile, dumps: `mtc.training.profiling.Profile` and `mtc.training.dumps.Dumps` that look on, or None.
        """
        self._session, self._training, self._batches, self.last = session, training, batches, last
        self._team, self._profile, self._dumps = team, profile, dumps
        self._batch = self._staged = None
        self._error = None
        self._made = []  # the `Done` steps whose losses are still on the device, without these
        session.run(training.initialise, {training.skipped: skipped})

    def full(self):
        """Whether `done` has to be called before the next step."""
        return len(self._made) == BLOCK

    def run(self, number, rate):
        """Make a step, on all ranks. Errors: UserError where its samples cannot be read; the step is not made then."""
        assert not self.full()
        started = time.perf_counter()
        batch, waited = self.timed_batch()
        if self._dumps:
            self._dumps.before(number, batch)
            started = time.perf_counter() - waited
        names, bad = list(batch.names), list(batch.bad)
        if self._team is not None:
            for other in self._team.gather():
                names += other["names"]
                bad += [Bad(*entry) for entry in other["bad"]]
                waited = max(waited, other["waited"])
            self._team.tell("step", number=number, rate=rate, place=len(self._made))
        waited += self.make(number, rate, len(self._made))
        seconds = time.perf_counter() - started
        if self._profile:
            self._profile.after(number, seconds, waited)
        if self._dumps:
            self._dumps.after(number, batch, len(self._made))
        self._made.append(Done(number, None, rate, names, seconds, waited, batch.first, bad))

    def prepare(self):
        """Return the batch of the next step, once it is there. Errors: UserError where its samples cannot be read."""
        self._batch = self._batch or self._staged or self._next()
        return self._batch

    def timed_batch(self):
        """Return (what `prepare` returns, the seconds of waiting for it)."""
        started = time.perf_counter()
        return self.prepare(), time.perf_counter() - started

    def make(self, number, rate, place):
        """Make the step of the batch that was prepared; its losses go to this row of the table. Returns the seconds of waiting for a next batch."""
        batch, self._batch = self._batch, None
        feed = {self._training.rate: rate, self._training.place: place}
        try:
            if self._training.stage is None:
                self._run(number, self._training.train, {**feed, **self._training.feed(batch)})
                return 0.0
            if not self._staged:
                self._session.run(self._training.stage, self._training.feed(batch))
            return self._run_staged(number, feed)
        except tf.errors.OpError as error:
            if self._team is None:
                raise
            raise self._team.explained(error) from error

    def done(self):
        """Return the list of `Done` steps since the last call; waits for the device."""
        if self._made and self._team is not None:
            self._team.mirror("table")
        rows = self._session.run(self._training.table) if self._made else []
        made = []
        for done, row in zip(self._made, rows):
            *values, norm, code, scale = (float(value) for value in row)
            made.append(done._replace(losses=Losses(*values), grad_norm=norm, code=int(code), loss_scale=scale))
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
            self._run(number, [self._training.train, self._training.stage], {**feed, **self._training.feed(self._staged)})
        else:
            self._run(number, self._training.train, feed)
        return waited

    def _run(self, number, operations, feed):
        run = self._profile.run if self._profile and self._profile.wants(number) else self._session.run
        run(operations, feed)

    def _next(self):
        if self._error:
            raise self._error
        return next(self._batches)
