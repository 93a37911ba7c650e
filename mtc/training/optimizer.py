"""The learning-rate schedule and the optimiser: TensorFlow 1's Adam (β1 0.9, β2 0.999, ε 1e-8, "ε-hat" form), no decay, no clipping.

Source: facts of the reference; Kingma & Ba 2015, the last paragraph of section 2 for the form.
"""

import tensorflow.compat.v1 as tf


def learning_rate(step, rates, boundaries, legacy=False):
    """Return the learning rate of step `step` (the first step of a run from scratch is 1).

    Step boundaries[i] is the last with rates[i]. legacy: of exactly two rates, the first holds one step longer (the reference compares with >, and
    with >= where there are more than two).
    """
    late = 1 if legacy and len(rates) == 2 else 0
    return rates[sum(step > boundary + late for boundary in boundaries)]


def given(shape, dtype=tf.float32, **_):
    """Initialise a variable with what is fed: a placeholder. A third fewer operations than a value that is replaced at once."""
    return tf.placeholder(dtype, shape)


class Adam(tf.train.AdamOptimizer):
    """The optimiser; its slots are named `<variable>/Adam` (m) and `<variable>/Adam_1` (v) as in the published snapshots."""

    def create_slots(self, variables):
        """Create the slots now, by their plain names: where steps are made on a condition, names would get that condition's scope."""
        self._create_slots(variables)

    def _zeros_slot(self, var, slot_name, op_name):
        return self._get_or_make_slot_with_initializer(var, given, var.shape, var.dtype.base_dtype, slot_name, op_name)
