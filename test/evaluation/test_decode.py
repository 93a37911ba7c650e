import numpy as np
import pytest

from mtc import upsample
from mtc.evaluation import decode
from mtc.skeleton import BODY

SIZE = 96


def gaussian(x, y, sigma=7.0):
    grid = np.arange(SIZE, dtype=np.float64)
    return np.exp(-(np.square(grid[None, :] - x) + np.square(grid[:, None] - y)) / (2 * sigma * sigma))


def to_cells(maps, kind):
    """The cells whose enlargement is nearest to maps of the crop's size, (H, W, C): what a perfect network would answer."""
    inverse = np.linalg.pinv(upsample.matrix(SIZE // 8, kind=kind).astype(np.float64))
    return np.einsum("ch,hwk,dw->cdk", inverse, maps, inverse).astype(np.float32)


@pytest.mark.parametrize("trained_with", ["bicubic", "bilinear"])
def test_a_peak_between_cells_inside_the_crop_is_found_to_the_pixel_whichever_enlargement_the_loss_uses(trained_with):
    places = [(40, 24), (43, 25), (31, 60), (62, 29), (37, 66), (52, 52)]
    heat = to_cells(np.stack([gaussian(x, y) for x, y in places] + [np.ones((SIZE, SIZE))], axis=-1), trained_with)
    uv, scores = decode.keypoints(heat[None])
    assert np.abs(uv[0] - places).max() <= 1
    assert uv.dtype == scores.dtype == np.float32
    assert uv.shape == (1, 6, 2)
    assert scores.shape == (1, 6)
    assert (scores > 0.7).all()


def test_samples_of_a_batch_are_decoded_apart():
    first, second = (to_cells(np.stack([gaussian(x, y), np.ones((SIZE, SIZE))], axis=-1), "bicubic") for x, y in [(16, 64), (64, 16)])
    uv, _ = decode.keypoints(np.stack([first, second]))
    assert np.allclose(uv[:, 0], [[16, 64], [64, 16]], atol=1)


def test_the_background_is_never_an_answer():
    heat = np.zeros((1, 12, 12, 3), np.float32)
    heat[0, 6, 6, 0], heat[0, 2, 9, 1], heat[0, 3, 3, 2] = 1, 1, 5
    uv, scores = decode.keypoints(heat)
    assert uv[0].tolist() == [[48, 48], [72, 16]]
    assert np.allclose(scores, 1)


def test_a_map_that_is_no_number_has_no_score():
    heat = np.zeros((1, 12, 12, 2), np.float32)
    heat[0, 0, 0, 0] = np.nan
    assert np.isnan(decode.keypoints(heat)[1][0, 0])


def test_a_limb_reads_the_mean_of_its_field_along_its_line():
    pof = np.zeros((2, 12, 12, 6), np.float32)
    pof[0, :, :, :3] = [0.6, 0.0, 0.8]
    pof[0, :, :6, 3:] = [1, 0, 0]
    uv = np.array([[[16, 16], [80, 48], [8, 40], [8, 88]]] * 2, np.float32)
    fields = decode.limb_fields(pof, uv, [(0, 1), (2, 3)])
    assert fields.shape == (2, 2, 3)
    assert np.allclose(fields[0], [[0.6, 0, 0.8], [1, 0, 0]], atol=1e-5)
    assert not fields[1].any()


def test_a_limb_reads_the_enlarged_map_at_whole_pixels():
    pof = np.random.RandomState(1).standard_normal((1, 12, 12, 3)).astype(np.float32)
    a = upsample.matrix(12)
    enlarged = np.einsum("hc,cdk,wd->hwk", a, pof[0], a)
    uv = np.array([[[11.3, 20.9], [70.2, 61.7]]], np.float32)
    points = (uv[0, 0] + (uv[0, 1] - uv[0, 0]) * np.linspace(0, 1, 11)[:, None]).astype(int)
    expected = enlarged[points[:, 1], points[:, 0]].mean(axis=0)
    assert np.allclose(decode.limb_fields(pof, uv, [(0, 1)])[0, 0], expected, atol=1e-5)


def test_limbs_that_leave_the_crop_and_joints_that_are_no_numbers_are_read_at_the_edge():
    pof = np.ones((1, 12, 12, 3), np.float32)
    for end in ([500, -900], [np.nan, np.nan]):
        assert np.allclose(decode.limb_fields(pof, np.array([[[10, 10], end]], np.float32), [(0, 1)]), 1, atol=1e-5)


def test_a_limb_is_lifted_by_the_depth_that_its_field_says():
    limbs = [(0, 1), (1, 2)]
    uv = np.array([[[10, 10], [40, 50], [40, 80]]], np.float32)  # 50 and 30 pixels long in the image
    fields = np.array([[[0.36, 0.48, 0.8], [0.0, 0.6, -0.8]]], np.float32)
    lifted = decode.lift(uv, fields, limbs)
    np.testing.assert_array_equal(lifted[0, :, :2], uv[0])
    np.testing.assert_allclose(lifted[0, :, 2], [0, 50 * 0.8 / 0.6, 50 * 0.8 / 0.6 - 30 * 0.8 / 0.6], rtol=1e-5)
    np.testing.assert_allclose(decode.lift(uv, 0.3 * fields, limbs), lifted, rtol=1e-5)  # a network's fields are shorter: only the direction counts


def test_a_limb_that_points_at_the_camera_stays_finite_and_an_unreached_joint_is_told():
    uv = np.array([[[10, 10], [11, 10], [5, 5]]], np.float32)
    lifted = decode.lift(uv, np.array([[[0, 0, 1]]], np.float32), [(0, 1)])
    assert abs(lifted[0, 1, 2]) <= 4.01
    assert np.isnan(lifted[0, 2, 2])


def test_synthetic_people_come_back_from_their_own_directions():
    rng = np.random.RandomState(0)
    xyz = rng.normal(0, 30, (4, 20, 3)).astype(np.float32)
    limbs = BODY.limbs
    directions = np.stack([xyz[:, b] - xyz[:, a] for a, b in limbs], axis=1)
    flat = np.linalg.norm(directions[..., :2], axis=-1) / np.linalg.norm(directions, axis=-1)
    lifted = decode.lift(xyz[..., :2], directions / np.linalg.norm(directions, axis=-1, keepdims=True), limbs)
    reached = {limbs[0][0]: True}
    for k, (a, b) in enumerate(limbs):
        if b not in reached:
            reached[b] = reached[a] & (flat[:, k] > 0.25)
    for joint, good in reached.items():
        rows = np.broadcast_to(good, 4)
        np.testing.assert_allclose(lifted[rows, joint, 2], (xyz[:, joint, 2] - xyz[:, limbs[0][0], 2])[rows], rtol=1e-3, atol=1e-2)
