"""The end of a step: whether its numbers allow it, and the change of weights, Adam's slots, averages and counters if they do.

A step whose loss or gradient is no number changes nothing but global_step (SKIPPED), and that only as long as train.skip_non_finite allows: one too
many, and no step changes anything any more (REFUSED), so that the loop, which learns of it some steps later, finds the state from before the
fault. With a loss scale, a gradient that is not finite is no fault but the sign of a scale that is too high (OVERFLOWED): the step changes
nothing but global_step and the scale, and is not counted as a fault. That is not believed where the loss itself is not finite, or the scale
cannot fall: there the rule above holds.
"""

from typing import List, NamedTuple

import tensorflow.compat.v1 as tf

from mtc.losses import Losses
from mtc.training import loss_scale, optimizer

MADE, SKIPPED, REFUSED, OVERFLOWED = 0, 1, 2, 3
"""What became of a step: made; skipped, its gradient being no number; not made, because that had happened too often; left out by the loss scale."""

AVERAGE = "/ExponentialMovingAverage"
"""What TensorFlow appends to a weight's name for its moving average."""


class Update(NamedTuple):
    """What `build` adds to a graph."""

    op: tf.Operation
    losses: Losses
    facts: tf.Tensor
    """(3,) float32: the gradient's Euclidean norm, the code (MADE …), and the loss scale that the step was made with, 0 where there is none."""
    skipped: tf.Tensor
    """Placeholder: steps that were skipped before this session; for the initialiser of the local variables."""
    local_variables: List[tf.Variable]
    """What is of a session only."""


class StepOptimizer(optimizer.Adam):
    """Our step in the form that optimizers of vendors wrap: gradients come from a function of the factor of the loss, not from a loss."""

    def __init__(self, gradients_of, rate, ema):
        """gradients_of: function of a factor (scalar tensor, or None for 1) that returns (`Losses`, without it, [(gradient of the total, times it,
        variable)]); ema: decay of the weights' moving averages, 0: none.
        """
        super().__init__(rate)
        self._gradients_of, self._ema, self._averages = gradients_of, ema, []
        self.losses, self.allow, self.when_called = None, None, tf.no_op
        variables = tf.trainable_variables()
        self.create_slots(variables)
        if ema:
            for variable in variables:
                name = variable.op.name + AVERAGE
                self._averages.append((tf.get_variable(name, variable.shape, tf.float32, optimizer.given, trainable=False), variable))

    def compute_gradients(self, loss, *_, **__):
        """Return [(gradient, variable)]. loss: a loss of 1, as whoever wraps this has multiplied it: the factor of the losses of all parts."""
        self.losses, gradients = self._gradients_of(loss)
        return gradients

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """Return the op that makes the step where the tensor `allow` says so; and, in any case, what `when_called` adds."""
        called = self.when_called()
        return tf.group(tf.cond(self.allow, lambda: self._make(grads_and_vars), tf.no_op), called)

    def _make(self, gradients):
        # TensorFlow 1 changes weights in place: none may change before the last gradient that reads one is there, which `allow` waits for.
        applied = super().apply_gradients(gradients)
        if not self._averages:
            return applied
        with tf.control_dependencies([applied]):
            moved = [tf.assign_sub(average, (1 - self._ema) * (average - variable.read_value())) for average, variable in self._averages]
        return tf.group(*[tensor.op for tensor in moved])


def build(gradients_of, rate, global_step, config, device, ranks=1):
    """Return the `Update`. gradients_of: see `StepOptimizer`; ranks: processes that make the step together, as `Device.wrap` wants it."""
    step = StepOptimizer(gradients_of, rate, config.train.ema)
    scaling = loss_scale.of_config(config)
    outer, kept = device.wrap(step, scaling, ranks)
    skipped = tf.placeholder(tf.int32, [], "skipped")
    counter = tf.Variable(skipped, trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES], name="skipped_steps")
    so_far, most = tf.identity(counter), config.train.skip_non_finite
    if kept is None:
        op, code, counted, facts, more = _build_step(step, outer, scaling, so_far, most)
    else:
        op, code, counted, facts, more = _build_wrapped_step(step, outer, scaling, kept, so_far, most)
    advance = tf.assign_add(global_step, tf.cast(tf.not_equal(code, REFUSED), tf.int32))
    return Update(tf.group(op, tf.assign(counter, counted), advance), step.losses, facts, skipped, [counter] + more)


