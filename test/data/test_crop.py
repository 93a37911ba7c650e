"""Where a crop lies, how chance moves it, and what an example holds."""

import dataclasses
import os

import numpy as np
import pytest

from mtc.data import augment, crop
from mtc.data.sample import Camera
from mtc.errors import UserError
from mtc.geometry import project_from_camera
from mtc.sections import Config
from mtc.skeleton import BODY, HAND
from test.data.made import config, in_space, make, noise, sample, scattered, write

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "shared", "golden")
needs_golden = pytest.mark.skipif(not os.path.isdir(GOLDEN), reason="the golden numbers are not beside the project")


def drawn(seed, settings):
    return augment.draw(np.random.RandomState(seed), settings)


# Where a crop lies.


def test_centre_is_between_the_hips_and_the_side_reaches_the_farthest_joint():
    uv = scattered()
    found = crop.crop_2d(sample(uv), size=368, config=Config(), skeleton=BODY)
    center = (uv[8] + uv[11]) / 2
    assert np.allclose(found.center, center, atol=1e-4)
    assert found.scale == pytest.approx(368 / (2 * 1.8 * np.abs(uv - center).max()), rel=1e-6)
    assert np.allclose(found.local(found.center, 368), 184)


def test_without_a_hip_the_centre_is_the_middle_of_the_valid_joints():
    uv, valid = scattered(), np.ones(20, bool)
    valid[[8, 3]] = False
    found = crop.crop_2d(sample(uv, valid), size=368, config=Config(), skeleton=BODY)
    assert np.allclose(found.center, (uv[valid].min(axis=0) + uv[valid].max(axis=0)) / 2, atol=1e-4)


def test_a_hand_is_centred_on_the_base_of_its_middle_finger():
    uv = scattered(joints=21)
    found = crop.crop_2d(sample(uv), size=368, config=Config(), skeleton=HAND)
    assert np.allclose(found.center, uv[12], atol=1e-4)


@pytest.mark.parametrize("mode", ["exact", "legacy"])
@pytest.mark.parametrize("valid", [[5], []])
def test_joints_that_span_nothing_are_cropped_by_their_box(mode, valid):
    flags = np.zeros(20, bool)
    flags[valid] = True
    one = sample(np.full((20, 2), 70.0), flags, box=(50, 40, 60, 100))
    found = crop.crop_2d(one, size=64, config=config({"crop": mode}), skeleton=BODY)
    assert found.center.tolist() == [80, 90]
    assert found.scale == pytest.approx(64 / (100 * 1.8))


def test_a_sample_without_any_extent_is_refused():
    with pytest.raises(UserError, match="sample a#0 .*neither its valid joints nor its box"):
        crop.crop_2d(sample(np.zeros((20, 2))), size=64, config=Config(), skeleton=BODY)


@needs_golden
def test_crops_of_real_people_equal_the_reference():
    z = np.load(os.path.join(GOLDEN, "coco_crops.npz"))
    for body, valid, center, scale, local in zip(z["body"], z["valid"], z["center"], z["scale"], z["local"]):
        for mode in ("exact", "legacy"):
            found = crop.crop_2d(sample(body, valid), size=368, config=config({"crop": mode}), skeleton=BODY)
            assert np.abs(found.center - center).max() < 1e-4
            assert abs(found.scale - scale) < 1e-6
            assert np.abs(found.local(body, 368) - local)[valid].max() < 1e-4


@needs_golden
def test_crop_of_a_person_in_space_equals_the_reference():
    z = np.load(os.path.join(GOLDEN, "crop3d.npz"))
    camera = Camera(z["K"].astype(np.float64), np.eye(3), np.zeros(3), np.zeros(5))
    one = sample(z["uv"], z["valid"], xyz=z["xyz"], camera=camera)
    for mode in ("exact", "legacy"):
        found = crop.crop_3d(one, size=368, config=config({"crop": mode}), skeleton=BODY)
        assert np.abs(found.center - z["center2d"]).max() < 1e-4
        assert found.scale == pytest.approx(float(z["scale2d"]), rel=1e-6)
        assert np.abs(found.center3d - z["center3d"]).max() < 1e-4
        assert found.scale3d == pytest.approx(float(z["scale3d"]), rel=1e-6)
    assert np.abs(project_from_camera(z["xyz"], camera) - z["uv"])[z["valid"]].max() < 1e-3


