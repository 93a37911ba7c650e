"""Samples that cannot be used, because a file is missing, damaged or does not fit: how many a run bears, and which it has met.

One bad file in a hundred thousand is no reason to lose a night of training; a folder that is not mounted is. `mtc.data.pipeline` puts another
sample in the place of a bad one and says so in the batch; here they are counted where batches are used, not where they are made ahead, so that
neither prefetching nor a resume changes what a run decides.
"""

from typing import NamedTuple

from mtc.errors import UserError

_NAMED = 3
"""Bad samples that an error names."""


class Bad(NamedTuple):
    """A sample that could not be used."""

    number: int
    """Of the run's sample in whose place it was read."""
    source: str
    name: str
    reason: str


def allowed(max_fraction, size):
    """Return how many samples of a source of `size` may be bad (`data.max_bad_fraction`)."""
    return int(max_fraction * size + 1e-9)  # 0.29 * 100 is 28.999...


class BadSamples:
    """The bad samples that a run has met: each counts once, however often it comes."""

    def __init__(self, sizes, max_fraction, known=()):
        """sizes: {source: number of samples}; known: what `state` returned, for a run that goes on."""
        self._sizes, self._max_fraction = sizes, max_fraction
        self._reasons = {(source, name): reason for source, name, reason in known}

    def add(self, bad):
        """Take the `Bad` samples of a batch (`Batch.bad`) and return the list of those that are new.

        Errors: UserError where one's source has more than `data.max_bad_fraction` of them; they are part of `state` even then.
        """
        new = []
        for one in bad:
            if (one.source, one.name) not in self._reasons:
                self._reasons[one.source, one.name] = one.reason
                new.append(one)
        for source in sorted({one.source for one in bad}):
            self._check(source)
        return new

    def check(self):
        """Raise UserError where a source has too many of them already: for a run that goes on."""
        for source in sorted({source for source, _ in self._reasons}):
            self._check(source)

    def state(self):
        """Return [[source, name, reason], ...] for JSON, in the order in which they were met."""
        return [[source, name, reason] for (source, name), reason in self._reasons.items()]

    def _check(self, source):
        found = [(name, reason) for (of, name), reason in self._reasons.items() if of == source]
        size = self._sizes[source]
        most = allowed(self._max_fraction, size)
        if len(found) > most:
            text = (
                "source {}: {} of its {} samples cannot be used, data.max_bad_fraction={:g} allows {}: {}{}; "
                "repair the files (python -m tasks.fetch, python -m tasks.preprocess) or raise data.max_bad_fraction"
            )
            named = ", ".join("{} ({})".format(name, reason) for name, reason in found[:_NAMED])
            raise UserError(text.format(source, len(found), size, self._max_fraction, most, named, ", ..." if len(found) > _NAMED else ""))
