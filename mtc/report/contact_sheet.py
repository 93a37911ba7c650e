"""Contact sheets: what the network is shown and what it should answer, as pictures that need no explanation.

The panels of a sample are its crop with the skeleton, the mask, the heat-maps and the part orientation fields; `sheet` lays panels out in rows and
columns with captions and legends. A field's x and y are a colour wheel: hue is the direction in the image, saturation the length there, so that
a limb that points at the camera or away from it is white; z has a diverging map of its own. Drawing only: no files, no randomness.
"""

from typing import Dict, List, NamedTuple, Optional

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mtc.report import pictures
from mtc.report.charts import INK, MUTED

IGNORED = (224, 49, 82)
"""RGB over pixels that do not count in the loss."""
NEAR, LEVEL, FAR = (217, 95, 2), (247, 247, 247), (33, 102, 200)
"""RGB of fields that point at the camera, along the image, away from the camera."""
DIM = 0.35
"""Brightness of the crop under heat-maps and fields."""

MARGIN, GAP, TITLE, HEADING, LEGEND, CAPTION, FOOTNOTE = 20, 8, 52, 24, 92, 28, 20
"""Pixels: around the sheet, between panels, and the heights of its strips of text."""
_DPI = 64
"""A power of two: width / _DPI inches are exactly so many pixels."""


class Row(NamedTuple):
    """One line of panels."""

    caption: str
    panels: List[np.ndarray]
    """(H, W, 3) uint8 RGB, of one size in the whole sheet."""
    notes: Dict[int, str]
    """Words across the panel of a column."""


class Column(NamedTuple):
    """What stands above a column."""

    heading: str
    legend: Optional[np.ndarray] = None
    """(LEGEND, at most a panel's width, 3) uint8 RGB."""
    gap: int = GAP
    """Pixels between this column and the one before."""


class Text(NamedTuple):
    """Words on a picture, by the position of their left end (or centre) and of the middle of their height."""

    x: float
    y: float
    words: str
    colour: object = INK
    size: float = 13.0
    """Pixels."""
    bold: bool = False
    centred: bool = False


def sheet(title, subtitle, columns, rows, footnotes=()):
    """Return the sheet as (H, W, 3) uint8 RGB; the panel of row r and column c is `sheet[panel_place(columns, rows, r, c)]`."""
    assert all(len(row.panels) == len(columns) for row in rows)
    height, width = rows[0].panels[0].shape[:2]
    last = panel_place(columns, rows, len(rows) - 1, len(columns) - 1)
    canvas = np.full((last[0].stop + FOOTNOTE * len(footnotes) + MARGIN, last[1].stop + MARGIN, 3), 255, np.uint8)
    texts = [Text(MARGIN, MARGIN + 10, title, size=19, bold=True), Text(MARGIN, MARGIN + 34, subtitle, MUTED)]
    texts += [Text(MARGIN, last[0].stop + FOOTNOTE * (i + 0.75), note, MUTED) for i, note in enumerate(footnotes)]
    for c, column in enumerate(columns):
        left = panel_place(columns, rows, 0, c)[1].start
        texts.append(Text(left, MARGIN + TITLE + HEADING / 2, column.heading, size=15, bold=True))
        if column.legend is not None:
            top = MARGIN + TITLE + HEADING
            canvas[top : top + LEGEND, left : left + column.legend.shape[1]] = column.legend
    for r, row in enumerate(rows):
        for c, panel in enumerate(row.panels):
            place = panel_place(columns, rows, r, c)
            canvas[place] = panel
            if c == 0:
                texts.append(Text(MARGIN, place[0].start - CAPTION / 2 + 2, row.caption))
            if c in row.notes:
                middle = place[1].start + width / 2, place[0].start + height / 2
                texts.append(Text(middle[0], middle[1], row.notes[c], "white", 15, centred=True))
    return lettered(canvas, texts)


