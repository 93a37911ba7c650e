"""What a run tells: metrics.jsonl (a versioned contract), the reference's log line, progress, TensorBoard events.

metrics.jsonl has one JSON object a line, {"v": 1, "kind": "start" | "train" | "checkpoint" | "upload" | "upload_failed" | "end", ...};
every step has its line. A crash can leave the last line torn: it is cut off when the run goes on. Steps after the checkpoint that a run
resumes from appear twice; the later line counts.

No disk that is full or gives errors stops training: lines wait in memory until they can be written, each place tells once that it fails.
"""

import collections
import contextlib
import errno
import json
import logging
import math
import os
import sys
import threading
import time
import zlib

from tqdm import tqdm

from mtc.training.events import EventFile

log = logging.getLogger("mtc.training")

VERSION = 1
_PROGRESS_SECONDS = 5.0
_SHOWN_WAITING = 0.05
"""Share of the time from which on waiting for data is worth a word."""

_METRICS_BACKLOG, _LOG_BACKLOG = 64 * 2**20, 2**20
"""Bytes of lines that wait in memory for a disk: some 200,000 steps, and the log of an hour or more."""

_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What a file may fail with at a start that is none the less worth making; other errors are a mistake in the directory."""


@contextlib.contextmanager
def log_to_file(run_dir):
    """Yield the train.log of a run, as `Journal` wants it; all that the project logs goes there too."""
    lines = _LineFile(os.path.join(run_dir, "train.log"), _LOG_BACKLOG)
    handler = _LineHandler(lines)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("mtc")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        handler.close()
        lines.close()


class Journal:
    """Writes a run's records; `record` may be called from any thread. Use as a context manager."""

    def __init__(self, run_dir, log_file, first_step, last_step, log_every, batch_size, flop_per_image, peak):
        """log_file: what `log_to_file` yields; flop_per_image: of a training step; peak: FLOP/s of the device, or None."""
        self._metrics = _LineFile(os.path.join(run_dir, "metrics.jsonl"), _METRICS_BACKLOG, prepare=_cut_off_torn_line)
        self._log_every, self._batch_size, self._flop, self._peak = log_every, batch_size, flop_per_image, peak
        self._log_file = log_file
        self._events = EventFile(os.path.join(run_dir, "events"))
        self.last_step = last_step
        self._bar = tqdm(total=last_step, initial=first_step - 1, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._printed = self._reported = time.time()
        self._stdout_failed = False
        self._window = 0
        self._waited = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._bar.close()
        self._events.close()
        self._metrics.close()  # an upload that was given up may still want to tell something: it is left out
        for stream in (sys.stdout, sys.stderr):
            _mute_if_broken(stream)

    def record(self, kind, **facts):
        """Append one line to metrics.jsonl; numbers that are not finite become null."""
        facts.update(v=VERSION, kind=kind, time=round(time.time(), 3))
        self._metrics.append(json.dumps(_strict(facts), sort_keys=True, allow_nan=False))

    def sync(self):
        """Have metrics.jsonl on the disk itself, as far as the disk takes it."""
        self._metrics.sync()

    def step(self, made):
        """Take one step's figures: a `mtc.training.steps.Done`."""
        losses = made.losses
        facts = {
            "step": made.number,
            "loss": losses.total,
            "loss_2d": losses.heat,
            "loss_pof": losses.pof,
            "baseline_2d": losses.baseline_heat,
            "baseline_pof": losses.baseline_pof,
            "lr": made.rate,
            "seconds": round(made.seconds, 6),
            "waited": round(made.waited, 6),
            "sample": made.first_sample,
            "ids": "{:08x}".format(zlib.crc32("\n".join(made.names).encode("utf-8", "backslashreplace"))),
        }
        if made.grad_norm is not None:
            facts["grad_norm"] = made.grad_norm
        if made.loss_scale:
            facts["loss_scale"] = made.loss_scale
        if made.skipped:
            facts["skipped"] = True
        if made.overflowed:
            facts["overflow"] = True
        self.record("train", **facts)
        self._bar.update()
        self._window += 1
        self._waited += made.waited
        if made.number % self._log_every == 0 or made.number == self.last_step:
            self._tell(made.number, losses, made.rate)

    def _tell(self, step, losses, rate):
        now = time.time()
        line = "Iteration {}\t Loss {:.1e}, Loss_2d {:.1e}, Loss_PAF {:.1e}, duration {:f}".format(
            step, losses.total, losses.heat, losses.pof, now - self._printed
        )
        self._printed = now
        self._print(line)
        self._log_file.append(line)
        self._events.add(step, {"loss": losses.total, "loss_2d": losses.heat, "loss_PAF": losses.pof, "learning_rate": rate})
        if now - self._reported >= _PROGRESS_SECONDS or step == self.last_step:
            images = self._window * self._batch_size / max(now - self._reported, 1e-9)
            left = (self.last_step - step) * (now - self._reported) / self._window
            mfu = ", MFU {:.0f} %".format(100 * images * self._flop / self._peak) if self._peak else ""
            waiting = self._waited / max(now - self._reported, 1e-9)
            slow = ", {:.0f} % of it waiting for data".format(100 * waiting) if waiting > _SHOWN_WAITING else ""
            text = "{:.{}f} images/s, {:.1f} GFLOP/s{}, ETA {}{}".format(
                images, 1 if images >= 1 else 3, images * self._flop / 1e9, mfu, _clock(left), slow
            )
            if self._bar.disable:
                log.info("step %d of %d, loss %.3e, %s", step, self.last_step, losses.total, text)
            else:
                self._bar.set_postfix_str("loss {:.3e}, {}".format(losses.total, text))
            self._events.add(step, {"images_per_second": images})
            self._reported, self._window, self._waited = now, 0, 0.0
            self._events.flush()

    def _print(self, line):
        try:
            with tqdm.external_write_mode():
                print(line, flush=True)
        except OSError as error:  # the next line is tried again: a disk may have room by then
            if not self._stdout_failed:
                self._stdout_failed = True
                log.warning("standard output cannot be written: %s; training goes on, its lines are in train.log", error.strerror or error)


class _LineFile:
    """A file that any thread appends lines to. Lines that the disk does not take wait in memory, `room` bytes of them, and keep their order."""

    def __init__(self, path, room, prepare=None):
        """prepare: called with the path before the file is opened for the first time. Errors: OSError where waiting would not help."""
        self._path, self._room, self._prepare = path, room, prepare
        self._lock = threading.Lock()
        self._file = None
        self._rest = b""
        """Of a line that the file has the beginning of: nothing else may come before it."""
        self._waiting, self._bytes, self._lost = collections.deque(), 0, 0
        self._failing = self._sync_failed = self._closed = False
        try:
            self._open()
        except OSError as error:
            if error.errno not in _MAY_PASS:
                raise
            _log(self._failed(error))

    def append(self, line):
        """Take a line, without its newline. After `close` it is left out."""
        data = (line + "\n").encode("utf-8", "backslashreplace")
        with self._lock:
            if self._closed:
                return
            self._waiting.append(data)
            self._bytes += len(data)
            news = self._write()
        _log(news)

    def sync(self):
        """Write what waits, and have the file on the disk itself."""
        with self._lock:
            if self._closed:
                return
            news = self._write()
            try:
                if self._file is not None:
                    os.fsync(self._file)
            except OSError as error:
                if not self._sync_failed:
                    self._sync_failed = True
                    text = "%s cannot be flushed to the disk: %s; if the machine goes down, its last lines may be lost"
                    news = logging.WARNING, text, self._path, error.strerror
        _log(news)

    def close(self):
        """Try once more to write what waits, tell what is lost, and close."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            news = self._write()
            lost = self._lost + len(self._waiting) + bool(self._rest)
            try:
                if self._file is not None:
                    os.close(self._file)
            except OSError as error:  # NFS tells only now that its disk is full
                news = logging.WARNING, "%s cannot be closed: %s; its last lines may be lost", self._path, error.strerror
        _log(news)
        if lost:
            log.warning("%s could not be written to the end; lines lost: %d", self._path, lost)

    def _write(self):
        """Write what waits. Returns what is to be logged about it, (level, text, ...) or None: without the lock, for the log may be this file."""
        try:
            if self._file is None:
                self._open()
            while self._rest or self._waiting:
                line = self._rest or self._waiting[0]
                written = os.write(self._file, line)
                if not self._rest:
                    self._waiting.popleft()
                self._rest = line[written:]
                self._bytes -= written
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            return self._failed(error)
        if not self._failing:
            return None
        lost, self._lost, self._failing = self._lost, 0, False
        return logging.INFO, "%s is written again; lines lost: %d", self._path, lost

    def _open(self):
        if self._prepare:
            self._prepare(self._path)
            self._prepare = None
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def _failed(self, error):
        if self._file is not None:  # a network's file may not come back to life, but its path
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None
        while self._bytes > self._room and self._waiting:
            self._bytes -= len(self._waiting.popleft())
            self._lost += 1
        if self._failing:
            return None
        self._failing = True
        return logging.WARNING, "%s cannot be written: %s; its lines wait in memory", self._path, error.strerror


class _LineHandler(logging.Handler):
    """Hands what is logged to a `_LineFile`, which cares for its errors itself."""

    def __init__(self, lines):
        super().__init__()
        self._lines = lines

    def emit(self, record):
        try:
            self._lines.append(self.format(record))
        except Exception:  # as logging does it: a message that does not fit its arguments is shown, and no more
            self.handleError(record)


def _log(news):
    if news:
        log.log(*news)


def _mute_if_broken(stream):
    """Let a standard stream that does not take what is in its buffer end in the null device.

    Python flushes it once more when it exits, and would make exit code 0 to 120 if that failed.
    """
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
            stream.flush()


def _strict(value):
    """Return a value with None for all numbers in it that JSON has no word for."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cut_off_torn_line(path):
    """Cut a file of lines after its last newline."""
    with open(path, "ab+") as f:
        end = size = f.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            f.seek(start)
            newline = f.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            f.truncate(end)


def _clock(seconds):
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return "{}:{:02d}:{:02d}".format(minutes // 60, minutes % 60, seconds)
