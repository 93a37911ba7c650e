"""What a run tells: metrics.jsonl (a versioned contract), the reference's log line, progress, TensorBoard events.

metrics.jsonl has one JSON object a line, {"v": 1, "kind": "start" | "train" | "checkpoint" | "upload" | "upload_failed" | "end", ...};
every step has its line. A crash can leave the last line torn: it is cut off when the run goes on. Steps after the checkpoint that a run
resumes from appear twice; the later line counts.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time

import tensorflow.compat.v1 as tf
from tqdm import tqdm

log = logging.getLogger("mtc.training")

VERSION = 1
_PROGRESS_SECONDS = 5.0
_SHOWN_WAITING = 0.05
"""Share of the time from which on waiting for data is worth a word."""


@contextlib.contextmanager
def log_to_file(run_dir):
    """Yield the open train.log of a run, to which all that the project logs goes too."""
    handler = logging.FileHandler(os.path.join(run_dir, "train.log"), encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("mtc")
    logger.addHandler(handler)
    try:
        yield handler.stream
    finally:
        logger.removeHandler(handler)
        handler.close()


class Journal:
    """Writes a run's records; `record` may be called from any thread. Use as a context manager."""

    def __init__(self, run_dir, log_file, first_step, last_step, log_every, batch_size, flop_per_image, peak):
        """log_file: what `log_to_file` yields; flop_per_image: of a training step; peak: FLOP/s of the device, or None."""
        metrics = os.path.join(run_dir, "metrics.jsonl")
        _cut_off_torn_line(metrics)
        self._metrics = open(metrics, "ab", buffering=0)  # noqa: SIM115 - closed in __exit__; unbuffered: each line reaches the kernel at once
        self._lock = threading.Lock()
        self._log_every, self._batch_size, self._flop, self._peak = log_every, batch_size, flop_per_image, peak
        self._log_file = log_file
        with tf.Graph().as_default():  # a FileWriter is made outside eager mode only
            self._events = tf.summary.FileWriter(os.path.join(run_dir, "events"))
        self._last_step = last_step
        self._bar = tqdm(total=last_step, initial=first_step - 1, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._printed = self._reported = time.time()
        self._window = 0
        self._waited = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._bar.close()
        self._events.close()
        with self._lock:  # an upload that was given up may still want to tell something
            self._metrics.close()

    def record(self, kind, **facts):
        """Append one line to metrics.jsonl."""
        line = json.dumps(dict(facts, v=VERSION, kind=kind, time=round(time.time(), 3)), sort_keys=True)
        with self._lock:
            if not self._metrics.closed:
                self._metrics.write((line + "\n").encode("utf-8"))

    def step(self, made):
        """Take one step's figures: a `mtc.training.steps.Done`."""
        losses = made.losses
        self.record(
            "train",
            step=made.number,
            loss=losses.total,
            loss_2d=losses.heat,
            loss_pof=losses.pof,
            baseline_2d=losses.baseline_heat,
            baseline_pof=losses.baseline_pof,
            lr=made.rate,
            seconds=round(made.seconds, 6),
            waited=round(made.waited, 6),
        )
        self._bar.update()
        self._window += 1
        self._waited += made.waited
        if made.number % self._log_every == 0 or made.number == self._last_step:
            self._print(made.number, losses, made.rate)

    def _print(self, step, losses, rate):
        now = time.time()
        line = "Iteration {}\t Loss {:.1e}, Loss_2d {:.1e}, Loss_PAF {:.1e}, duration {:f}".format(
            step, losses.total, losses.heat, losses.pof, now - self._printed
        )
        self._printed = now
        with tqdm.external_write_mode():
            print(line, flush=True)
        self._log_file.write(line + "\n")
        self._log_file.flush()
        values = {"loss": losses.total, "loss_2d": losses.heat, "loss_PAF": losses.pof, "learning_rate": rate}
        self._events.add_summary(tf.Summary(value=[tf.Summary.Value(tag=k, simple_value=v) for k, v in values.items()]), step)
        if now - self._reported >= _PROGRESS_SECONDS or step == self._last_step:
            images = self._window * self._batch_size / max(now - self._reported, 1e-9)
            left = (self._last_step - step) * (now - self._reported) / self._window
            mfu = ", MFU {:.0f} %".format(100 * images * self._flop / self._peak) if self._peak else ""
            waiting = self._waited / max(now - self._reported, 1e-9)
            slow = ", {:.0f} % of it waiting for data".format(100 * waiting) if waiting > _SHOWN_WAITING else ""
            text = "{:.{}f} images/s, {:.1f} GFLOP/s{}, ETA {}{}".format(
                images, 1 if images >= 1 else 3, images * self._flop / 1e9, mfu, _clock(left), slow
            )
            if self._bar.disable:
                log.info("step %d of %d, loss %.3e, %s", step, self._last_step, losses.total, text)
            else:
                self._bar.set_postfix_str("loss {:.3e}, {}".format(losses.total, text))
            self._events.add_summary(tf.Summary(value=[tf.Summary.Value(tag="images_per_second", simple_value=images)]), step)
            self._reported, self._window, self._waited = now, 0, 0.0
            self._events.flush()


def _cut_off_torn_line(path):
    """Cut a file of lines after its last newline."""
    with open(path, "ab+") as f:
        end = f.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            f.seek(start)
            newline = f.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        f.truncate(end)


def _clock(seconds):
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return "{}:{:02d}:{:02d}".format(minutes // 60, minutes % 60, seconds)
