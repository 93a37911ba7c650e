import numpy as np
import pytest

from mtc.report import contact_sheet, pictures
from mtc.report.contact_sheet import Column, Row
from mtc.skeleton import BODY, HAND

SIZE = pictures.SIDE  # panels are not scaled, so that pixels can be compared


@pytest.fixture
def image():
    return np.random.RandomState(0).randint(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def field(*limbs):
    """Fields of limbs, each a square of 100 pixels from (100, 100) plus 50 times its number, with one direction."""
    fields = np.zeros((SIZE, SIZE, 3 * len(limbs)), np.float32)
    for k, direction in enumerate(limbs):
        place = slice(100 + 50 * k, 200 + 50 * k)
        fields[place, place, 3 * k : 3 * k + 3] = direction
    return fields


@pytest.mark.parametrize(
    ("x", "y", "colour"),
    [(1, 0, (255, 0, 0)), (0, 1, (128, 255, 0)), (-1, 0, (0, 255, 255)), (0, -1, (128, 0, 255)), (0, 0, (255, 255, 255)), (0.5, 0, (255, 128, 128))],
)
def test_hue_is_the_direction_and_saturation_the_length(x, y, colour):
    assert np.abs(contact_sheet.direction_colours(x, y).astype(int) - colour).max() <= 1


@pytest.mark.parametrize(("z", "colour"), [(-1, contact_sheet.NEAR), (0, contact_sheet.LEVEL), (1, contact_sheet.FAR)])
def test_z_goes_from_the_near_colour_to_the_far_one(z, colour):
    assert tuple(contact_sheet.depth_colours(z)) == colour


@pytest.mark.parametrize(("x", "y"), [(0.8, 0.0), (0.0, 0.8), (-0.8, 0.0), (0.0, -0.8), (0.5, 0.5)])
def test_the_wheel_of_the_legend_has_the_colours_of_the_panel(image, x, y):
    legend = contact_sheet.direction_legend()
    panel = contact_sheet.direction_panel(image, field((x, y, np.sqrt(1 - x * x - y * y))))
    coloured = np.argwhere(np.ptp(legend, axis=2) > 100)
    (top, left), (bottom, right) = coloured.min(axis=0), coloured.max(axis=0)
    centre, radius = ((top + bottom) / 2, (left + right) / 2), (right - left) / 2
    beside = legend[int(round(centre[0] + y * radius)), int(round(centre[1] + x * radius))]
    assert np.abs(beside.astype(int) - panel[150, 150]).max() <= 12  # a pixel of the wheel is a thirtieth of its radius


def test_fields_lie_over_the_darkened_crop_and_the_last_limb_on_top(image):
    fields = field((1, 0, 0), (0, 0, -1))
    directions, depths = contact_sheet.direction_panel(image, fields), contact_sheet.depth_panel(image, fields)
    dark = contact_sheet.dark(image)
    for panel, first, second in ((directions, (255, 0, 0), (255, 255, 255)), (depths, contact_sheet.LEVEL, contact_sheet.NEAR)):
        assert tuple(panel[120, 120]) == first
        assert tuple(panel[175, 175]) == tuple(panel[220, 220]) == second
        assert (panel[50, 50] == dark[50, 50]).all()
    assert dark.mean() < 0.4 * image.mean()


def test_a_peak_has_its_joints_colour_and_fades_into_the_crop(image):
    heat = np.zeros((SIZE, SIZE, 3), np.float32)
    heat[10, 10, 0], heat[20, 20, 1], heat[30, 30, 2], heat[30, 30, 0] = 1, 1, 0.5, 0.25
    panel = contact_sheet.heat_panel(image, heat)
    dark = contact_sheet.dark(image)
    assert tuple(panel[10, 10]) == (255, 0, 0)
    assert tuple(panel[20, 20]) == (0, 255, 0)
    assert np.abs(panel[30, 30].astype(int) - (dark[30, 30] / 2.0 + np.array([0, 0, 127.5]))).max() <= 1  # the higher one of the two
    assert (panel[40:] == dark[40:]).all()


def test_what_the_mask_leaves_out_is_red_in_proportion(image):
    mask = np.full((SIZE, SIZE), 255, np.uint8)
    mask[:100], mask[100:200] = 0, 128
    panel = contact_sheet.mask_panel(image, mask).astype(int)
    assert (panel[200:] == image[200:]).all()
    assert panel[:100, :, 0].mean() > panel[:100, :, 1].mean() + 80
    between = (panel[:200] - image[:200]).reshape(2, -1).astype(float)
    assert abs(np.linalg.norm(between[1]) / np.linalg.norm(between[0]) - 0.5) < 0.02


@pytest.mark.parametrize("size", [32, 184, 368])
def test_panels_of_crops_of_any_size_are_of_one_size(size):
    image, zeros = np.full((size, size, 3), 200, np.uint8), np.zeros((size, size, 6), np.float32)
    made = [
        contact_sheet.fit(image),
        contact_sheet.mask_panel(image, np.zeros((size, size), np.uint8)),
        contact_sheet.heat_panel(image, zeros),
        contact_sheet.direction_panel(image, zeros),
        contact_sheet.depth_panel(image, zeros),
        pictures.draw(image, np.zeros((20, 2), np.float32), np.ones(20, bool), BODY),
    ]
    assert {(panel.shape, panel.dtype.name) for panel in made} == {((SIZE, SIZE, 3), "uint8")}


@pytest.mark.parametrize("side", [31, 176, 288])
def test_panels_stand_in_the_sheet_pixel_by_pixel(side):
    rng = np.random.RandomState(1)
    rows = [Row("row {}".format(r), [rng.randint(0, 256, (side, side, 3)).astype(np.uint8) for _ in range(3)], {}) for r in range(2)]
    columns = [Column("a", contact_sheet.mask_legend("all")[:, :side]), Column("b"), Column("c", gap=33)]
    sheet = contact_sheet.sheet("title", "subtitle", columns, rows, ["a note", "another"])
    for r, row in enumerate(rows):
        for c, panel in enumerate(row.panels):
            place = contact_sheet.panel_place(columns, rows, r, c)
            assert (sheet[place] == panel).all()
            sheet[place] = 0
    assert place[0].stop + 2 * contact_sheet.FOOTNOTE + contact_sheet.MARGIN == sheet.shape[0]
    assert place[1].stop + contact_sheet.MARGIN == sheet.shape[1]


def test_words_are_written_outside_the_panels_but_for_notes():
    panel = np.zeros((SIZE, SIZE, 3), np.uint8)
    columns = [Column("crop"), Column("mask")]

    def sheet(title="", caption="", footnotes=(), **notes):
        return contact_sheet.sheet(title, "", columns, [Row(caption, [panel, panel], {1: notes["across"]} if notes else {})], footnotes)

    first, second = (contact_sheet.panel_place(columns, [Row("", [panel] * 2, {})], 0, c) for c in (0, 1))
    plain, captioned, noted = sheet(), sheet(title="A title", caption="img_$1$.jpg"), sheet(across="no z")
    assert (plain[: contact_sheet.MARGIN + contact_sheet.TITLE] == 255).all()
    assert captioned[: contact_sheet.MARGIN + contact_sheet.TITLE].min() < 100
    assert captioned[first[0].start - contact_sheet.CAPTION : first[0].start, first[1]].min() < 100
    assert not captioned[first].any()
    assert not captioned[second].any()
    assert not noted[first].any()
    assert noted[second].max() > 200
    assert (sheet(footnotes=["a note"])[first[0].stop :] < 200).any()


def test_the_skeletons_legend_names_sides_where_there_are_any():
    body, hand = contact_sheet.skeleton_legend(BODY), contact_sheet.skeleton_legend(HAND)
    for colour in (pictures.LEFT, pictures.RIGHT, pictures.MIDDLE):
        assert (body == colour).all(axis=2).any()
    assert not (hand == pictures.LEFT).all(axis=2).any()
    assert (hand == pictures.MIDDLE).all(axis=2).any()
