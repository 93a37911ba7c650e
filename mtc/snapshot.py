"""Weights from a TensorFlow checkpoint with the reference's variable names, checked name by name before anything is assigned.

Rules (facts of the reference, load_ckpt): variables whose name contains a `discard` text are left out; in each other name the first
occurrence of each `rename` key is replaced. What is left must exist here with the same shape. Every weight must be there, unless it was
discarded; Adam's slots come all or not at all (discarding one kind discards all).
"""

import logging

import numpy as np
import tensorflow.compat.v1 as tf

from mtc.errors import UserError

log = logging.getLogger("mtc.snapshot")

_ADAM = ("/Adam", "/Adam_1", "beta1_power", "beta2_power")
_AVERAGE = "/ExponentialMovingAverage"
"""Averages of weights are taken over where both sides have them, and left out else."""
LOSS_SCALE = ("loss_scale", "good_steps", "bad_steps")
"""Variables of a dynamic loss scale: it belongs to a run and its precision, so it is never taken over."""
_LISTED = 8


def read(prefix, shapes, discard=(), rename=None, adam=True):
    """Return {name: array} to assign from the checkpoint `prefix`.

    shapes: {name: shape} of all global variables here. Errors: UserError lists what is missing, unknown or of another shape.
    """
    reader, taken, step, discarded = _matched(prefix, shapes, discard, rename, adam)
    log.info("Discarded %d items", len(discarded))
    log.info("Initialized %d variables from %s%s.", len(taken), prefix, "" if step is None else " (its global_step is {})".format(step))
    return {name: np.asarray(reader.get_tensor(source)) for name, source in sorted(taken.items())}


def check(prefix, variables, discard=(), rename=None, adam=True):
    """Return how many variables `read` would take, without reading any.

    variables: [(name, shape)] of the network's weights. Errors: as `read`.
    """
    shapes = dict(variables, beta1_power=(), beta2_power=(), global_step=())
    shapes.update({name + slot: shape for name, shape in variables for slot in _ADAM[:2]})
    return len(_matched(prefix, shapes, discard, rename, adam)[1])


def _matched(prefix, shapes, discard, rename, adam):
    """Return (reader, {name here: name there}, global_step or None, names that are discarded)."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        found = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(
            "snapshot {} is not a TensorFlow checkpoint that can be read: {}".format(prefix, " ".join(str(error).split())[:300])
        ) from None
    if any(_is_adam(name) and any(text in name for text in discard) for name in found):
        adam = False  # one moment without the other, or without its bias correction, is worse than none
    discarded = sorted(name for name in found if any(text in name for text in discard))
    taken = {_renamed(name, rename or {}): name for name in found if name not in set(discarded)}
    taken = {name: source for name, source in taken.items() if not name.endswith(_AVERAGE) or name in shapes}
    taken = {name: source for name, source in taken.items() if name not in LOSS_SCALE}
    if not adam:
        taken = {name: source for name, source in taken.items() if not _is_adam(name)}
    step = int(reader.get_tensor(taken.pop("global_step"))) if "global_step" in taken else None

    unknown = sorted(name for name in taken if name not in shapes)
    other = sorted(name for name, source in taken.items() if name in shapes and tuple(found[source]) != tuple(shapes[name]))
    expected = {name for name in shapes if name != "global_step" and not name.endswith(_AVERAGE) and name not in LOSS_SCALE}
    if not any(_is_adam(name) for name in taken):
        expected = {name for name in expected if not _is_adam(name)}
    left_out = {_renamed(name, rename or {}) for name in discarded}
    missing = sorted(expected - set(taken) - left_out)
    problems = []
    if missing:
        problems.append("missing: " + _list(missing))
    if other:
        problems.append("of another shape: " + _list("{} {}, here {}".format(n, list(found[taken[n]]), list(shapes[n])) for n in other))
    if unknown:
        problems.append("not in this network: " + _list(unknown))
    if problems:
        raise UserError(
            "snapshot {} does not fit this network ({}); change model.*, snapshot.discard or snapshot.rename, or set snapshot.uri=none".format(
                prefix, "; ".join(problems)
            )
        )
    return reader, taken, step, discarded


def _is_adam(name):
    return name.endswith(_ADAM)


def _renamed(name, rename):
    for old, new in rename.items():
        name = name.replace(old, new, 1)
    return name


def _list(names):
    names = list(names)
    more = "" if len(names) <= _LISTED else " and {} more".format(len(names) - _LISTED)
    return ", ".join(names[:_LISTED]) + more
