"""What becomes of the sessions of several ranks."""

import gc
import weakref

import tensorflow.compat.v1 as tf

from mtc import config as configuration
from mtc import devices
from mtc.training.ranks import collectives, link


def test_a_session_outlives_what_refers_to_it(monkeypatch):
    """Closing it would wait for servers of ranks that have ended before this one, perhaps for ever."""
    monkeypatch.setattr(collectives, "_open", [])
    device = devices.select(configuration.load("demo", ["train.device=cpu", "train.threads=1"]), 1)
    made = collectives.Collectives(0, ["127.0.0.1:{}".format(link.free_port())], device, 1000)
    with tf.Graph().as_default() as graph, made.session(graph) as session:
        left = weakref.ref(session)
    del session, made
    gc.collect()
    assert left() is not None