@pytest.mark.parametrize("skeleton", [BODY, HAND])
def test_a_crop_in_space_is_the_projection_of_its_square(skeleton):
    one = in_space(skeleton=skeleton)
    found = crop.crop_3d(one, size=368, config=Config(), skeleton=skeleton)
    xyz = one.xyz.astype(np.float64)
    center = xyz[list(skeleton.centre_joints)].mean(axis=0)
    side = 2 * 1.5 * np.abs(xyz - center).max()
    assert np.allclose(found.center3d, center)
    assert found.scale3d == pytest.approx(46 / side)
    assert np.allclose(found.center, project_from_camera([center], one.camera)[0])
    assert 368 / found.scale == pytest.approx(710 * side / center[2])


def test_a_single_joint_in_space_gets_the_size_of_its_box():
    one = in_space()
    valid = np.zeros(20, bool)
    valid[3] = True
    found = crop.crop_3d(one._replace(valid=valid), size=64, config=Config(), skeleton=BODY)
    assert np.allclose(found.center3d, one.xyz[3])
    assert 64 / found.scale == pytest.approx(300 * 1.5)


def test_a_person_behind_the_camera_is_refused():
    one = in_space()
    with pytest.raises(UserError, match="in front of the camera"):
        crop.crop_3d(one._replace(xyz=-one.xyz), size=64, config=Config(), skeleton=BODY)


def test_the_stretch_never_makes_a_box_in_space_smaller_than_the_person():
    one, settings = in_space(), config(crop_scale_sigma=1.0, crop_offset_sigma=0.0)
    straight = crop.crop_3d(one, size=64, config=settings, skeleton=BODY)
    for seed in range(40):
        found = crop.crop_3d(one, size=64, config=settings, skeleton=BODY, drawn=drawn(seed, settings))
        assert straight.scale3d / found.scale3d >= 1 / 1.5 - 1e-9


# Jitter.


def test_jitter_stays_within_two_sigma_and_spreads_as_a_truncated_normal():
    rng = np.random.RandomState(0)
    drawn = [augment.jitter(rng, 0.1, 0.2) for _ in range(4000)]
    stretches, offsets = np.log([s for s, _ in drawn]), np.array([o for _, o in drawn])
    assert np.abs(stretches).max() <= 0.2
    assert np.abs(offsets).max() <= 0.4
    assert abs(stretches.std() - 0.088) < 0.004
    assert abs(offsets.std() - 0.176) < 0.006
    assert abs(stretches.mean()) < 0.006
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.06


def test_sigmas_of_zero_do_not_jitter():
    stretch, offset = augment.jitter(np.random.RandomState(0), 0.0, 0.0)
    assert stretch == 1
    assert (offset == 0).all()


@pytest.mark.parametrize("in_3d", [False, True])
def test_jitter_moves_the_centre_and_stretches_the_side_as_drawn(in_3d):
    one, settings = in_space() if in_3d else sample(scattered()), Config()
    find = crop.crop_3d if in_3d else crop.crop_2d
    straight = find(one, size=368, config=settings, skeleton=BODY)
    for seed in range(10):
        stretch, offset = augment.jitter(np.random.RandomState(seed), 0.1, 0.1)
        found = find(one, size=368, config=settings, skeleton=BODY, drawn=drawn(seed, settings))
        assert straight.scale / found.scale == pytest.approx(stretch, rel=1e-6)
        fit = 368 / straight.scale / 2 / (1.5 if in_3d else 1.8)
        assert np.allclose((found.center - straight.center) / fit, offset, rtol=0.02)


@pytest.mark.parametrize("in_3d", [False, True])
def test_jitter_never_moves_a_joint_out_of_a_crop_that_can_hold_it(in_3d):
    settings = config(crop_scale_sigma=0.1, crop_offset_sigma=1.0)
    for seed in range(30):
        one = in_space(seed) if in_3d else sample(scattered(seed))
        find = crop.crop_3d if in_3d else crop.crop_2d
        local = find(one, size=96, config=settings, skeleton=BODY, drawn=drawn(seed, settings)).local(one.uv, 96)
        if (np.ptp(local, axis=0) <= 93).all():
            assert local.min() > 1 - 1e-6
            assert local.max() < 94 + 1e-6


