"""The stream of batches: which sample comes when, cropped by threads ahead of the step.

Everything random about sample n of a run follows from (seed, n): which source it comes from (`data.mix`, in turn), its place in that
source's order of the epoch, and how it is cropped and varied. So any number of workers gives the same stream, and a resumed run continues it by
starting at another n. OpenCV decodes and warps outside Python's lock, so threads use all cores; they write into the batch's own arrays.
"""

import collections
import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import List, NamedTuple

import cv2
import numpy as np

from mtc.data.crop import crop_sample
from mtc.data.image_files import Cache

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

    def __init__(self, samples, config, skeleton, first=0):
        """samples: {source: [Sample]}; first: number of the run's first sample to deliver."""
        self._samples, self._config, self._skeleton = samples, config, skeleton
        self._order = SampleOrder({k: len(v) for k, v in samples.items()}, config.data.mix, config.train.seed, config.compat.shuffle)
        self._next = first
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
            future.result()
        return batch

    def _start(self):
        """Return the next batch, whose arrays are still empty, and the futures that fill them."""
        size, crop, joints = self._config.train.batch_size, self._config.model.crop, len(self._skeleton.joints)
        batch = Batch(
            names=[""] * size,
            image=np.empty((size, crop, crop, 3), np.uint8),
            mask=np.empty((size, crop, crop), np.uint8),
            uv=np.empty((size, joints, 2), np.float32),
            xyz=np.empty((size, joints, 3), np.float32),
            valid=np.empty((size, joints), bool),
            is_3d=np.empty(size, bool),
        )
        futures = [self._pool.submit(self._fill, batch, row, self._next + row, *self._order[self._next + row]) for row in range(size)]
        self._next += size
        return batch, futures

    def _fill(self, batch, row, n, source, index):
        rng = self._of_thread.rng = jitter_generator(self._config.train.seed, n, getattr(self._of_thread, "rng", None))
        example = crop_sample(
            self._samples[source][index],
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
