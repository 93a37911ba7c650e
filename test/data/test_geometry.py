"""Projection against hand-made numbers, OpenCV, and the arithmetic of crops."""

import cv2
import numpy as np
import pytest

from mtc import geometry
from mtc.data.sample import Camera

K = np.array([[1400.0, 0, 960], [0, 1410, 540], [0, 0, 1]])


def camera(distortion=(0, 0, 0, 0, 0), R=((1, 0, 0), (0, 1, 0), (0, 0, 1)), t=(0, 0, 0)):
    return Camera(K=K, R=np.asarray(R, np.float64), t=np.asarray(t, np.float64), distortion=np.asarray(distortion, np.float64))


def test_a_point_on_the_axis_is_the_principal_point():
    assert geometry.project([[0, 0, 5]], camera()).tolist() == [[960, 540]]


def test_pinhole_without_distortion():
    assert geometry.project([[1, -2, 10]], camera()).tolist() == [[960 + 140, 540 - 282]]


def test_the_world_is_rotated_then_moved():
    R = cv2.Rodrigues(np.array([0.1, -0.4, 0.2]))[0]
    t = np.array([1.0, 2.0, 30.0])
    points = np.random.RandomState(0).uniform(-5, 5, (20, 3))
    moved = np.array([R @ p + t for p in points])
    assert np.allclose(geometry.project(points, camera(R=R, t=t)), geometry.project_from_camera(moved, camera()))
    assert np.allclose(geometry.project_from_camera(moved, camera(R=R, t=t)), geometry.project_from_camera(moved, camera()))


def test_exact_distortion_is_opencv_s():
    distortion = np.array([-0.28, 0.09, 0.003, -0.002, 0.01])
    rotation, t = np.array([0.1, -0.4, 0.2]), np.array([1.0, 2.0, 30.0])
    points = np.random.RandomState(1).uniform(-8, 8, (50, 3))
    expected = cv2.projectPoints(points, rotation, t, K, distortion)[0][:, 0]
    found = geometry.project(points, camera(distortion, cv2.Rodrigues(rotation)[0], t))
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() < 1e-6


def test_legacy_distortion_differs_in_the_tangential_product_alone():
    p1, p2, x, y = 0.02, -0.03, 0.3, -0.5
    r2 = x * x + y * y
    expected = [
        960 + 1400 * (x + 2 * p1 * x * x * y * y + p2 * (r2 + 2 * x * x)),
        540 + 1410 * (y + 2 * p2 * x * x * y * y + p1 * (r2 + 2 * y * y)),
    ]
    point = [[2 * x, 2 * y, 2]]
    assert np.allclose(geometry.project(point, camera((0, 0, p1, p2, 0)), "legacy"), [expected])
    radial = camera((-0.2, 0.1, 0, 0, 0.05))
    assert (geometry.project(point, radial, "legacy") == geometry.project(point, radial)).all()


def test_centre_is_the_mean_of_the_centre_joints_where_all_are_valid():
    points = np.array([[0.0, 0], [10, 0], [4, 20]])
    center, fit = geometry.center_and_fit(points, np.array([True, True, True]), (0, 1))
    assert (center.tolist(), fit) == ([5, 0], 20)
    center, fit = geometry.center_and_fit(points, np.array([True, False, True]), (0, 1))
    assert (center.tolist(), fit) == ([2, 10], 10)
    assert geometry.center_and_fit(points, np.zeros(3, bool), (0, 1)) == (None, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_points_that_fit_are_kept_inside_and_a_centre_that_holds_them_is_kept(seed):
    rng = np.random.RandomState(seed)
    points, size, scale = rng.uniform(0, 100, (5, 2)), 64, 64 / 120.0
    center = geometry.keep_inside(rng.uniform(-200, 300, 2), scale, points, size)
    local = (points - center) * scale + size / 2
    assert local.min() > 1 - 1e-9
    assert local.max() < size - 2 + 1e-9
    assert np.allclose(geometry.keep_inside(center, scale, points, size), center)


def test_points_that_do_not_fit_are_centred():
    points = np.array([[0.0, 0], [100, 10]])
    center = geometry.keep_inside(np.array([500.0, 5]), 1.0, points, 32)
    local = (points - center) + 16
    assert local[:, 0].mean() == pytest.approx((1 + 30) / 2)
    assert local[:, 1].tolist() == [11, 21]


def test_legacy_clamp_in_space_keeps_all_points_in_the_box():
    rng = np.random.RandomState(3)
    points = rng.uniform(-1, 1, (8, 3))
    center = (points.min(axis=0) + points.max(axis=0)) / 2
    side = 1.05 * np.ptp(points, axis=0).max()
    moved = center + geometry.legacy_clamp_3d(np.array([5.0, -5, 0]), center, side, points)
    assert (points > moved - side / 2).all()
    assert (points < moved + side / 2).all()


def test_legacy_clamp_in_the_image_has_mirrored_signs():
    points, center = np.array([[10.0, 10], [90, 30]]), np.array([40.0, 20])
    # x: at least 40 - 50 - 10 + 1 = -19, at most 40 + 50 - 90 - 1 = -1; y: at least 20 - 50 - 10 + 1 = -39, at most 20 + 50 - 30 - 1 = 39.
    assert geometry.legacy_clamp_2d(np.array([30.0, 50]), center, 100, points).tolist() == [-1, 39]
    assert geometry.legacy_clamp_2d(np.array([-30.0, -50]), center, 100, points).tolist() == [-19, -39]
