"""Crops: where they lie, that image, mask and labels agree, and what damaged files say."""

import dataclasses
import os

import cv2
import numpy as np
import pytest

from mtc.data import crop
from mtc.data.sample import Camera, Sample
from mtc.errors import UserError
from mtc.geometry import project_from_camera
from mtc.sections import Compat, Config, Data
from mtc.skeleton import BODY, HAND

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "shared", "golden")
needs_golden = pytest.mark.skipif(not os.path.isdir(GOLDEN), reason="the golden numbers are not beside the project")

NOBODY = np.zeros((0, 4), np.int32)


def config(compat=None, **data):
    return Config(data=Data(**data), compat=Compat(**(compat or {})))


def sample(uv, valid=None, image="", mask=None, others=NOBODY, box=(0, 0, 0, 0), **more):
    uv = np.asarray(uv, np.float32)
    valid = np.ones(len(uv), bool) if valid is None else np.asarray(valid, bool)
    others, box = np.asarray(others, np.int32), np.asarray(box, np.float32)
    return Sample(name="a#0", image=str(image), mask=mask, uv=uv, valid=valid, others=others, box=box, **more)


def scattered(seed=0, joints=20, low=(100, 60), high=(400, 380)):
    return np.random.RandomState(seed).uniform(low, high, (joints, 2))


def write(path, pixels, *options):
    assert cv2.imwrite(str(path), pixels, *options)
    return str(path)


def noise(path, height=120, width=160, seed=0):
    return write(path, np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8))


def make(one, size=64, settings=None, skeleton=BODY, rng=None):
    return crop.crop_sample(one, size=size, config=settings or Config(), skeleton=skeleton, rng=rng)


def in_space(seed=0, skeleton=BODY, distortion=(0, 0, 0, 0, 0)):
    """Return a 3D sample whose uv is the projection of its xyz."""
    camera = Camera(np.array([[700.0, 0, 320], [0, 710, 240], [0, 0, 1]]), np.eye(3), np.zeros(3), np.asarray(distortion, np.float64))
    xyz = np.random.RandomState(seed).uniform((-50, -80, 250), (50, 80, 330), (len(skeleton.joints), 3))
    return sample(project_from_camera(xyz, camera), xyz=xyz.astype(np.float32), camera=camera, box=(200, 100, 150, 300))


# Where a crop lies.


def test_centre_is_between_the_hips_and_the_side_reaches_the_farthest_joint():
    uv = scattered()
    found = crop.crop_2d(sample(uv), size=368, config=Config(), skeleton=BODY, rng=None)
    center = (uv[8] + uv[11]) / 2
    assert np.allclose(found.center, center, atol=1e-4)
    assert found.scale == pytest.approx(368 / (2 * 1.8 * np.abs(uv - center).max()), rel=1e-6)
    assert np.allclose(found.local(found.center, 368), 184)


def test_without_a_hip_the_centre_is_the_middle_of_the_valid_joints():
    uv, valid = scattered(), np.ones(20, bool)
    valid[[8, 3]] = False
    found = crop.crop_2d(sample(uv, valid), size=368, config=Config(), skeleton=BODY, rng=None)
    assert np.allclose(found.center, (uv[valid].min(axis=0) + uv[valid].max(axis=0)) / 2, atol=1e-4)


def test_a_hand_is_centred_on_the_base_of_its_middle_finger():
    uv = scattered(joints=21)
    found = crop.crop_2d(sample(uv), size=368, config=Config(), skeleton=HAND, rng=None)
    assert np.allclose(found.center, uv[12], atol=1e-4)


@pytest.mark.parametrize("mode", ["exact", "legacy"])
@pytest.mark.parametrize("valid", [[5], []])
def test_joints_that_span_nothing_are_cropped_by_their_box(mode, valid):
    flags = np.zeros(20, bool)
    flags[valid] = True
    one = sample(np.full((20, 2), 70.0), flags, box=(50, 40, 60, 100))
    found = crop.crop_2d(one, size=64, config=config({"crop": mode}), skeleton=BODY, rng=None)
    assert found.center.tolist() == [80, 90]
    assert found.scale == pytest.approx(64 / (100 * 1.8))


def test_a_sample_without_any_extent_is_refused():
    with pytest.raises(UserError, match="sample a#0 .*neither its valid joints nor its box"):
        crop.crop_2d(sample(np.zeros((20, 2))), size=64, config=Config(), skeleton=BODY, rng=None)


