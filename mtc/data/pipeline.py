"""The stream of batches: which sample comes when, cropped by threads ahead of the step.

Everything random about sample n of a run follows from (seed, n): which source it comes from (`data.mix`, in turn), its place in that
source's order of the epoch, and its jitter. So any number of workers gives the same stream, and a resumed run continues it by starting at
another n. OpenCV decodes and warps outside Python's lock, so threads use all cores.
"""

import collections
import os
from concurrent.futures import ThreadPoolExecutor
from typing import List, NamedTuple

import numpy as np

from mtc.data.crop import crop_sample

_ORDER, _JITTER = 1, 2
"""Separate the random streams of one seed."""


class Batch(NamedTuple):
    """Arrays of B examples; see `mtc.data.crop.Example`."""

    names: List[str]
    image: np.ndarray
    """(B, S, S, 3) float32."""
    mask: np.ndarray
    """(B, S, S) float32."""
    uv: np.ndarray
    """(B, J, 2) float32."""
    xyz: np.ndarray
    """(B, J, 3) float32."""
    valid: np.ndarray
    """(B, J) bool."""
    is_3d: np.ndarray
    """(B,) bool."""


class SampleOrder:
    """Says which sample is number n of a run. For one thread: it keeps the orders of the epochs that are under way."""

    def __init__(self, sources, shares, seed, shuffle):
        """sources: {name: number of samples}; shares: {name: samples of each turn}."""
        self._sizes, self._seed, self._shuffle = sources, seed, shuffle
        names = sorted(name for name in sources if shares.get(name))
        self._turn = [(name, k) for name in names for k in range(shares[name])]
        self._shares, self._numbers = shares, {name: i for i, name in enumerate(names)}
        self._orders = collections.OrderedDict()

    def __getitem__(self, n):
        """Return (source, index in the source) of sample n, counted from 0."""
        turn, position = divmod(n, len(self._turn))
        source, offset = self._turn[position]
        epoch, place = divmod(turn * self._shares[source] + offset, self._sizes[source])
        return source, place if not self._shuffle else int(self._order(source, epoch)[place])

    def _order(self, source, epoch):
        key = source, epoch
        if key not in self._orders:
            rng = np.random.RandomState([self._seed, _ORDER, self._numbers[source], epoch])
            self._orders[key] = rng.permutation(self._sizes[source])
            while len(self._orders) > 2 * len(self._numbers):
                self._orders.popitem(last=False)
        return self._orders[key]


def jitter_generator(seed, n):
    """Return the numpy RandomState that all randomness of sample n draws from."""
    return np.random.RandomState([seed, _JITTER, n & 0xFFFFFFFF, n >> 32])


class Pipeline:
    """Makes batches in order, `data.prefetch` batches ahead. Use as a context manager; iterate for batches without end."""

    def __init__(self, samples, config, skeleton, first=0):
        """samples: {source: [Sample]}; first: number of the run's first sample to deliver."""
        self._samples, self._config, self._skeleton = samples, config, skeleton
        self._order = SampleOrder({k: len(v) for k, v in samples.items()}, config.data.mix, config.train.seed, config.compat.shuffle)
        self._next = first
        self._waiting = collections.deque()
        self._pool = ThreadPoolExecutor(config.data.workers or os.cpu_count() or 1, thread_name_prefix="crop")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for future in self._waiting:
            future.cancel()
        self._pool.shutdown()

    def __iter__(self):
        return self

    def __next__(self):
        size = self._config.train.batch_size
        while len(self._waiting) < size * (1 + self._config.data.prefetch):
            self._waiting.append(self._pool.submit(self._example, self._next, *self._order[self._next]))
            self._next += 1
        return stack([self._waiting.popleft().result() for _ in range(size)])

    def _example(self, n, source, index):
        rng = jitter_generator(self._config.train.seed, n)
        return crop_sample(self._samples[source][index], size=self._config.model.crop, config=self._config, skeleton=self._skeleton, rng=rng)


def stack(examples):
    """Return the `Batch` of a list of examples."""
    arrays = {key: np.stack([getattr(e, key) for e in examples]) for key in Batch._fields if key != "names"}
    return Batch(names=[e.name for e in examples], **arrays)
