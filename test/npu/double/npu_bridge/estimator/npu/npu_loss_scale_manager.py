"""Double of npu_bridge.estimator.npu.npu_loss_scale_manager (facts §3.4)."""

import tensorflow.compat.v1 as tf
from npu_double import recorder, sessions
from npu_double.recorder import recorded

_LARGEST = 3.4e38


def _at_least_one(scale):
    if scale < 1:
        raise ValueError("the loss scale is {}; it has to be at least 1".format(scale))


class FixedLossScaleManager:
    """A constant."""

    @recorded("FixedLossScaleManager", phase="graph")
    def __init__(self, loss_scale, enable_overflow_check=True):
        _at_least_one(loss_scale)
        self._scale, self._check = tf.convert_to_tensor(loss_scale, tf.float32), enable_overflow_check

    def get_loss_scale(self):
        """Return the scale, a float32 tensor."""
        return self._scale

    def get_enable_overflow_check(self):
        """Whether steps that overflow are skipped."""
        return self._check

    def update_loss_scale(self, finite_grads):
        """Return an operation that does nothing."""
        del finite_grads
        return tf.no_op()


class ExponentialUpdateLossScaleManager:
    """Grows after a number of good steps, shrinks after a number of bad ones."""

    @recorded("ExponentialUpdateLossScaleManager", phase="graph")
    def __init__(self, init_loss_scale, incr_every_n_steps, decr_every_n_nan_or_inf=2, incr_ratio=2, decr_ratio=0.8):
        _at_least_one(init_loss_scale)
        if tf.get_default_graph()._current_control_dependencies():
            recorder.lint(
                "manager-in-control-dependencies", "the loss scale's manager is made inside tf.control_dependencies: 'Placeholder not support'"
            )
        self._every, self._bad_every, self._up, self._down = incr_every_n_steps, decr_every_n_nan_or_inf, incr_ratio, decr_ratio
        self._scale = _variable("loss_scale", float(init_loss_scale), tf.float32)
        self._good = _variable("good_steps", 0, tf.int32)
        self._bad = _variable("bad_steps", 0, tf.int32)
        sessions.keeps_scale(self._scale.graph, [self._scale, self._good, self._bad])

    def get_loss_scale(self):
        """Return the scale, a float32 variable."""
        return self._scale

    def get_enable_overflow_check(self):
        """Whether steps that overflow are skipped: yes."""
        return True

    def update_loss_scale(self, finite_grads):
        """Return the operation that counts a step in.

        finite: good+1; at N good steps the scale times incr_ratio, if that is below 3.4e38, and both counters at 0. Not finite: bad+1 and
        good=0; at M bad ones the scale max(1, scale times decr_ratio), and both at 0. Without tf.cond: its version 2 takes no such variables.
        """
        scale, good, bad = tf.identity(self._scale), tf.identity(self._good), tf.identity(self._bad)
        grow, shrink = good + 1 >= self._every, bad + 1 >= self._bad_every
        larger = scale * self._up
        larger = tf.where(larger < _LARGEST, larger, scale)
        smaller = tf.maximum(1.0, scale * self._down)
        new_scale = tf.where(finite_grads, tf.where(grow, larger, scale), tf.where(shrink, smaller, scale))
        new_good = tf.where(finite_grads, tf.where(grow, 0, good + 1), 0)
        new_bad = tf.where(finite_grads, tf.where(grow, 0, bad), tf.where(shrink, 0, bad + 1))
        with tf.control_dependencies([new_scale, new_good, new_bad]):
            return tf.group(self._scale.assign(new_scale), self._good.assign(new_good), self._bad.assign(new_bad))


def _variable(name, value, dtype):
    return tf.Variable(value, trainable=False, dtype=dtype, name=name, use_resource=False)