@needs_golden
def test_crops_of_real_people_equal_the_reference():
    z = np.load(os.path.join(GOLDEN, "coco_crops.npz"))
    for body, valid, center, scale, local in zip(z["body"], z["valid"], z["center"], z["scale"], z["local"]):
        for mode in ("exact", "legacy"):
            found = crop.crop_2d(sample(body, valid), size=368, config=config({"crop": mode}), skeleton=BODY, rng=None)
            assert np.abs(found.center - center).max() < 1e-4
            assert abs(found.scale - scale) < 1e-6
            assert np.abs(found.local(body, 368) - local)[valid].max() < 1e-4


@needs_golden
def test_crop_of_a_person_in_space_equals_the_reference():
    z = np.load(os.path.join(GOLDEN, "crop3d.npz"))
    camera = Camera(z["K"].astype(np.float64), np.eye(3), np.zeros(3), np.zeros(5))
    one = sample(z["uv"], z["valid"], xyz=z["xyz"], camera=camera)
    for mode in ("exact", "legacy"):
        found = crop.crop_3d(one, size=368, config=config({"crop": mode}), skeleton=BODY, rng=None)
        assert np.abs(found.center - z["center2d"]).max() < 1e-4
        assert found.scale == pytest.approx(float(z["scale2d"]), rel=1e-6)
        assert np.abs(found.center3d - z["center3d"]).max() < 1e-4
        assert found.scale3d == pytest.approx(float(z["scale3d"]), rel=1e-6)
    assert np.abs(project_from_camera(z["xyz"], camera) - z["uv"])[z["valid"]].max() < 1e-3


@pytest.mark.parametrize("skeleton", [BODY, HAND])
def test_a_crop_in_space_is_the_projection_of_its_square(skeleton):
    one = in_space(skeleton=skeleton)
    found = crop.crop_3d(one, size=368, config=Config(), skeleton=skeleton, rng=None)
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
    found = crop.crop_3d(one._replace(valid=valid), size=64, config=Config(), skeleton=BODY, rng=None)
    assert np.allclose(found.center3d, one.xyz[3])
    assert 64 / found.scale == pytest.approx(300 * 1.5)


def test_a_person_behind_the_camera_is_refused():
    one = in_space()
    with pytest.raises(UserError, match="in front of the camera"):
        crop.crop_3d(one._replace(xyz=-one.xyz), size=64, config=Config(), skeleton=BODY, rng=None)


def test_the_stretch_never_makes_a_box_in_space_smaller_than_the_person():
    one, settings = in_space(), config(crop_scale_sigma=1.0, crop_offset_sigma=0.0)
    straight = crop.crop_3d(one, size=64, config=settings, skeleton=BODY, rng=None)
    for seed in range(40):
        found = crop.crop_3d(one, size=64, config=settings, skeleton=BODY, rng=np.random.RandomState(seed))
        assert straight.scale3d / found.scale3d >= 1 / 1.5 - 1e-9


# Jitter.


def test_jitter_stays_within_two_sigma_and_spreads_as_a_truncated_normal():
    rng = np.random.RandomState(0)
    drawn = [crop.jitter(rng, 0.1, 0.2) for _ in range(4000)]
    stretches, offsets = np.log([s for s, _ in drawn]), np.array([o for _, o in drawn])
    assert np.abs(stretches).max() <= 0.2
    assert np.abs(offsets).max() <= 0.4
    assert abs(stretches.std() - 0.088) < 0.004
    assert abs(offsets.std() - 0.176) < 0.006
    assert abs(stretches.mean()) < 0.006
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.06


def test_sigmas_of_zero_and_no_generator_do_not_jitter():
    for stretch, offset in (crop.jitter(np.random.RandomState(0), 0.0, 0.0), crop.jitter(None, 0.1, 0.1)):
        assert stretch == 1
        assert (offset == 0).all()