def test_legacy_jitter_is_clamped_as_in_the_reference():
    uv = scattered()
    one, settings = sample(uv), config({"crop": "legacy"}, crop_scale_sigma=0.0, crop_offset_sigma=1.0)
    center, fit = uv[[8, 11]].mean(axis=0), np.abs(uv - uv[[8, 11]].mean(axis=0)).max()
    differ = 0
    for seed in range(20):
        offset = fit * augment.jitter(np.random.RandomState(seed), 0.0, 1.0)[1]
        half = fit * 1.8
        expected = np.minimum(np.maximum(offset, center - half - uv.min(axis=0) + 1), center + half - uv.max(axis=0) - 1)
        found = crop.crop_2d(one, size=368, config=settings, skeleton=BODY, drawn=drawn(seed, settings))
        assert np.allclose(found.center, center + expected, atol=1e-3)
        differ += not np.allclose(expected, offset)
    assert differ


# What an example holds.


@pytest.mark.parametrize("skeleton", [BODY, HAND])
def test_shapes_and_types(tmp_path, skeleton):
    n = len(skeleton.joints)
    example = make(sample(scattered(joints=n), image=noise(tmp_path / "a.png"), box=(0, 0, 30, 50)), skeleton=skeleton)
    assert [(a.shape, a.dtype) for a in (example.image, example.mask, example.uv, example.xyz, example.valid)] == [
        ((64, 64, 3), np.uint8), ((64, 64), np.uint8), ((n, 2), np.float32), ((n, 3), np.float32), ((n,), bool)
    ]  # fmt: skip
    assert example.name == "a#0"
    assert example.is_3d is False
    assert (example.xyz[:, :2] == example.uv).all()
    assert (example.xyz[:, 2] == 0).all()
    found = crop.crop_2d(sample(scattered(joints=n)), size=64, config=Config(), skeleton=skeleton)
    assert example.yardstick == pytest.approx(50 * found.scale)


def test_a_sample_in_space_keeps_its_place_in_the_camera_s_frame(tmp_path):
    one = in_space(distortion=(-0.1, 0.02, 0.001, -0.002, 0))._replace(image=noise(tmp_path / "a.png"))
    example = make(one, rng=np.random.RandomState(0))
    assert example.is_3d is True
    assert (example.xyz == one.xyz).all()


@pytest.mark.parametrize("mode", ["exact", "legacy"])
def test_a_mirrored_sample_is_the_mirror_image_of_the_straight_one(tmp_path, mode):
    for one in (in_space(skeleton=HAND), sample(scattered(joints=21))):
        one = one._replace(image=noise(tmp_path / "a.png", 400, 500), others=np.array([[250, 100, 300, 200]], np.int32))
        straight, mirrored = [make(s, 64, config({"crop": mode}), HAND, np.random.RandomState(1)) for s in (one, one._replace(mirror=True))]
        for key in ("image", "mask"):
            assert np.abs(getattr(mirrored, key).astype(int) - getattr(straight, key)[:, ::-1]).max() <= 1
        assert np.allclose(mirrored.uv[:, 0], 63 - straight.uv[:, 0], atol=1e-4)
        assert (mirrored.uv[:, 1] == straight.uv[:, 1]).all()
        if one.xyz is not None:
            assert (mirrored.xyz == straight.xyz * np.array([-1, 1, 1], np.float32)).all()
        else:
            assert (mirrored.xyz[:, :2] == mirrored.uv).all()


def test_same_sample_config_and_seed_give_the_same_example(tmp_path):
    one = sample(scattered(), image=noise(tmp_path / "a.png"))
    first, again, other = [make(one, rng=np.random.RandomState(seed)) for seed in (5, 5, 6)]
    for a, b in zip(first, again):
        assert np.array_equal(a, b)
    assert not np.array_equal(first.uv, other.uv)


def test_colours_are_red_green_blue(tmp_path):
    pixels = np.zeros((50, 50, 3), np.uint8)
    pixels[..., 2] = 255
    example = make(sample(scattered(low=(20, 20), high=(30, 30)), image=write(tmp_path / "red.png", pixels)), size=16)
    assert example.image[8, 8].tolist() == [255, 0, 0]


def test_grey_images_have_three_equal_channels(tmp_path):
    image = write(tmp_path / "grey.jpg", np.random.RandomState(0).randint(0, 256, (50, 50), np.uint8))
    example = make(sample(scattered(low=(20, 20), high=(30, 30)), image=image), size=16)
    assert np.ptp(example.image, axis=2).max() == 0


def test_the_config_is_not_changed(tmp_path):
    settings = Config()
    before = dataclasses.asdict(settings)
    make(sample(scattered(), image=noise(tmp_path / "a.png")), settings=settings, rng=np.random.RandomState(0))
    assert dataclasses.asdict(settings) == before