def panel_place(columns, rows, r, c):
    """Return the (rows, columns) slices of a sheet's pixels that hold the panel of row r and column c."""
    height, width = rows[0].panels[0].shape[:2]
    legend = LEGEND if any(column.legend is not None for column in columns) else 0
    top = MARGIN + TITLE + HEADING + legend + r * (CAPTION + height + GAP) + CAPTION
    left = MARGIN + c * width + sum(column.gap for column in columns[1 : c + 1])
    return slice(top, top + height), slice(left, left + width)


def lettered(canvas, texts):
    """Return a copy of (H, W, 3) uint8 RGB with `Text`s on it."""
    height, width = canvas.shape[:2]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    agg = FigureCanvasAgg(figure)
    figure.figimage(canvas, 0, 0, origin="upper")
    for text in texts:
        style = {"color": text.colour, "fontsize": text.size * 72 / _DPI, "fontweight": "bold" if text.bold else "normal"}
        style["ha"], style["va"], style["family"] = "center" if text.centred else "left", "center_baseline", "DejaVu Sans"
        style["parse_math"] = False  # a file's name may hold dollar signs
        figure.text(text.x / width, 1 - text.y / height, text.words, **style)
    agg.draw()
    return np.array(np.asarray(agg.buffer_rgba())[:, :, :3])


# ---- panels


def fit(picture):
    """Return a square (S, S, 3) uint8 picture in the size of all panels."""
    enlarge = len(picture) < pictures.SIDE
    return cv2.resize(picture, (pictures.SIDE, pictures.SIDE), interpolation=cv2.INTER_LINEAR if enlarge else cv2.INTER_AREA)


def mask_panel(image, mask):
    """Return the crop with what does not count in the loss in red. image: (S, S, 3) uint8; mask: (S, S) uint8, 0 to 255 for weights 0 to 1."""
    weight = mask[:, :, None] / 255.0
    return fit(np.rint(image * weight + (0.4 * image + 0.6 * np.array(IGNORED)) * (1 - weight)).astype(np.uint8))


def heat_panel(image, heat):
    """Return the darkened crop under the joints' heat-maps: at each pixel the highest one, in its joint's colour. heat: (S, S, J) float in [0, 1]."""
    colours = hues(np.arange(heat.shape[-1]) * 360.0 / heat.shape[-1])
    peak = heat.max(axis=-1, keepdims=True)
    return fit(np.rint(dark(image) * (1 - peak) + colours[heat.argmax(axis=-1)] * peak).astype(np.uint8))


def direction_panel(image, fields):
    """Return the darkened crop under x and y of the fields, colours of the wheel. fields: (S, S, 3 L) float; where limbs cross, the last one."""
    vector, covered = _topmost(fields)
    return fit(np.where(covered, direction_colours(vector[..., 0], vector[..., 1]), dark(image)))


def depth_panel(image, fields):
    """Return the darkened crop under z of the same fields."""
    vector, covered = _topmost(fields)
    return fit(np.where(covered, depth_colours(vector[..., 2]), dark(image)))


def dark(image):
    """Return (…, 3) uint8 as background for what is drawn over it."""
    return np.rint(image * DIM).astype(np.uint8)


def _topmost(fields):
    """Return at each pixel the vector (S, S, 3) of the last limb there and (S, S, 1) bool whether there is one."""
    vectors = fields.reshape(fields.shape[:2] + (-1, 3))
    on_limb = (vectors != 0).any(axis=-1)
    last = on_limb.shape[-1] - 1 - on_limb[:, :, ::-1].argmax(axis=-1)
    return np.take_along_axis(vectors, last[:, :, None, None], axis=2)[:, :, 0], on_limb.any(axis=-1, keepdims=True)


# ---- colours and legends


def direction_colours(x, y):
    """Return (…, 3) uint8 RGB: right is red, down yellow-green, left cyan, up violet; shorter vectors are paler, (0, 0) is white. x, y in [-1, 1]."""
    return hues(np.degrees(np.arctan2(y, x)), np.hypot(x, y))