@pytest.mark.parametrize("in_3d", [False, True])
def test_jitter_moves_the_centre_and_stretches_the_side_as_drawn(in_3d):
    one, settings = in_space() if in_3d else sample(scattered()), Config()
    find = crop.crop_3d if in_3d else crop.crop_2d
    straight = find(one, size=368, config=settings, skeleton=BODY, rng=None)
    for seed in range(10):
        stretch, offset = crop.jitter(np.random.RandomState(seed), 0.1, 0.1)
        found = find(one, size=368, config=settings, skeleton=BODY, rng=np.random.RandomState(seed))
        assert straight.scale / found.scale == pytest.approx(stretch, rel=1e-6)
        fit = 368 / straight.scale / 2 / (1.5 if in_3d else 1.8)
        assert np.allclose((found.center - straight.center) / fit, offset, rtol=0.02)


@pytest.mark.parametrize("in_3d", [False, True])
def test_jitter_never_moves_a_joint_out_of_a_crop_that_can_hold_it(in_3d):
    settings = config(crop_scale_sigma=0.1, crop_offset_sigma=1.0)
    for seed in range(30):
        one = in_space(seed) if in_3d else sample(scattered(seed))
        find = crop.crop_3d if in_3d else crop.crop_2d
        local = find(one, size=96, config=settings, skeleton=BODY, rng=np.random.RandomState(seed)).local(one.uv, 96)
        if (np.ptp(local, axis=0) <= 93).all():
            assert local.min() > 1 - 1e-6
            assert local.max() < 94 + 1e-6


def test_legacy_jitter_is_clamped_as_in_the_reference():
    uv = scattered()
    one, settings = sample(uv), config({"crop": "legacy"}, crop_scale_sigma=0.0, crop_offset_sigma=1.0)
    center, fit = uv[[8, 11]].mean(axis=0), np.abs(uv - uv[[8, 11]].mean(axis=0)).max()
    differ = 0
    for seed in range(20):
        offset = fit * crop.jitter(np.random.RandomState(seed), 0.0, 1.0)[1]
        half = fit * 1.8
        expected = np.minimum(np.maximum(offset, center - half - uv.min(axis=0) + 1), center + half - uv.max(axis=0) - 1)
        found = crop.crop_2d(one, size=368, config=settings, skeleton=BODY, rng=np.random.RandomState(seed))
        assert np.allclose(found.center, center + expected, atol=1e-3)
        differ += not np.allclose(expected, offset)
    assert differ


# What a crop shows.


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_bright_dots_at_the_joints_are_found_where_the_labels_say(tmp_path, seed, mirror):
    rng = np.random.RandomState(seed)
    size, dots = 256, np.array([(x, y) for x in (120, 190, 260, 330, 400) for y in (90, 160, 230, 300)]) + rng.uniform(-15, 15, (20, 2))
    rows, columns = np.mgrid[:480, :640]
    bright = sum(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2)) for x, y in dots)
    image = write(tmp_path / "dots.png", np.repeat((255 * np.minimum(bright, 1)).astype(np.uint8)[..., None], 3, axis=2))
    example = make(sample(dots, image=image, box=(0, 0, 9, 9), mirror=mirror), size=size, rng=np.random.RandomState(seed))
    rows, columns = np.mgrid[:size, :size]
    for x, y in example.uv:
        near = np.maximum(example.image[..., 0] + 0.5, 0) * ((columns - x) ** 2 + (rows - y) ** 2 < 12**2)
        assert abs((near * columns).sum() / near.sum() - x) < 0.3
        assert abs((near * rows).sum() / near.sum() - y) < 0.3


def test_exact_crop_interpolates_the_image_at_the_point_of_every_pixel(tmp_path):
    image = noise(tmp_path / "a.png")
    pixels = cv2.imread(image)[..., ::-1].astype(np.float64) / 255 - 0.5
    uv = scattered(low=(30, 20), high=(120, 100))
    example = make(sample(uv, image=image), size=48)
    found = crop.crop_2d(sample(uv), size=48, config=Config(), skeleton=BODY, rng=None)
    for j, i in np.random.RandomState(1).randint(0, 48, (200, 2)):
        x, y = found.center + (np.array([i, j]) - 24) / found.scale
        x0, y0 = int(np.floor(x)), int(np.floor(y))
        if 0 <= x0 < 159 and 0 <= y0 < 119:
            fx, fy = x - x0, y - y0
            upper, lower = [pixels[row, x0] * (1 - fx) + pixels[row, x0 + 1] * fx for row in (y0, y0 + 1)]
            expected = upper * (1 - fy) + lower * fy
            assert np.abs(example.image[j, i] - expected).max() < 0.04  # OpenCV interpolates at 1/32 pixel
            assert example.mask[j, i] == pytest.approx(1)
        elif x < -1 or y < -1 or x > 160 or y > 120:
            assert (example.image[j, i] == 0).all()
            assert example.mask[j, i] == 0


