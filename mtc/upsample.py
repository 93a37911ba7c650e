"""The enlargement of 1/8-resolution maps to the size of the crop, as a fixed matrix: U(x) = A x Aᵀ.

TensorFlow 1's legacy resize (align_corners=False, half_pixel_centers=False) puts cell k at pixel 8k. It is linear and separable, so one
matrix A, (8n, n), says it all: bicubic with Keys' kernel, a = -0.75, edges repeated; or bilinear. As a matrix it needs no resize op, has a
matrix product as its gradient, and gives the same numbers on every device (source: facts of the reference, held by golden numbers).
"""

import numpy as np

FACTOR = 8
"""Pixels of the crop a cell of a network's map."""

_KEYS_A = -0.75


def matrix(cells, factor=FACTOR, kind="bicubic"):
    """Return A, (factor * cells, cells) float32: row i holds the weights of the cells in output pixel i. kind: "bicubic" or "bilinear"."""
    weights = np.zeros((factor * cells, cells), np.float64)
    taps = {"bicubic": range(-1, 3), "bilinear": range(0, 2)}[kind]
    kernel = {"bicubic": _keys, "bilinear": _triangle}[kind]
    for pixel in range(factor * cells):
        cell, phase = divmod(pixel, factor)
        for tap in taps:
            weights[pixel, min(max(cell + tap, 0), cells - 1)] += kernel(abs(phase / float(factor) - tap))
    return weights.astype(np.float32)


def upsample(maps, a):
    """Return U(maps): (B, n, n, C) -> (B, 8n, 8n, C) tensors, with A from `matrix`."""
    import tensorflow.compat.v1 as tf

    n, size = a.shape[1], a.shape[0]
    channels = maps.shape[-1].value if hasattr(maps.shape[-1], "value") else maps.shape[-1]
    a = tf.constant(a)
    # rows: (8n, n) x (n, B n C); columns: the same after a transposition. Two matrix products and nothing else.
    rows = tf.matmul(a, tf.reshape(tf.transpose(maps, [1, 0, 2, 3]), [n, -1]))
    rows = tf.reshape(rows, [size, -1, n, channels])
    columns = tf.matmul(a, tf.reshape(tf.transpose(rows, [2, 1, 0, 3]), [n, -1]))
    return tf.transpose(tf.reshape(columns, [size, -1, size, channels]), [1, 2, 0, 3])


def _keys(x):
    if x < 1:
        return ((_KEYS_A + 2) * x - (_KEYS_A + 3)) * x * x + 1
    return ((_KEYS_A * x - 5 * _KEYS_A) * x + 8 * _KEYS_A) * x - 4 * _KEYS_A


def _triangle(x):
    return 1 - x
