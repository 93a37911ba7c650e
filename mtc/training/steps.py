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

    def __init__(self, session, training, batches, last, skipped=0, device=None, team=None, profile=None, dumps=None):
        """training: `mtc.training.graph.TrainingGraph`; batches: iterator of `mtc.data.pipeline.Batch`; last: number of the run's last step;
        skipped: steps that were skipped in the run before; device: `mtc.devices.Device`, for one that makes several steps in a call; team:
        `mtc.training.ranks.team.Leader`, where this is one of several ranks; profile, dumps: `mtc.training.profiling.Profile` and
        `mtc.training.dumps.Dumps` that look on, or None.
        """
        self._session, self._training, self._batches, self.last = session, training, batches, last
        self._team, self._profile, self._dumps = team, profile, dumps
        self.per_run = device.steps_per_run if device else 1
        """Steps that are made at once."""
        self._prepared, self._staged = [], None
        self._error = None
        self._made = []  # the `Done` steps whose losses are still on the device, without these
        session.run(training.initialise, {training.skipped: skipped})
        self._train = training.train
        if training.sink:
            session.run(training.sink.start)
            with training.graph.as_default():
                self._train = device.looped(session, training.train)

    def close(self):
        """Let nobody wait for a batch any more."""
        if self._training.sink:
            self._training.sink.close()

    def full(self):
        """Whether `done` has to be called before the next step."""
        return len(self._made) + self.per_run > BLOCK

    def run(self, number, rates):
        """Make `per_run` steps from this number on, with these learning rates, on all ranks.

        Errors: UserError where samples cannot be read; none of the steps is made then.
        """
        assert not self.full()
        assert len(rates) == self.per_run
        started = time.perf_counter()
        batches, waited = self.prepare()
        if self._dumps:
            self._dumps.before(number, batches[0])
            started = time.perf_counter() - waited
        names, bad = [list(batch.names) for batch in batches], [list(batch.bad) for batch in batches]
        if self._team is not None:
            for other in self._team.gather():
                for k in range(self.per_run):
                    names[k] += other["names"][k]
                    bad[k] += [Bad(*entry) for entry in other["bad"][k]]
                waited = max(waited, other["waited"])
            self._team.tell("step", number=number, rates=rates, place=len(self._made))
        waited += self.make(number, rates, len(self._made))
        seconds = time.perf_counter() - started
        if self._profile:
            self._profile.after(number, seconds, waited)
        if self._dumps:
            self._dumps.after(number, batches[0], len(self._made))
        for k, (batch, rate) in enumerate(zip(batches, rates)):
            share = seconds / self.per_run, waited / self.per_run
            self._made.append(Done(number + k, None, rate, names[k], share[0], share[1], batch.first, bad[k]))

    def prepare(self):
        """Return ([batch of each step that is made next], the seconds of waiting for them). Errors: UserError where samples cannot be read."""
        started = time.perf_counter()
        if self._staged and not self._prepared:
            self._prepared = [self._staged]
        while len(self._prepared) < self.per_run:
            self._prepared.append(self._next())
        return self._prepared, time.perf_counter() - started

    def make(self, number, rates, place):
        """Make the steps of the batches that were prepared; their losses go to the table from row `place` on. Returns the seconds of waiting for a
        next batch.
        """
        batches, self._prepared = self._prepared, []
        try:
            if self._training.sink:
                self._training.sink.hand_over(self._session, batches, rates, place)
                self._session.run(self._train)
                return 0.0
            feed = {self._training.rate: rates[0], self._training.place: place}
            if self._training.stage is None:
                self._run(number, self._train, {**feed, **self._training.feed(batches[0])})
                return 0.0
            if not self._staged:
                self._session.run(self._training.stage, self._training.feed(batches[0]))
            return self._run_staged(number, feed)
        except tf.errors.OpError as error:
            if self._team is None:
                raise
            raise self._team.explained(error) from error

    def done(self):
        """Return the list of `Done` steps since the last call; waits for the device."""
        if not self._made:
            return []
        if self._team is not None:
            self._team.mirror("table")
        rows, made = self._session.run(self._training.table), []
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