def test_a_crop_far_outside_the_image_is_mid_grey_and_does_not_count(tmp_path):
    image = noise(tmp_path / "a.png")
    for mode in ("exact", "legacy"):
        example = make(sample(scattered(low=(3000, 3000), high=(3100, 3100)), image=image), settings=config({"crop": mode}))
        assert (example.image == 0).all()
        assert (example.mask == 0).all()


def test_mask_is_binarised_and_other_people_are_cut_out_half_open(tmp_path):
    usable = np.zeros((480, 640), np.uint8)
    usable[100:300, 200:400] = 1  # a mask of 0 and 1 counts as one of 0 and 255
    image = write(tmp_path / "a.png", np.zeros((480, 640, 3), np.uint8))
    mask = write(tmp_path / "m.png", usable)
    uv = np.full((20, 2), 240.0)
    uv[0], uv[1] = (240 - 100, 240), (240 + 100, 240)
    # Zoom 1.8 around a reach of 100 at 360 pixels: the crop is the image from (60, 60), pixel by pixel.
    one = sample(uv, image=image, mask=mask, others=[[250, 120, 281, 160], [-50, -50, 210, 110], [390, 290, 9999, 9999], [5, 5, 5, 5]])
    found = make(one, size=360).mask
    usable[120:160, 250:281] = usable[:110, :210] = usable[290:, 390:] = 0
    assert (found == usable[60:420, 60:420]).all()


def test_a_box_of_1240_pixels(tmp_path):
    image = write(tmp_path / "a.png", np.zeros((200, 200, 3), np.uint8))
    usable = crop._usable(sample(np.zeros((20, 2)), others=[[10, 20, 41, 60]]), cv2.imread(image))
    assert (~usable).sum() == 1240
    assert not usable[20:60, 10:41].any()


def test_mask_and_boxes_of_the_worked_example_leave_73_pixels_on_the_canvas(tmp_path):
    usable = np.ones((10, 10), np.uint8)
    usable[1:4, 6:9] = usable[3:7, 3:6] = 0  # an unlabelled person and a crowd
    usable[3, 3] = 1  # a labelled person in the crowd
    mask = write(tmp_path / "m.png", 255 * usable)
    image = write(tmp_path / "a.png", np.zeros((10, 10, 3), np.uint8))
    assert usable.sum() == 80
    assert crop._usable(sample(np.zeros((20, 2)), mask=mask, others=[[5, 5, 8, 8]]), cv2.imread(image)).sum() == 73


def test_mask_edges_are_soft_and_within_0_and_1(tmp_path):
    example = make(sample(scattered(low=(5, 5), high=(150, 110)), image=noise(tmp_path / "a.png")), size=200, rng=np.random.RandomState(3))
    assert example.mask.min() == 0
    assert example.mask.max() <= 1
    assert ((example.mask > 0.01) & (example.mask < 0.99)).any()


@pytest.mark.parametrize("shape", [(120, 160), (700, 900)])
def test_legacy_crop_equals_tensorflow_crop_and_resize(tmp_path, shape):
    tf = pytest.importorskip("tensorflow").compat.v1
    image = noise(tmp_path / "a.png", *shape)
    usable = (np.random.RandomState(1).rand(*shape) > 0.5).astype(np.uint8)
    mask, settings = write(tmp_path / "m.png", usable * 255), config({"crop": "legacy"})
    one = sample(scattered(low=(10, 10), high=(300, 200)), image=image, mask=mask)
    canvas_shape = max(640, shape[0]), max(640, shape[1])
    canvas = np.zeros(canvas_shape + (4,), np.float32)
    canvas[..., :3] = -0.5
    canvas[: shape[0], : shape[1], :3] = cv2.imread(image)[..., ::-1].astype(np.float32) / 255 - 0.5
    canvas[: shape[0], : shape[1], 3] = usable
    for seed in range(3):
        found = crop.crop_2d(one, size=128, config=settings, skeleton=BODY, rng=np.random.RandomState(seed))
        example = make(one, 128, settings, rng=np.random.RandomState(seed))
        side = 128 / found.scale
        x1, y1 = found.center - side // 2
        box = np.array([[y1 / canvas_shape[0], x1 / canvas_shape[1], (y1 + side) / canvas_shape[0], (x1 + side) / canvas_shape[1]]], np.float32)
        with tf.Graph().as_default(), tf.Session() as session:
            expected = session.run(tf.image.crop_and_resize(tf.constant(canvas[None]), tf.constant(box), [0], [128, 128]))[0]
        assert np.abs(example.image - expected[..., :3]).max() < 2e-4
        assert np.abs(example.mask - expected[..., 3]).max() < 2e-4