def _build_step(step, outer, scaling, so_far, most):
    """Return (op, code, steps skipped with this one, `Update.facts`, [local variable]); the loss scale, if any, is ours."""
    scale = loss_scale.Scale(scaling) if scaling else None
    gradients = outer.compute_gradients(scale.value if scale else None)
    if scale:
        gradients = [(gradient / scale.value, variable) for gradient, variable in gradients]
    norm = _norm(gradients)
    finite, loss_is_finite = _finite(norm), _finite(step.losses.total)
    overflowed = tf.logical_not(finite) & loss_is_finite & _can_fall(scaling, scale.value) if scale else tf.constant(False)
    code, counted = _judge(tf.logical_not(finite & loss_is_finite), overflowed, so_far, most)
    facts = tf.stack([norm, tf.cast(code, tf.float32), scale.value if scale else 0.0])
    step.allow = tf.equal(code, MADE)
    op = outer.apply_gradients(gradients)
    if scale:
        op = tf.group(op, scale.update(finite, frozen=tf.equal(code, REFUSED), after=[facts]))
    return op, code, counted, facts, []


def _build_wrapped_step(step, outer, scaling, kept, so_far, most):
    """As `_build_step`, where the device's optimizer keeps the loss scale and calls our step only when nothing has overflowed.

    Its scale is not told that steps are REFUSED: of a run that ends with a fault, the scale may be that of some steps later.
    """
    outcome = tf.Variable(OVERFLOWED, trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES], name="outcome")
    gradients = outer.compute_gradients(tf.constant(1.0))
    norm = _norm(gradients)
    loss_is_finite = _finite(step.losses.total)
    good = _finite(norm) & loss_is_finite
    step.allow = good & (so_far <= most)
    step.when_called = lambda: tf.assign(outcome, tf.where_v2(good, MADE, SKIPPED)).op
    # A copy, of what is never below 1: the optimizer's variable is changed in place, and all that is only read from it is a view of it.
    scale = tf.maximum(kept, 1.0)
    with tf.control_dependencies([scale, tf.assign(outcome, OVERFLOWED)]):
        op = outer.apply_gradients(gradients)
    with tf.control_dependencies([op]):
        left_out = tf.equal(outcome.read_value(), OVERFLOWED)
    overflowed = left_out & loss_is_finite & _can_fall(scaling, scale)
    code, counted = _judge(left_out | tf.logical_not(good), overflowed, so_far, most)
    return op, code, counted, tf.stack([norm, tf.cast(code, tf.float32), scale]), [outcome]


def _norm(gradients):
    return tf.sqrt(2.0 * tf.add_n([tf.nn.l2_loss(gradient) for gradient, _ in gradients]))


def _finite(value):
    """Return whether a number is one. By a comparison, which every device has: IsFinite is slow on NPUs and said to tell nothing there."""
    return tf.abs(value) <= tf.float32.max


def _can_fall(scaling, scale):
    return scale > 1.0 if scaling.dynamic else tf.constant(False)


def _judge(failed, overflowed, so_far, most):
    """Return (code, number of skipped steps with this one). failed: the step cannot be made, be it because it has overflowed."""
    fault = failed & tf.logical_not(overflowed)
    counted = so_far + tf.cast(fault & (so_far <= most), tf.int32)  # most + 1: it is over
    code = tf.where_v2(fault, SKIPPED, tf.where_v2(overflowed, OVERFLOWED, MADE))
    return tf.where_v2(counted > most, REFUSED, code), counted
