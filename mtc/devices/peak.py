"""What a device can do: its own rate of float32 matrix products, measured, as the yardstick of a run's MFU (model FLOP utilisation)."""

import time

import tensorflow.compat.v1 as tf

_SIDES = {"cpu": 1536, "gpu": 8192}
"""Side of the square matrices: large enough for the full rate, half a second in all."""
_ROUNDS = 8


def measure(kind, session_config):
    """Return FLOP/s of the device that the session configuration is for, or None for an NPU, whose compiler would take longer than the
    answer is worth.
    """
    if kind not in _SIDES:
        return None
    side = _SIDES[kind]
    with tf.Graph().as_default():
        a = tf.Variable(tf.fill([side, side], 1.0 / side), trainable=False)
        product = tf.matmul(a, a).op
        with tf.Session(config=session_config) as session:
            session.run(a.initializer)
            seconds = []
            for _ in range(_ROUNDS):
                started = time.perf_counter()
                session.run(product)
                seconds.append(time.perf_counter() - started)
    return 2.0 * side**3 / min(seconds)
