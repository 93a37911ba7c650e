"""The stream of batches: which sample comes when, cropped by threads ahead of the step.

Everything random about sample n of a run follows from (seed, n): which source it comes from (`data.mix`, in turn), its place in that
source's order of the epoch, and how it is cropped and varied. So any number of workers gives the same stream, and a resumed run continues it by
starting at another n. OpenCV decodes and warps outside Python's lock, so threads use all cores; they write into the batch's own arrays.

A sample that cannot be used is replaced by the next one of its source, with the randomness of n: that too follows from (seed, n) and the files.
"""

import collections
import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import List, NamedTuple

import cv2
import numpy as np

from mtc.data.bad_samples import Bad, allowed
from mtc.data.crop import crop_sample
from mtc.data.image_files import Cache
from mtc.errors import UserError

_ORDER, _JITTER = 1, 2
"""Separate the random streams of one seed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's malloc.h."""


class Batch(NamedTuple):
    """Arrays of B examples; see `mtc.data.crop.Example`."""

    names: List[str]
    image: np.ndarray
    """(B, S, S, 3) uint8."""
    mask: np.ndarray
    """(B, S, S) uint8."""
    uv: np.ndarray
    """(B, J, 2) float32."""
    xyz: np.ndarray
    """(B, J, 3) float32."""
    valid: np.ndarray
    """(B, J) bool."""
    is_3d: np.ndarray
    """(B,) bool."""
    bad: List[Bad]
    """Samples that could not be used and were replaced, in the order of the rows; what `names` has is the replacements."""
    first: int = 0
    """Number of the whole batch's first sample in the run."""


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


def jitter_generator(seed, n, again=None):
    """Return the numpy RandomState that all randomness of sample n draws from. again: one to seed anew, which takes a tenth of making one."""
    key = [seed, _JITTER, n & 0xFFFFFFFF, n >> 32]
    if again is None:
        return np.random.RandomState(key)
    again.seed(key)
    return again


class Pipeline:
    """Makes batches in order, `data.prefetch` batches ahead. Use as a context manager; iterate for batches without end."""

    def __init__(self, samples, config, skeleton, first=0, rank=0, ranks=1):
        """samples: {source: [Sample]}; first: number of the run's first sample to deliver; rank: which of `ranks` equal parts of each batch to make."""
        self._samples, self._config, self._skeleton = samples, config, skeleton
        self._order = SampleOrder({k: len(v) for k, v in samples.items()}, config.data.mix, config.train.seed, config.compat.shuffle)
        self._next = first
        part = config.train.batch_size // ranks
        self._part = range(rank * part, (rank + 1) * part)
        self._waiting = collections.deque()
        self._cache = Cache(config.data.cache_mb)
        self._of_thread = threading.local()
        _keep_freed_memory()
        self._opencv_threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # each worker is one already; OpenCV's own threads would only take the processor from them
        self._pool = ThreadPoolExecutor(config.data.workers or os.cpu_count() or 1, thread_name_prefix="crop")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for _, futures in self._waiting:
            for future in futures:
                future.cancel()
        self._pool.shutdown()
        cv2.setNumThreads(self._opencv_threads)

    def __iter__(self):
        return self

    def __next__(self):
        while len(self._waiting) <= self._config.data.prefetch:
            self._waiting.append(self._start())
        batch, futures = self._waiting.popleft()
        for future in futures:
            batch.bad.extend(future.result())
        return batch

    def make(self, first):
        """Return the whole `Batch` that begins with sample `first` of the run, made here and now; the stream goes on as if nobody had asked."""
        rows = range(self._config.train.batch_size)
        batch = self._empty(first, len(rows))
        for row, (n, source, index) in enumerate(self._numbered(first, rows)):
            batch.bad.extend(self._fill(batch, row, n, source, index))
        return batch

    def can_use(self, source, name):
        """Whether a sample of this name can be used now: a file that was bad may have been repaired since."""
        found = [sample for sample in self._samples.get(source, ()) if sample.name == name]
        try:
            for sample in found:
                self._write(self._empty(0, 1), 0, 0, sample)
        except (UserError, OSError):
            return False
        return bool(found)

    def _start(self):
        """Return the next batch, whose arrays are still empty, and the futures that fill them."""
        batch = self._empty(self._next, len(self._part))
        numbered = self._numbered(self._next, self._part)
        futures = [self._pool.submit(self._fill, batch, row, *sample) for row, sample in enumerate(numbered)]
        self._next += self._config.train.batch_size
        return batch, futures

    def _numbered(self, first, rows):
        """Return [(n, source, index in the source)] of the samples in these rows of the batch that begins with sample `first`."""
        return [(first + row,) + self._order[first + row] for row in rows]

    def _empty(self, first, size):
        crop, joints = self._config.model.crop, len(self._skeleton.joints)
        return Batch(
            names=[""] * size,
            image=np.empty((size, crop, crop, 3), np.uint8),
            mask=np.empty((size, crop, crop), np.uint8),
            uv=np.empty((size, joints, 2), np.float32),
            xyz=np.empty((size, joints, 3), np.float32),
            valid=np.empty((size, joints), bool),
            is_3d=np.empty(size, bool),
            bad=[],
            first=first,
        )

    def _fill(self, batch, row, n, source, index):
        """Write sample n, or the first of those after it in its source that can be used. Returns the list of `Bad` ones before that.

        Errors: UserError where there are more of them than the whole source may have.
        """
        samples, bad = self._samples[source], []
        for place in range(index, index + 1 + min(allowed(self._config.data.max_bad_fraction, len(samples)), len(samples) - 1)):
            sample = samples[place % len(samples)]
            try:
                self._write(batch, row, n, sample)
                return bad
            except (UserError, OSError) as error:
                bad.append(Bad(n, source, sample.name, str(error)))
        more = "; samples right after it that cannot be used either: {} (data.max_bad_fraction)".format(len(bad) - 1) if len(bad) > 1 else ""
        raise UserError(bad[0].reason + more)

    def _write(self, batch, row, n, sample):
        rng = self._of_thread.rng = jitter_generator(self._config.train.seed, n, getattr(self._of_thread, "rng", None))
        example = crop_sample(
            sample,
            size=self._config.model.crop,
            config=self._config,
            skeleton=self._skeleton,
            rng=rng,
            out=(batch.image[row], batch.mask[row]),
            cache=self._cache,
        )
        batch.names[row] = example.name
        for key in ("uv", "xyz", "valid", "is_3d"):
            getattr(batch, key)[row] = getattr(example, key)


def _keep_freed_memory():
    """Have the C library hold on to freed memory instead of handing it back to the system.

    Otherwise an image costs hundreds of page faults, a tenth of all work in large batches and a third in small ones. The values are the largest ones
    that glibc's own adaptation comes to (mallopt(3)); other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 64 * 2**20)
