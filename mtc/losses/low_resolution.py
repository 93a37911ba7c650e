"""The loss of the maps as they leave the network, at 1/8 of the crop's resolution: the same numbers as in full resolution, without
enlarging anything.

The enlargement is linear, U(p) = A p Aᵀ, and so, with w the squared mask and t a channel's target, its squared error is a quadratic form of p:

    sum(w (U(p) - t)^2) = <p, G p> - 2 <p, b> + c,    b = Aᵀ (w t) A,    c = sum(w t^2),
    G[(i, j), (k, l)] = sum over y, x of w[y, x] A[y, i] A[y, k] A[x, j] A[x, l]

G couples cells at most 3 apart and is shared by all channels and stages; b and c are made once an image. The gradient is 2 (G p - b), which the
value needs anyway, so it is written by hand and nothing else is kept for the backward pass. b and c come straight from the joints: a Gaussian is a
product of two 1D factors, and limbs share one mask for their three channels. Only matrix products, pads, sums and multiplications: no resize op.

Accuracy: value and gradient are those of the plain form but for float32 rounding of terms of the size of c. So the error of a loss is about 1e-7 of
the predict-nothing baseline: 1e-6 of the loss early in training, some 1e-4 of it for an almost perfect answer, and never below 0. The gradient does
not suffer: G p - b has no more cancellation than the plain form's U(p) - t.
"""

from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import targets, upsample
from mtc.losses import directions
from mtc.losses import terms as t


class Quadratic(NamedTuple):
    """Squared errors of channels as functions of their maps."""

    bands: tf.Tensor
    """(B, n, n, (2 r + 1) n) float32: G by (sample, row i, column j; row k - i + r, column l), from `bands`."""
    b: tf.Tensor
    """(B, n, n, C) float32."""
    c: tf.Tensor
    """(B, C) float32."""


def losses(maps, labels, terms):
    """Return the `Losses` of a batch. maps: `nets.cpm.Maps`, a list of (B, n, n, C) a stage; labels, terms: see `mtc.losses.terms`."""
    cells = int(maps.heat[0].shape[1])
    weights = tf.square(labels.mask)
    covered = t.sum_pixels(labels.mask[..., None])
    kind = terms.skeleton.heat_upsampling
    coupling = {name: bands(weights, upsample.matrix(cells, kind=name)) for name in ({kind, "bicubic"} if terms.has_3d else {kind})}

    heat_weight = t.joint_weights(labels.valid, terms.background_weight)
    heat_factor = t.coefficients(heat_weight, tf.ones_like(heat_weight), covered)
    heat = Quadratic(coupling[kind], *_heat_terms(labels, weights, upsample.matrix(cells, kind=kind), terms))
    baseline_heat = tf.reduce_sum(heat_factor * heat.c)
    stages = len(maps.heat)
    if terms.pof_is_dead:
        loss_heat = _weigh(squared_errors(maps.heat, heat), heat_factor)
        zero = tf.constant(0.0)
        return t.Losses(total=loss_heat, heat=loss_heat, pof=zero, baseline_heat=baseline_heat, baseline_pof=zero)

    shapes = targets.limb_shapes(labels.uv, labels.xyz, labels.valid, terms.skeleton.limbs, terms.limb_width)
    limb_weight = t.limb_weights(shapes.both_valid)
    as_3d, as_2d = (t.coefficients(limb_weight, counts, covered) for counts in t.pof_counts(labels.is_3d, terms))
    loss_pof, baseline_pof = 0.0, 0.0
    if terms.has_3d:
        pof = Quadratic(coupling["bicubic"], *_pof_terms(shapes, weights, upsample.matrix(cells), terms))
        baseline_pof += tf.reduce_sum(as_3d * pof.c)
    if terms.has_3d and kind == "bicubic":  # one product for both kinds of maps
        both = Quadratic(heat.bands, tf.concat([heat.b, pof.b], axis=3), tf.concat([heat.c, pof.c], axis=1))
        errors = squared_errors([tf.concat(stage, axis=3) for stage in zip(maps.heat, maps.pof)], both)
        heat_errors, pof_errors = tf.split(errors, [int(heat.c.shape[1]), int(pof.c.shape[1])], axis=2)
    else:
        heat_errors = squared_errors(maps.heat, heat)
        pof_errors = squared_errors(maps.pof, pof) if terms.has_3d else None
    loss_heat = _weigh(heat_errors, heat_factor)
    if terms.has_3d:
        loss_pof += _weigh(pof_errors, as_3d)
    if terms.has_2d and not terms.ignore_2d:
        errors, nothing = directions.squared_errors(maps.pof, shapes, weights, terms.limb_width)
        loss_pof += tf.reduce_sum(as_2d * errors) / stages
        baseline_pof += tf.reduce_sum(as_2d * nothing)
    return t.Losses(
        total=loss_heat + terms.pof_weight * loss_pof, heat=loss_heat, pof=loss_pof, baseline_heat=baseline_heat, baseline_pof=baseline_pof
    )


def bands(weights, a):
    """Return G of pixel weights, (B, n, n, (2 r + 1) n) float32; r: how far apart two cells can be that share a pixel.

    weights: (B, S, S) float32; a: (S, n) array from `mtc.upsample.matrix`. Entry (s, i, j, (d, l)) is G[(i, j), (i + d - r, l)] of sample s.
    """
    size, cells = a.shape
    reach = _reach(a)
    of_rows = np.zeros((2 * reach + 1, cells, size), np.float32)
    for d in range(-reach, reach + 1):
        first, last = max(0, -d), min(cells, cells - d)
        of_rows[d + reach, first:last] = (a[:, first:last] * a[:, first + d : last + d]).T
    small = tf.constant(a)  # its products are made by the device: as a constant they would be megabytes of the graph
    of_columns = tf.reshape(small[:, :, None] * small[:, None, :], [size, cells * cells])
    products = tf.matmul(tf.reshape(weights, [-1, size]), of_columns)  # (B S, n n)
    products = tf.matmul(_for_all(of_rows.reshape(-1, size), weights), tf.reshape(products, [-1, size, cells * cells]))
    products = tf.reshape(products, [-1, 2 * reach + 1, cells, cells, cells])
    return tf.reshape(tf.transpose(products, [0, 2, 3, 1, 4]), [-1, cells, cells, (2 * reach + 1) * cells])


