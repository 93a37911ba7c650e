import cv2
import numpy as np
import pytest

from mtc import config as configuration
from mtc.data import crop
from mtc.data.sample import Camera, Sample
from mtc.evaluation import baselines
from mtc.skeleton import BODY, HAND

CONFIG = configuration.load("demo", ["model.crop=64"])
CAMERA = Camera(np.array([[100.0, 0, 40], [0, 100.0, 40], [0, 0, 1]]), np.eye(3), np.zeros(3), np.zeros(5))


def sample(folder, seed, skeleton, in_3d=False, mirror=False):
    rng = np.random.RandomState(seed)
    xyz = np.append(rng.uniform(-20, 20, (len(skeleton.joints), 2)), rng.uniform(90, 110, (len(skeleton.joints), 1)), axis=1).astype(np.float32)
    uv = (xyz[:, :2] / xyz[:, 2:] * 100 + 40).astype(np.float32)
    path = str(folder / "{}.png".format(seed))
    cv2.imwrite(path, np.zeros((80, 80, 3), np.uint8))
    box = np.array([20, 20, 40, 40], np.float32)
    valid = rng.uniform(size=len(uv)) < 0.7
    return Sample(path, path, None, uv, valid, np.zeros((0, 4), np.int32), box, xyz if in_3d else None, CAMERA if in_3d else None, mirror)


@pytest.mark.parametrize(("skeleton", "in_3d"), [(BODY, False), (BODY, True), (HAND, True)])
def test_the_mean_pose_is_the_mean_of_the_valid_joints_of_the_crops_that_are_trained_on(tmp_path, skeleton, in_3d):
    samples = [sample(tmp_path, seed, skeleton, in_3d, mirror=skeleton is HAND and seed % 2 == 0) for seed in range(6)]
    examples = [crop.crop_sample(s, size=64, config=CONFIG, skeleton=skeleton, rng=None) for s in samples]
    valid = np.stack([e.valid for e in examples])
    expected = (np.stack([e.uv for e in examples]) * valid[..., None]).sum(axis=0) / valid.sum(axis=0)[:, None]
    found = baselines.mean_pose(samples, config=CONFIG, skeleton=skeleton)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-3)


def test_a_joint_that_is_never_labelled_is_answered_with_the_middle_of_the_crop(tmp_path):
    only = sample(tmp_path, 1, BODY)
    only.valid[:] = True
    only.valid[3] = False
    assert baselines.mean_pose([only], config=CONFIG, skeleton=BODY)[3].tolist() == [32, 32]


def test_mean_directions_come_from_3d_samples_as_their_crops_show_them(tmp_path):
    plain, mirrored, flat = sample(tmp_path, 1, HAND, True), sample(tmp_path, 2, HAND, True, mirror=True), sample(tmp_path, 3, HAND)
    for s in (plain, mirrored):
        s.valid[:] = True
    directions = []
    for s in (plain, mirrored):
        xyz = crop.crop_sample(s, size=64, config=CONFIG, skeleton=HAND, rng=None).xyz
        vectors = np.stack([xyz[b] - xyz[a] for a, b in HAND.limbs])
        directions.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    found = baselines.mean_directions([plain, mirrored, flat], skeleton=HAND)
    expected = np.mean(directions, axis=0)
    assert np.allclose(found / np.linalg.norm(found, axis=1, keepdims=True), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


def test_few_of_many_are_spread_evenly_and_few_are_all():
    assert baselines.evenly(range(101), 3) == [0, 50, 100]
    assert baselines.evenly(range(3), 10) == [0, 1, 2]
    assert baselines.evenly(range(3), 0) == []
