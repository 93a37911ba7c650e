import xml.etree.ElementTree

import numpy as np

from mtc.report import charts

STEPS = np.arange(1, 301)
LOSS = 0.01 * np.exp(-STEPS / 50.0) + 0.001
LR = np.where(STEPS <= 200, 1e-3, 3e-4)


def test_the_same_data_gives_the_same_bytes():
    first, second = (charts.loss_curve("Loss", STEPS, LOSS, LOSS * 0 + 0.01, LR) for _ in range(2))
    assert first == second
    assert "Date" not in first
    assert "dc:date" not in first


def test_charts_are_well_formed_and_say_what_they_show():
    loss = charts.loss_curve("Heat-map loss", STEPS, LOSS, LOSS * 0 + 0.01, LR, [100])
    for text in ("Heat-map loss", "empty answer", "lr 0.0003", "restart"):
        assert text in loss
    curves = charts.pck_curves(np.linspace(0, 0.5, 51), {"trained": np.linspace(0, 1, 51), "mean_pose": np.linspace(0, 0.5, 51)})
    bars = charts.joint_bars(["left_hand", "nose"], [0.5, np.nan], [0.1, 0.2])
    assert "left hand" in bars
    assert "untrained" not in curves
    for svg in (loss, curves, bars):
        xml.etree.ElementTree.fromstring(svg.encode("utf-8"))


def test_curves_of_zeros_missing_values_and_single_steps_can_be_drawn():
    nothing = np.full(len(STEPS), np.nan)
    for y in (np.zeros(len(STEPS)), nothing):
        assert charts.loss_curve("Loss", STEPS, y, nothing, nothing).startswith("<?xml")
    assert charts.loss_curve("Loss", STEPS[:1], LOSS[:1], LOSS[:1], LR[:1]).startswith("<?xml")


def test_thinning_keeps_every_spike():
    y = np.zeros(400000)
    y[123456], y[300001], y[5] = 7, -3, np.nan
    x, kept = charts.thin(np.arange(len(y)), y, most=1000)
    assert len(x) <= 1000
    assert (np.diff(x) > 0).all()
    assert kept.max() == 7
    assert x[kept.argmax()] == 123456
    assert kept.min() == -3
    assert x[kept.argmin()] == 300001
    assert charts.thin(np.arange(10), np.arange(10.0))[0].tolist() == list(range(10))


def test_the_running_mean_is_a_mean_and_skips_what_is_no_number():
    x, mean = charts.running_mean(np.arange(5), np.array([1.0, 2.0, np.nan, 4.0, 5.0]), 3)
    assert x.tolist() == [0, 1, 2, 3, 4]
    assert mean.tolist() == [1.5, 1.5, 3.0, 4.5, 4.5]
    assert np.isnan(charts.running_mean(np.arange(3), np.full(3, np.nan), 2)[1]).all()


def test_two_charts_in_one_page_share_no_id_and_no_fixed_colour():
    svg = charts.loss_curve("Loss", STEPS, LOSS, LOSS * 0 + 0.01, LR)
    first, second = charts.inline(svg, "a", "what it shows"), charts.inline(svg, "b", "the other")
    ids = [set(element.get("id") for element in _parse(text).iter() if element.get("id")) for text in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert 'role="img" aria-label="what it shows"' in first
    for colour in charts.COLOURS:
        assert colour not in first
    assert "var(--trained)" in first
    assert "http" not in first.replace("http://www.w3.org", "")


def _parse(inline):
    return xml.etree.ElementTree.fromstring(inline.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
