"""The loss scale: the loss is multiplied by it before the gradient is taken, and the gradient divided by it after, in float32.

Gradients below 6e-8 vanish in float16, those above 65504 are infinite there. A dynamic scale stays just below what overflows: a step whose gradient
is not finite changes nothing, and after so many of them the scale falls; after so many good ones it grows. The rule, and the variables' names and
types, are those of CANN's ExponentialUpdateLossScaleManager (facts/ascend.md §3.4), so that checkpoints of all devices agree. Source of the method:
Micikevicius et al. 2018, "Mixed precision training".
"""

from typing import NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf

from mtc.snapshot import LOSS_SCALE

_LARGEST = 3.4e38


class Scaling(NamedTuple):
    """How a run scales its loss."""

    dynamic: bool
    initial: float
    factor: float
    increase_every: int
    decrease_after: int


class Scale:
    """The loss scale in a graph."""

    def __init__(self, scaling):
        """Create its variables, where it is dynamic."""
        self._scaling, self._variables = scaling, []
        if scaling.dynamic:
            for name, value in initial_values(scaling).items():
                initializer = tf.constant_initializer(value)
                self._variables.append(tf.get_variable(name, [], tf.as_dtype(value.dtype), initializer, trainable=False))
            self.value = tf.identity(self._variables[0])
        else:
            self.value = tf.constant(scaling.initial, tf.float32)

    def update(self, finite, frozen, after):
        """Return the op that lets the scale follow.

        finite, frozen: bool tensors: whether the step's gradient was, whether nothing may change any more; after: what has to have read the scale.
        """
        if not self._variables:
            return tf.no_op()
        scale, good, bad = old = [variable.read_value() for variable in self._variables]
        zero = tf.zeros_like(good)
        good, bad = tf.where_v2(finite, good + 1, zero), tf.where_v2(finite, bad, bad + 1)
        over = tf.where_v2(finite, good >= self._scaling.increase_every, bad >= self._scaling.decrease_after)
        grown = tf.where_v2(scale < _LARGEST / self._scaling.factor, scale * self._scaling.factor, scale)
        fallen = tf.maximum(1.0, scale / self._scaling.factor)
        new = [tf.where_v2(over, tf.where_v2(finite, grown, fallen), scale), tf.where_v2(over, zero, good), tf.where_v2(over, zero, bad)]
        new = [tf.where_v2(frozen, before, value) for before, value in zip(old, new)]
        with tf.control_dependencies(new + list(after)):
            return tf.group(*[tf.assign(variable, value).op for variable, value in zip(self._variables, new)])


def of_config(config) -> Optional[Scaling]:
    """Return the `Scaling` of a `mtc.sections.Config`, or None: the loss is not scaled."""
    section = config.loss_scale
    mode = section.mode
    if mode == "auto":
        mode = "dynamic" if config.train.precision == "mixed_fp16" else "none"
    if mode == "none":
        return None
    return Scaling(mode == "dynamic", section.initial, section.factor, section.increase_every, section.decrease_after)


def initial_values(scaling):
    """Return {name: array} of the variables before the first step; none where there are none."""
    if scaling is None or not scaling.dynamic:
        return {}
    return dict(zip(LOSS_SCALE, (np.array(scaling.initial, np.float32), np.array(0, np.int32), np.array(0, np.int32))))