def hues(degrees, saturation=1.0):
    """Return (…, 3) uint8 RGB of full value for hues in degrees (any turn) and saturations, cut at 1."""
    hue, saturation = np.broadcast_arrays(np.asarray(degrees, np.float32) % 360, np.clip(saturation, 0, 1))
    hsv = np.stack([hue, saturation, np.ones_like(hue)], axis=-1).astype(np.float32)
    return np.rint(cv2.cvtColor(hsv.reshape(-1, 1, 3), cv2.COLOR_HSV2RGB).reshape(hsv.shape) * 255).astype(np.uint8)


def depth_colours(z):
    """Return (…, 3) uint8 RGB: NEAR for -1 (at the camera), LEVEL for 0, FAR for 1."""
    return np.stack([np.rint(np.interp(z, [-1, 0, 1], values)).astype(np.uint8) for values in zip(NEAR, LEVEL, FAR)], axis=-1)


def skeleton_legend(skeleton):
    """Return the legend of crops with skeletons: which colour is whose side."""
    sided = any(joint.startswith("left_") for joint in skeleton.joints)
    sides = (("the person's left", pictures.LEFT), ("the person's right", pictures.RIGHT), ("middle", pictures.MIDDLE))
    return _swatches([(words, colour) for words, colour in sides] if sided else [("labelled joints and bones", pictures.MIDDLE)])


def mask_legend(kind):
    """Return the legend of masks of a kind: "miss" (of unlabelled people) or "all" (of everybody)."""
    what = {"miss": "unlabelled people", "all": "what is nobody"}[kind]
    return _swatches([("red: does not count in the loss", IGNORED)], ["({}, other people,".format(what), "what is outside the image)"])


def heat_legend():
    """Return the legend of heat-maps."""
    return _swatches([], ["one colour a joint,", "a peak of height 1 at each,", "brightness is the height"])


def direction_legend():
    """Return the colour wheel with the directions that its hues stand for, and what pale colours mean."""
    canvas, radius, x, y = np.full((LEGEND, pictures.SIDE, 3), 255, np.uint8), 30, 66, 45
    columns, rows = np.meshgrid((np.arange(pictures.SIDE) - x) / radius, (np.arange(LEGEND) - y) / radius)
    inside = np.hypot(columns, rows) <= 1
    canvas[inside] = direction_colours(columns[inside], rows[inside])
    ends = ((x, y - radius - 8, "up"), (x, y + radius + 8, "down"), (x - radius - 18, y, "left"), (x + radius + 20, y, "right"))
    words = ("from the limb's first joint", "to its second, in the image;", "white: at or away from", "the camera")
    texts = [Text(a, b, end, MUTED, 11, centred=True) for a, b, end in ends]
    return lettered(canvas, texts + [Text(134, 20 + 17 * i, line, MUTED, 11) for i, line in enumerate(words)])


def depth_legend():
    """Return the bar of the map of z."""
    canvas = np.full((LEGEND, pictures.SIDE, 3), 255, np.uint8)
    canvas[14:32, 2:202] = depth_colours(np.linspace(-1, 1, 200))
    ends = ((2, 44, "at the"), (2, 58, "camera"), (87, 44, "level"), (150, 44, "away from"), (150, 58, "the camera"))
    return lettered(canvas, [Text(x, y, words, MUTED, 11) for x, y, words in ends])


def _swatches(coloured, lines=()):
    canvas, texts = np.full((LEGEND, pictures.SIDE, 3), 255, np.uint8), []
    for i, (words, colour) in enumerate(coloured):
        canvas[10 + 18 * i : 20 + 18 * i, 2:20] = colour
        texts.append(Text(28, 15 + 18 * i, words, MUTED, 12))
    return lettered(canvas, texts + [Text(2, 15 + 18 * (len(coloured) + i), words, MUTED, 12) for i, words in enumerate(lines)])
