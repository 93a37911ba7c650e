"""A device."""

import contextlib
from dataclasses import dataclass
from typing import Any

import tensorflow.compat.v1 as tf


@dataclass(frozen=True)
class Device:
    """A device and its session."""

    kind: str
    name: str = ""
    session_config: Any = None

    @contextlib.contextmanager
    def session(self, graph):
        """Yield a tf.Session of a graph on the device."""
        with tf.Session(graph=graph, config=self.session_config) as session:
            yield session
