"""Draws figures as images: cluttered backgrounds, tapered limbs with a texture, nearer parts over farther ones, and the mask of each figure.

Each part of a body has its own hue, with jitter from figure to figure, and right and left differ: a stand-in for what real images say by
shape and clothing, so that a small network can learn it in minutes.
"""

import colorsys
from typing import NamedTuple, Tuple

import cv2
import numpy as np


class Part(NamedTuple):
    """A tapered capsule between two joints."""

    start: int
    end: int
    widths: Tuple[float, float]
    """Half-widths at both ends, centimetres."""
    hue: float


BODY_PARTS = (
    Part(8, 9, (8.0, 6.0), 0.02), Part(9, 10, (5.5, 3.5), 0.07), Part(11, 12, (8.0, 6.0), 0.55), Part(12, 13, (5.5, 3.5), 0.60),
    Part(2, 3, (5.0, 4.0), 0.95), Part(3, 4, (4.0, 3.0), 0.88), Part(5, 6, (5.0, 4.0), 0.45), Part(6, 7, (4.0, 3.0), 0.38),
    Part(1, 19, (12.0, 11.0), 0.28), Part(2, 19, (9.0, 9.0), 0.28), Part(5, 19, (9.0, 9.0), 0.28), Part(8, 19, (9.0, 9.0), 0.75),
    Part(11, 19, (9.0, 9.0), 0.75), Part(1, 18, (6.0, 9.0), 0.13), Part(0, 18, (7.0, 8.0), 0.13),
)  # fmt: skip
_FACE = (
    (0, 1.6, (0.0, 0.7, 0.6)),
    (14, 1.5, (0.95, 0.8, 0.35)),
    (15, 1.5, (0.5, 0.8, 0.35)),
    (16, 2.0, (0.9, 0.6, 0.8)),
    (17, 2.0, (0.42, 0.6, 0.8)),
)
"""Dots on the head: joint, radius in centimetres, hue, saturation and value."""

HAND_PARTS = tuple(
    [Part(0, 4 * f + 4, (2.6, 1.4), 0.08) for f in range(5)]
    + [Part(4 * f + 4 - i, 4 * f + 3 - i, (1.1 - 0.1 * i, 1.0 - 0.1 * i), (0.05 + 0.19 * f + 0.03 * i) % 1.0) for f in range(5) for i in range(3)]
)


def background(rng, height, width):
    """Return (height, width, 3) uint8 RGB: coarse noise with random shapes, some as bright and as long as limbs."""
    coarse = rng.randint(30, 200, (rng.randint(2, 7), rng.randint(2, 7), 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.randint(8, 24)):
        colour = tuple(int(c) for c in rng.randint(0, 256, 3))
        a = tuple(int(c) for c in rng.randint(0, [width, height]))
        b = tuple(int(c) for c in np.array(a) + rng.randint(-width // 4, width // 4 + 1, 2))
        shape = rng.randint(4)
        if shape == 0:
            cv2.rectangle(image, a, b, colour, -1)
        elif shape == 1:
            cv2.ellipse(
                image,
                a,
                (int(rng.randint(3, width // 8)), int(rng.randint(3, width // 8))),
                float(rng.uniform(0, 180)),
                0,
                360,
                colour,
                -1,
                cv2.LINE_AA,
            )
        else:
            cv2.line(image, a, b, colour, int(rng.randint(1, max(2, width // 40))), cv2.LINE_AA)
    noise = rng.randint(-12, 13, (height, width, 1), dtype=np.int16)
    return np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def draw(rng, image, uv, depth, pixels_per_cm, parts, face=False):
    """Draw one figure into `image` (H, W, 3) uint8 and return its mask (H, W) bool.

    uv: (J, 2) pixels; depth: (J,) distance from the camera; pixels_per_cm: size at the figure's distance.
    """
    mask = np.zeros(image.shape[:2], np.uint8)
    tint = rng.uniform(-0.03, 0.03)
    light = rng.uniform(0.7, 1.0)
    stripes = rng.randint(0, 5)
    for part in sorted(parts, key=lambda p: -(depth[p.start] + depth[p.end])):
        widths = [max(0.8, w * pixels_per_cm) for w in part.widths]
        outline = _capsule(uv[part.start], uv[part.end], widths)
        colour = _rgb(part.hue + tint + rng.uniform(-0.015, 0.015), rng.uniform(0.6, 0.95), light * rng.uniform(0.75, 1.0))
        shade = tuple(int(0.6 * c) for c in colour)
        cv2.fillPoly(image, [outline], colour, cv2.LINE_AA, shift=4)
        cv2.fillPoly(mask, [outline], 255, cv2.LINE_8, shift=4)
        for k in range(1, stripes + 1):  # rings around the limb
            at = uv[part.start] + (uv[part.end] - uv[part.start]) * k / (stripes + 1.0)
            side = _normal(uv[part.start], uv[part.end]) * (widths[0] + (widths[1] - widths[0]) * k / (stripes + 1.0)) * 0.9
            cv2.line(image, _fixed(at - side), _fixed(at + side), shade, max(1, int(0.25 * widths[0])), cv2.LINE_AA, shift=4)
    if face:
        for joint, radius, (hue, saturation, value) in _FACE:
            if depth[joint] <= depth[1] + 6:  # the far side of the head hides it
                cv2.circle(
                    image, _fixed(uv[joint]), int(16 * max(0.8, radius * pixels_per_cm)), _rgb(hue, saturation, value), -1, cv2.LINE_AA, shift=4
                )
    return mask > 0


def _capsule(a, b, widths):
    """Outline of a tapered capsule as (n, 1, 2) int32 in 1/16 pixels."""
    normal = _normal(a, b)
    along = np.array([normal[1], -normal[0]])
    angles = np.linspace(-np.pi / 2, np.pi / 2, 7)
    cap_b = [b + widths[1] * (np.cos(t) * along + np.sin(t) * normal) for t in angles]
    cap_a = [a - widths[0] * (np.cos(t) * along + np.sin(t) * normal) for t in angles]
    return np.round(16 * np.array(cap_b + cap_a)).astype(np.int32)[:, None, :]


def _normal(a, b):
    """A unit vector at right angles to b - a; `_capsule` needs along = (normal.y, -normal.x) to point from a to b."""
    d = (b - a) / max(np.linalg.norm(b - a), 1e-6)
    return np.array([-d[1], d[0]]) if np.any(d) else np.array([0.0, 1.0])


def _fixed(point):
    return int(round(16 * float(point[0]))), int(round(16 * float(point[1])))


def _rgb(hue, saturation, value):
    return tuple(int(round(255 * c)) for c in colorsys.hsv_to_rgb(hue % 1.0, min(saturation, 1.0), min(value, 1.0)))
