"""TensorBoard events, written at once: TFRecords of `tf.Event`, the first one with the format's version (tensorflow/core/util/events_writer.cc).

TensorFlow's own FileWriter hands events to a thread; where the disk is full the thread dies, and training hangs on its queue or gets the error at a
later call, as the version will have it. Curves are not worth a run: here the first failure is told once, and no more is written.
"""

import contextlib
import logging
import os
import socket
import time

import tensorflow.compat.v1 as tf

log = logging.getLogger("mtc.training")

_FORMAT = "brain.Event:2"


def file_name():
    """Return the name of a new file of events, by which TensorBoard finds it and puts the files of a run in order."""
    return "events.out.tfevents.{:010d}.{}.{}".format(int(time.time()), socket.gethostname(), os.getpid())


class EventFile:
    """A new file of events in a folder. No method raises for a disk that fails."""

    def __init__(self, folder):
        self._path = os.path.join(folder, file_name())
        self._writer = None
        with self._giving_up():
            os.makedirs(folder, exist_ok=True)
            self._writer = tf.python_io.TFRecordWriter(self._path)
            self._write(tf.Event(wall_time=time.time(), file_version=_FORMAT))
            self._writer.flush()

    def add(self, step, values):
        """Add numbers {tag: value} of a step."""
        if self._writer:
            summary = tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
            with self._giving_up():
                self._write(tf.Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self):
        """Hand everything to the kernel."""
        if self._writer:
            with self._giving_up():
                self._writer.flush()

    def close(self):
        """Flush and close; what is added later is left out."""
        if self._writer:
            with self._giving_up():
                self._writer.close()
        self._writer = None

    def _write(self, event):
        self._writer.write(event.SerializeToString())

    @contextlib.contextmanager
    def _giving_up(self):
        try:
            yield
        except (tf.errors.OpError, OSError) as error:
            reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
            log.warning("TensorBoard's events cannot be written to %s: %s; training goes on without them", self._path, reason)
            writer, self._writer = self._writer, None
            if writer:
                with contextlib.suppress(tf.errors.OpError, OSError):
                    writer.close()
