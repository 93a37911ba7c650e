"""What chance decides about a sample: where its crop lies, how it is turned and mirrored, and how its pixels look.

All numbers of a sample are drawn in one fixed order whatever is switched on, the jitter of the crop first, so switching one thing on, or making it
stronger, changes nothing else of a run. What is drawn about geometry is carried out by `mtc.data.crop` in its one warp; here only colours change.
"""

from typing import NamedTuple, Optional, Tuple

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])
"""Grey of an RGB colour (ITU-R BT.601); saturation and hue leave it as it is."""

_CHROMA = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""I and Q of an RGB colour (NTSC): 0 for greys, and a turn of (I, Q) is a turn of the hue."""

_FROM_YIQ = np.linalg.inv(np.vstack([LUMA, _CHROMA]))
_TO_GREY = _FROM_YIQ[:, :1] @ LUMA[None]
_COLOURFUL = _FROM_YIQ[:, 1:] @ _CHROMA
_TURNED = _FROM_YIQ[:, 1:] @ np.array([[0.0, -1], [1, 0]]) @ _CHROMA
"""A colour is its grey and what it has besides; the last of the three matrices gives that turned by a quarter of the colour circle."""

_PATCH = 8
"""Side of the noise that is enlarged to fill a hiding rectangle."""


class Drawn(NamedTuple):
    """All random numbers of one sample; the default is a sample as it is."""

    stretch: float = 1.0
    """Factor of the crop's side."""
    offset: Tuple[float, float] = (0.0, 0.0)
    """Move of the crop's centre in half sizes of the person."""
    turn: float = 0.0
    """Degrees, counter-clockwise."""
    flip: bool = False
    colour: Optional[np.ndarray] = None
    """(3, 4) float64: RGB, 0 … 255, to RGB; None: as it is."""
    blur: float = 0.0
    """Standard deviation in pixels of the crop."""
    hidden: Optional[Tuple[float, float, float, float]] = None
    """Left, top, width and height of a rectangle over the crop's side, or None."""
    patch: Optional[np.ndarray] = None
    """(8, 8, 3) or (1, 1, 3) uint8 that fills it."""


NOTHING = Drawn()


def draw(rng, config):
    """Return what is `Drawn` for a sample from a numpy RandomState; None: nothing is."""
    if rng is None:
        return NOTHING
    wanted = config.augment
    stretch, offset = jitter(rng, config.data.crop_scale_sigma, config.data.crop_offset_sigma)
    share = rng.random_sample(14)
    patch = np.frombuffer(rng.bytes(_PATCH * _PATCH * 3), np.uint8).reshape(_PATCH, _PATCH, 3)
    either_way = 2 * share[:5] - 1
    strengths = wanted.brightness, wanted.contrast, wanted.saturation, wanted.hue
    hidden = None
    if share[8] < wanted.occlude:
        width, height = (1 - 0.75 * share[9:11]) * wanted.occlude_size  # a quarter of the largest at least: a thinner one hides nothing
        hidden = tuple(map(float, (share[11] * (1 - width), share[12] * (1 - height), width, height)))
    return Drawn(
        stretch=stretch,
        offset=offset,
        turn=float(wanted.rotate * either_way[0]),
        flip=bool(share[5] < wanted.flip),
        colour=colour_matrix(*(strengths * either_way[1:])) if any(strengths) else None,
        blur=float(wanted.blur_sigma * (1 - share[7])) if share[6] < wanted.blur else 0.0,
        hidden=hidden,
        patch=patch if share[13] < 0.5 else patch[:1, :1],
    )


def jitter(rng, scale_sigma, offset_sigma):
    """Draw (stretch of the side: float, offset of the centre: (2,) float64 in half sizes of the person).

    Normals of these standard deviations, drawn again outside two of them; the stretch is the exponential of one.
    """
    normals = []
    while len(normals) < 3:
        normal = rng.standard_normal()
        if abs(normal) <= 2:
            normals.append(normal)
    return float(np.exp(scale_sigma * normals[0])), offset_sigma * np.array(normals[1:])


def colour_matrix(brightness, contrast, saturation, hue):
    """Return the (3, 4) float64 matrix that changes RGB colours, 0 … 255, by all four at once; of zeros it is the identity.

    brightness, contrast, saturation: factors less 1; hue: turns of the colour circle. All are linear, so that they cost one pass over the pixels.
    """
    angle = 2 * np.pi * hue
    besides = (1 + saturation) * (np.cos(angle) * _COLOURFUL + np.sin(angle) * _TURNED)
    matrix = np.empty((3, 4))
    matrix[:, :3] = (1 + contrast) * (1 + brightness) * (_TO_GREY + besides)
    matrix[:, 3] = -127.5 * contrast
    return matrix


def spoil(image, drawn):
    """Blur the crop (S, S, 3) uint8 and hide a part of it, in place."""
    if drawn.blur:
        cv2.GaussianBlur(image, (0, 0), drawn.blur, dst=image)
    if drawn.hidden:
        size = len(image)
        left, top, right, bottom = (int(round(size * edge)) for edge in _edges(drawn.hidden))
        if right > left and bottom > top:
            image[top:bottom, left:right] = cv2.resize(drawn.patch, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)


def _edges(hidden):
    left, top, width, height = hidden
    return left, top, left + width, top + height