# What an example holds.


@pytest.mark.parametrize("skeleton", [BODY, HAND])
def test_shapes_and_types(tmp_path, skeleton):
    n = len(skeleton.joints)
    example = make(sample(scattered(joints=n), image=noise(tmp_path / "a.png"), box=(0, 0, 30, 50)), skeleton=skeleton)
    assert [(a.shape, a.dtype) for a in (example.image, example.mask, example.uv, example.xyz, example.valid)] == [
        ((64, 64, 3), np.float32), ((64, 64), np.float32), ((n, 2), np.float32), ((n, 3), np.float32), ((n,), bool)
    ]  # fmt: skip
    assert example.name == "a#0"
    assert example.is_3d is False
    assert (example.xyz[:, :2] == example.uv).all()
    assert (example.xyz[:, 2] == 0).all()
    assert example.image.min() >= -0.5
    assert example.image.max() <= 0.5
    found = crop.crop_2d(sample(scattered(joints=n)), size=64, config=Config(), skeleton=skeleton, rng=None)
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
        assert (mirrored.image == straight.image[:, ::-1]).all()
        assert (mirrored.mask == straight.mask[:, ::-1]).all()
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
    assert np.allclose(example.image[8, 8], [0.5, -0.5, -0.5])


def test_grey_images_have_three_equal_channels(tmp_path):
    image = write(tmp_path / "grey.jpg", np.random.RandomState(0).randint(0, 256, (50, 50), np.uint8))
    example = make(sample(scattered(low=(20, 20), high=(30, 30)), image=image), size=16)
    assert np.ptp(example.image, axis=2).max() == 0


def test_rotation_by_exif_is_ignored(tmp_path):
    path = tmp_path / "a.jpg"
    noise(path, 40, 80)
    data = path.read_bytes()
    # APP1 with one EXIF entry: orientation (0x0112) 6, turn by 90 degrees.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    assert cv2.imread(str(path)).shape == (80, 40, 3)
    assert crop.read_image(str(path)).shape == (40, 80, 3)


# Damaged files.


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.99])
def test_a_truncated_image_is_refused_by_name(tmp_path, name, share):
    path = tmp_path / name
    noise(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match="image .*{} is truncated after".format(name)):
        make(sample(scattered(), image=path))


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path):
    path = tmp_path / "a.jpg"
    noise(path)
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert crop.read_image(str(path)).shape == (120, 160, 3)


def test_missing_unreadable_and_foreign_files_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="image .*no.jpg cannot be read: No such file"):
        make(sample(scattered(), image=tmp_path / "no.jpg"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        make(sample(scattered(), image=tmp_path))
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="text.jpg is no image that OpenCV can decode"):
        make(sample(scattered(), image=tmp_path / "text.jpg"))


def test_a_damaged_mask_and_one_of_another_size_are_refused_by_name(tmp_path):
    image = noise(tmp_path / "a.png")
    mask = tmp_path / "m.png"
    write(mask, np.zeros((120, 161), np.uint8))
    with pytest.raises(UserError, match="m.png has 161 x 120 pixels, its image .*a.png has 160 x 120"):
        make(sample(scattered(), image=image, mask=str(mask)))
    mask.write_bytes(mask.read_bytes()[:-15])
    with pytest.raises(UserError, match="mask .*m.png is truncated"):
        make(sample(scattered(), image=image, mask=str(mask)))


def test_the_config_is_not_changed(tmp_path):
    settings = Config()
    before = dataclasses.asdict(settings)
    make(sample(scattered(), image=noise(tmp_path / "a.png")), settings=settings, rng=np.random.RandomState(0))
    assert dataclasses.asdict(settings) == before