def squared_errors(stages, quadratic):
    """Return (B, stages, C) float32: each channel's squared error, weighted and summed over the crop. stages: list of (B, n, n, C) maps."""
    channels = int(quadratic.c.shape[1])
    count = len(stages)
    b, c = tf.tile(quadratic.b, [1, 1, 1, count]), tf.tile(quadratic.c, [1, count])

    p = tf.concat(stages, axis=3)
    fixed = tf.stop_gradient(p)
    difference = _couple(quadratic.bands, fixed) - b
    value = t.sum_pixels(fixed * (difference - b)) + c
    value = tf.where_v2(value < 0, tf.zeros_like(value), value)  # rounding may go below 0; not a maximum, which hides NaN on some devices
    # The gradient by hand: the second term is 0, and its derivative by p is 2 (G p - b). Plain operations, where a custom gradient would need one
    # (IdentityN) that not every device is known to have.
    value += t.sum_pixels((p - fixed) * tf.stop_gradient(2.0 * difference))
    return tf.reshape(value, [-1, count, channels])


def project(maps, a):
    """Return Aᵀ m A, (B, L, n, n), of (B, L, S, S) maps. a: (S, n) array."""
    size, cells = a.shape
    count = int(maps.shape[1])
    columns = tf.reshape(tf.matmul(tf.reshape(maps, [-1, size]), tf.constant(a)), [-1, count, size, cells])
    return tf.matmul(_for_all(a.T, columns), columns)


def _couple(g, p):
    """Return G p, (B, n, n, C), of maps p of that shape."""
    cells = int(p.shape[1])
    reach = (int(g.shape[3]) // cells - 1) // 2
    padded = tf.pad(p, [[0, 0], [reach, reach], [0, 0], [0, 0]])
    return tf.matmul(g, tf.concat([padded[:, d : d + cells] for d in range(2 * reach + 1)], axis=2))


def _heat_terms(labels, weights, a, terms):
    """Return b (B, n, n, J + 1) and c (B, J + 1) of the heat-maps."""
    size, cells = a.shape
    rows, columns = targets.peaks(labels.uv, labels.valid, size, terms.sigma)  # (B, S, J) each
    joints = int(rows.shape[2])
    of_columns = columns[:, :, :, None] * tf.constant(a[None, :, None, :])  # (B, S, J, n)
    over_columns = tf.matmul(weights, tf.reshape(of_columns, [-1, size, joints * cells]))  # (B, S, J n)
    over_columns = tf.transpose(tf.reshape(over_columns, [-1, size, joints, cells]), [0, 2, 1, 3])
    of_rows = tf.transpose(rows, [0, 2, 1])[:, :, None, :] * tf.constant(a.T[None, None])  # (B, J, n, S)
    b = tf.transpose(tf.matmul(of_rows, over_columns), [0, 2, 3, 1])
    c = tf.reduce_sum(tf.square(rows) * tf.matmul(weights, tf.square(columns)), axis=1)
    if terms.background_weight:
        target = targets.background(tf.matmul(rows, columns, transpose_b=True))
        weighted = weights * target
        background_b = tf.transpose(project(weighted[:, None], a), [0, 2, 3, 1])
        background_c = t.sum_pixels((weighted * target)[..., None])
    else:  # weighs nothing
        background_b, background_c = tf.zeros_like(b[..., :1]), tf.zeros_like(c[:, :1])
    return tf.concat([b, background_b], axis=3), tf.concat([c, background_c], axis=1)


def _pof_terms(shapes, weights, a, terms):
    """Return b (B, n, n, 3 L) and c (B, 3 L) of the part orientation fields."""
    size, cells = a.shape
    grid = np.arange(size, dtype=np.float32)
    masks = targets.on_limb(shapes, tf.constant(grid[None, None, None, :]), tf.constant(grid[None, None, :, None]), terms.limb_width)
    b = project(tf.cast(masks, tf.float32) * weights[:, None], a)  # (B, L, n, n)
    covered = tf.reduce_sum(tf.reduce_sum(b, axis=3), axis=2)  # rows of A add up to 1, so this is the sum of w over the limb
    channels = 3 * int(b.shape[1])
    b = tf.transpose(b, [0, 2, 3, 1])[..., None] * shapes.direction[:, None, None]
    c = covered[..., None] * tf.square(shapes.direction)
    return tf.reshape(b, [-1, cells, cells, channels]), tf.reshape(c, [-1, channels])


def _weigh(errors, factor):
    """Return the mean over stages of the weighted errors. errors: (B, stages, C); factor: (B, C)."""
    return tf.reduce_sum(factor[:, None, :] * errors) / int(errors.shape[1])


def _reach(a):
    """How far apart two cells can be that share a pixel."""
    used = a != 0
    cells = np.arange(a.shape[1])
    return int(max(cells[row].max() - cells[row].min() for row in used))


def _for_all(matrix, batch):
    """Return a constant matrix with the leading axes of a batch, (..., rows, columns): products of unequal ranks are not for every device."""
    leading = batch.shape.as_list()[:-2]
    return tf.tile(tf.constant(matrix.reshape([1] * len(leading) + list(matrix.shape))), leading + [1, 1])
