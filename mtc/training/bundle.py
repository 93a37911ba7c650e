"""TensorFlow's Saver bundles from and to arrays on the host.

A checkpoint is written by a graph and a session of their own on the CPU, so that neither the training graph (which accelerators compile) nor the
training session takes part, and a thread can do it while the next steps run. The op is the one that `tf.train.Saver` uses: any tool that reads
TensorFlow's checkpoints reads these.
"""

import errno
import os

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import devices
from mtc.errors import RunFailed


class BundleWriter:
    """Writes bundles of variables with fixed names, types and shapes; for one thread at a time."""

    def __init__(self):
        self._names, self._session = None, None

    def write(self, prefix, values):
        """Write {name: array} under a path prefix. Errors: RunFailed where the disk does not take it."""
        names = sorted(values)
        if names != self._names:
            self._build(names, values)
        try:
            self._session.run(self._save, {self._prefix: prefix, **{self._inputs[name]: values[name] for name in names}})
            self._check(prefix, values)
        except (tf.errors.OpError, OSError) as error:
            raise RunFailed("the checkpoint {} cannot be written: {}".format(os.path.dirname(prefix), _reason(error))) from error

    def close(self):
        """Free the session."""
        if self._session is not None:
            self._session.close()

    def _build(self, names, values):
        self.close()
        with tf.Graph().as_default() as graph, tf.device("/cpu:0"):
            self._prefix = tf.placeholder(tf.string, [])
            self._inputs = {name: tf.placeholder(tf.as_dtype(np.asarray(values[name]).dtype), np.shape(values[name])) for name in names}
            tensors = [self._inputs[name] for name in names]
            self._save = tf.raw_ops.SaveV2(prefix=self._prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
        options = tf.ConfigProto(device_count={"GPU": 0}, inter_op_parallelism_threads=1, use_per_session_threads=True)
        self._session, self._names = tf.Session(graph=graph, config=devices.host_only(options)), names

    @staticmethod
    def _check(prefix, values):
        """A file that is short must not get a digest that vouches for it: compare with what was to be written, type by type, to the byte."""
        wanted = sum(np.asarray(value).nbytes for value in values.values())
        found = os.path.getsize(prefix + ".data-00000-of-00001")
        if found != wanted:
            raise OSError("{}.data-00000-of-00001 has {} of {} bytes".format(prefix, found, wanted))
        shapes = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
        if {name: tuple(shape) for name, shape in shapes.items()} != {name: np.shape(value) for name, value in values.items()}:
            raise OSError("{}.index does not list what was written".format(prefix))


def read(prefix):
    """Return {name: array} of all variables of a bundle."""
    reader = tf.train.load_checkpoint(prefix)
    return {name: np.asarray(reader.get_tensor(name)) for name in sorted(reader.get_variable_to_shape_map())}


def _reason(error):
    """Return what a person wants to know of an error: the system's own words where they are in it, else TensorFlow's first line that says
    something.
    """
    text = str(getattr(error, "message", "") or error)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES):
        if os.strerror(code) in text:
            return os.strerror(code)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Graph execution error")]
    return lines[0] if lines else type(error).__name__
