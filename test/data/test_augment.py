"""Augmentation: labels move with the image, colours do not touch them, and one change leaves the others as they are."""

import dataclasses

import cv2
import numpy as np
import pytest

from mtc import config as configuration
from mtc import geometry
from mtc.data import augment, crop, warp
from mtc.errors import UserError
from mtc.sections import Augment, Config
from mtc.skeleton import BODY, HAND
from test.data.made import config, dotted, in_space, make, noise, sample, scattered, spot, write

ALL = {"rotate": 40.0, "flip": 0.5, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1, "blur": 0.5, "occlude": 0.5}
MOVES = {
    "rotation": ({"rotate": 60.0}, 0.0, 0.0),
    "scale": ({}, 0.3, 0.0),
    "shift": ({}, 0.0, 0.3),
    "flip": ({"flip": 1.0}, 0.0, 0.0),
    "together": ({"rotate": 60.0, "flip": 0.5}, 0.2, 0.2),
}


def drawn(seed, settings):
    return augment.draw(np.random.RandomState(seed), settings)


def moving(name):
    wanted, scale, offset = MOVES[name]
    return config(augment=wanted, crop_scale_sigma=scale, crop_offset_sigma=offset)


# What is drawn.


def test_nothing_is_drawn_by_default_but_the_jitter():
    found = drawn(3, Config())
    assert found._replace(stretch=1.0, offset=(0.0, 0.0), patch=None) == augment.NOTHING
    assert found.stretch != 1
    assert augment.draw(None, config(augment=ALL)) == augment.NOTHING


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("key", sorted(ALL))
def test_switching_one_on_changes_nothing_else(key, seed):
    own = {"rotate": {"turn"}, "flip": {"flip"}, "blur": {"blur"}, "occlude": {"hidden"}}.get(key, {"colour"})
    without = dict(ALL, **{key: 0.0})
    for more, fewer in ((config(augment={key: ALL[key]}), Config()), (config(augment=ALL), config(augment=without))):
        one, other = drawn(seed, more), drawn(seed, fewer)
        changed = {name for name in one._fields if not np.array_equal(getattr(one, name), getattr(other, name))}
        assert changed <= own


def test_strengths_and_shares_are_as_configured():
    many = [drawn(seed, config(augment=dict(ALL, blur_sigma=2.0, occlude_size=0.3))) for seed in range(600)]
    turns = np.array([one.turn for one in many])
    assert np.abs(turns).max() <= 40
    assert abs(turns.mean()) < 3
    assert turns.std() == pytest.approx(40 / 3**0.5, rel=0.1)
    for share in (np.mean([one.flip for one in many]), np.mean([one.blur > 0 for one in many]), np.mean([one.hidden is not None for one in many])):
        assert share == pytest.approx(0.5, abs=0.07)
    assert max(one.blur for one in many) <= 2
    hidden = np.array([one.hidden for one in many if one.hidden])
    assert hidden.min() >= 0
    assert hidden[:, 2:].max() <= 0.3
    assert hidden[:, 2:].min() >= 0.3 / 4
    assert (hidden[:, :2] + hidden[:, 2:]).max() <= 1


def test_the_jitter_of_a_sample_is_what_it_is_without_augmentation():
    rng = np.random.RandomState(5)
    stretch, offset = augment.jitter(rng, 0.1, 0.1)
    found = drawn(5, config(augment=ALL))
    assert found.stretch == stretch
    assert (found.offset == offset).all()


# Image, mask and labels move together.


@pytest.mark.parametrize("in_3d", [False, True])
@pytest.mark.parametrize("name", sorted(MOVES))
def test_dots_at_the_joints_are_found_where_the_moved_labels_say(tmp_path, name, in_3d):
    for seed in range(3):
        one = apart(in_3d, seed)
        image = dotted(tmp_path / "a.png", one.uv)
        usable = np.zeros((480, 640), np.uint8)
        for x, y in one.uv:
            cv2.circle(usable, (int(round(x * 16)), int(round(y * 16))), 6 * 16, 255, -1, shift=4)
        one = one._replace(image=image, mask=write(tmp_path / "m.png", usable))
        example = make(one, 224, moving(name), rng=np.random.RandomState(seed))
        bright = np.where(example.mask > 0, example.image[..., 0], 0).astype(float)
        for place in example.uv[inside(example.uv, 224)]:
            assert np.abs(spot(bright, place, 9) - place).max() < 0.5
            assert np.abs(spot(example.mask.astype(float), place, 9) - place).max() < 0.5


@pytest.mark.parametrize("name", ["rotation", "flip", "together"])
def test_dots_of_an_image_decoded_smaller_are_found_where_the_moved_labels_say(tmp_path, name):
    one = apart(False, 1)
    uv = one.uv * 3 + 2
    one = one._replace(uv=uv, image=dotted(tmp_path / "a.jpg", uv, 1441, 1923, sigma=9.0, options=[cv2.IMWRITE_JPEG_QUALITY, 98]))
    for seed in range(2):
        found, _ = crop.label_sample(one, size=224, config=moving(name), skeleton=BODY, drawn=drawn(seed, moving(name)))
        assert warp.shrinking(found.scale) > 1
        example = make(one, 224, moving(name), rng=np.random.RandomState(seed))
        inner = example.uv[inside(example.uv, 224)]
        assert len(inner)
        for place in inner:
            assert np.abs(spot(np.where(example.mask == 255, example.image[..., 0], 0).astype(float), place, 9) - place).max() < 0.5


def apart(in_3d, seed):
    """Return a sample whose joints are far enough from each other to be told apart."""
    rng = np.random.RandomState(seed)
    uv = np.array([(x, y) for x in (130, 220, 310, 400, 490) for y in (80, 180, 280, 380)], np.float64) + rng.uniform(-14, 14, (20, 2))
    if not in_3d:
        return sample(uv)
    one = in_space(seed)
    depth = rng.uniform(280, 300, 20)
    K = one.camera.K
    xyz = np.stack([(uv[:, 0] - K[0, 2]) / K[0, 0] * depth, (uv[:, 1] - K[1, 2]) / K[1, 1] * depth, depth], axis=1)
    return one._replace(uv=uv.astype(np.float32), xyz=xyz.astype(np.float32))


def inside(uv, size):
    return ((uv > 12) & (uv < size - 13)).all(axis=1)


@pytest.mark.parametrize("in_3d", [False, True])
def test_no_turn_moves_a_joint_out_of_a_crop_that_can_hold_it(in_3d):
    settings, turned = config(augment={"rotate": 180.0}, crop_scale_sigma=0.1, crop_offset_sigma=1.0), 0
    for seed in range(60):
        one, chance = in_space(seed) if in_3d else sample(scattered(seed)), drawn(seed, settings)
        find = crop.crop_3d if in_3d else crop.crop_2d
        straight, found = (find(one, size=96, config=settings, skeleton=BODY, drawn=d) for d in (chance._replace(turn=0.0), chance))
        assert found.scale <= straight.scale
        if (np.ptp(straight.local(one.uv, 96), axis=0) <= 92.9).all():
            local = found.local(one.uv, 96).astype(np.float32)
            assert local.min() >= 1
            assert local.max() <= 94
            turned += 1
        elif not in_3d:
            assert found.scale == straight.scale
    assert turned > 20


def test_a_turn_is_counter_clockwise_as_seen_and_leaves_the_centre():
    settings = config(augment={"rotate": 90.0}, crop_scale_sigma=0.0, crop_offset_sigma=0.0)
    chance = drawn(0, settings)._replace(turn=30.0)
    found = crop.crop_2d(sample(scattered()), size=368, config=settings, skeleton=BODY, drawn=chance)
    right = found.local([found.center + [10 / found.scale, 0]], 368)[0]
    assert np.allclose(right, [184 + 10 * np.cos(np.pi / 6), 184 - 10 * np.sin(np.pi / 6)])
    assert np.allclose(found.local([found.center], 368), 184)


@pytest.mark.parametrize("mirror", [False, True])
def test_to_image_is_the_inverse_of_local(mirror):
    found = crop.Crop(np.array([120.0, 80]), 0.7, turn=25.0, mirror=mirror)
    places = np.random.RandomState(0).uniform(0, 64, (9, 2))
    back = np.append(places, np.ones((9, 1)), axis=1) @ found.to_image(64).T
    assert np.allclose(found.local(back, 64), places)


def test_joints_in_space_turn_around_the_axis_of_view_as_the_image_does():
    one, settings = in_space(), config(augment={"rotate": 50.0})
    for seed in range(4):
        chance = drawn(seed, settings)
        _, example = crop.label_sample(one, size=64, config=settings, skeleton=BODY, drawn=chance)
        assert np.allclose(example.xyz[:, :2], one.xyz[:, :2] @ geometry.rotation(chance.turn).T, atol=1e-3)
        assert (example.xyz[:, 2] == one.xyz[:, 2]).all()
        flat = one._replace(xyz=None)
        _, example = crop.label_sample(flat, size=64, config=settings, skeleton=BODY, drawn=chance)
        assert (example.xyz[:, :2] == example.uv).all()
        assert not example.xyz[:, 2].any()


# Mirrors.


def test_a_flip_exchanges_left_and_right_joints_and_their_validity():
    valid = np.random.RandomState(0).rand(20) < 0.6
    for one in (sample(scattered(), valid), in_space()._replace(valid=valid)):
        _, straight = crop.label_sample(one, size=64, config=Config(), skeleton=BODY)
        _, flipped = crop.label_sample(one, size=64, config=Config(), skeleton=BODY, drawn=augment.Drawn(flip=True))
        partner = dict(BODY.swap + tuple((b, a) for a, b in BODY.swap))
        for j in range(20):
            other = partner.get(j, j)
            assert np.allclose(flipped.uv[j], [63 - straight.uv[other, 0], straight.uv[other, 1]], atol=1e-4)
            assert flipped.valid[j] == valid[other]
            if one.xyz is not None:
                assert (flipped.xyz[j] == straight.xyz[other] * np.array([-1, 1, 1], np.float32)).all()


def test_a_flip_exchanges_the_limbs_in_pairs_and_negates_the_x_of_their_directions():
    pairs = [(0, 3), (1, 4), (2, 5), (6, 10), (7, 11), (8, 12), (9, 13), (15, 16), (17, 18), (21, 22)]
    partner = dict(pairs + [(b, a) for a, b in pairs])
    for one in (sample(scattered()), in_space()):
        straight, flipped = (
            crop.label_sample(one, size=64, config=Config(), skeleton=BODY, drawn=augment.Drawn(flip=flip))[1].xyz for flip in (False, True)
        )
        for k, (start, end) in enumerate(BODY.limbs):
            a, b = BODY.limbs[partner.get(k, k)]
            assert np.allclose(flipped[end] - flipped[start], (straight[b] - straight[a]) * [-1, 1, 1], atol=1e-3)


@pytest.mark.parametrize("turn", [0.0, 30.0])
def test_the_flipped_crop_of_an_image_is_the_crop_of_the_mirrored_image(tmp_path, turn):
    order = np.arange(20)
    for left, right in BODY.swap:
        order[[left, right]] = right, left
    uv, valid = scattered(low=(280, 180), high=(360, 240)), np.random.RandomState(1).rand(20) < 0.8
    mirrored_uv = ([639, 0] + uv * [-1, 1])[order]
    image, others = noise(tmp_path / "a.png", 480, 640), np.array([[300, 190, 320, 210]])
    mirrored = write(tmp_path / "b.png", cv2.imread(image)[:, ::-1])
    mirrored_others = np.array([[640 - 320, 190, 640 - 300, 210]])
    found = []
    for one, chance in (
        (sample(uv, valid, image, others=others), augment.Drawn(flip=True, turn=turn)),
        (sample(mirrored_uv, valid[order], mirrored, others=mirrored_others), augment.Drawn(turn=-turn)),
    ):
        place, labels = crop.label_sample(one, size=128, config=Config(), skeleton=BODY, drawn=chance)
        pixels = np.empty((128, 128, 3), np.uint8), np.empty((128, 128), np.uint8)
        crop._cut_exact(one, place, chance, None, pixels)
        found.append(labels._replace(image=pixels[0].astype(int), mask=pixels[1].astype(int)))
    flipped, expected = found
    # The centre of a crop lies at S / 2, half a pixel beside the middle of its pixels, which a mirror moves to the other side.
    assert np.allclose(flipped.uv + [1, 0], expected.uv, atol=1e-3)
    assert (flipped.valid == expected.valid).all()
    assert np.abs(flipped.image[:, :-1] - expected.image[:, 1:]).max() <= 1
    assert np.abs(flipped.mask[:, :-1] - expected.mask[:, 1:]).max() <= 1
    assert 0 < (flipped.mask == 0).sum() < 128 * 128 / 2


def test_flipping_twice_gives_the_same_labels_and_pixels(tmp_path):
    image = noise(tmp_path / "a.png", 480, 640)
    one = sample(scattered(joints=21), image=image)._replace(mirror=True)
    straight, back = (
        make(s, 64, config(augment={"flip": flip}), HAND, np.random.RandomState(1)) for s, flip in ((one._replace(mirror=False), 0), (one, 1))
    )
    for key in ("image", "mask", "uv", "xyz"):
        assert (getattr(straight, key) == getattr(back, key)).all()


# Pixels.


@pytest.mark.parametrize("key", ["brightness", "contrast", "saturation", "hue", "blur", "occlude"])
def test_what_changes_pixels_leaves_labels_and_mask_alone(tmp_path, key):
    one = sample(scattered(low=(50, 35), high=(110, 85)), image=noise(tmp_path / "a.png"), others=[[30, 30, 60, 60]])
    settings = config(augment={key: 1.0 if key in ("blur", "occlude") else 0.4})
    plain, changed = (make(one, 96, s, rng=np.random.RandomState(2)) for s in (Config(), settings))
    assert np.abs(plain.image.astype(int) - changed.image).mean() > 1
    for name in set(plain._fields) - {"image"}:
        assert np.array_equal(getattr(plain, name), getattr(changed, name))


@pytest.mark.parametrize("mode", ["exact", "legacy"])
def test_what_is_outside_the_image_stays_grey_and_does_not_count(tmp_path, mode):
    white = write(tmp_path / "a.png", np.full((640, 640, 3), 255, np.uint8))
    wanted = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5, "rotate": 45.0 if mode == "exact" else 0.0}
    one = sample(scattered(low=(100, 100), high=(540, 540)), image=white)
    for seed in range(4):
        example = make(one, 96, config({"crop": mode}, wanted), rng=np.random.RandomState(seed))
        outside = example.mask == 0
        assert outside.any()
        assert (example.image[outside] == 128).all()
        assert (example.mask == 255).any()


def test_corners_that_a_turn_brings_in_show_the_image_where_there_is_some(tmp_path):
    image = write(tmp_path / "a.png", np.full((900, 900, 3), 200, np.uint8))
    example = make(
        sample(scattered(low=(400, 400), high=(500, 500)), image=image), settings=config(augment={"rotate": 45.0}), rng=np.random.RandomState(1)
    )
    assert (example.image == 200).all()
    assert (example.mask == 255).all()


def apply(matrix, colour):
    return matrix[:, :3] @ np.asarray(colour, np.float64) + matrix[:, 3]


def test_the_colour_matrix_does_what_its_parts_say():
    rng = np.random.RandomState(0)
    colours = rng.uniform(0, 255, (10, 3))
    assert np.allclose(augment.colour_matrix(0, 0, 0, 0), np.eye(3, 4))
    for colour in colours:
        grey = augment.LUMA @ colour
        assert np.allclose(apply(augment.colour_matrix(0.3, 0, 0, 0), colour), 1.3 * colour)
        assert np.allclose(apply(augment.colour_matrix(0, -0.4, 0, 0), colour), 127.5 + 0.6 * (colour - 127.5))
        assert np.allclose(apply(augment.colour_matrix(0, 0, -1, 0), colour), grey)
        assert np.allclose(apply(augment.colour_matrix(0, 0, 0.5, 0), colour), grey + 1.5 * (colour - grey))
        turned = apply(augment.colour_matrix(0, 0, 0, 0.3), colour)
        assert augment.LUMA @ turned == pytest.approx(grey)
        assert np.allclose(apply(augment.colour_matrix(0, 0, 0, -0.3), turned), colour)
        assert not np.allclose(turned, colour, atol=1)
    assert np.allclose(apply(augment.colour_matrix(0, 0, 0.7, 0.4), [90, 90, 90]), 90)
    once = augment.colour_matrix(0.2, 0.1, -0.3, 0.15)
    steps = [
        augment.colour_matrix(0, 0, 0, 0.15),
        augment.colour_matrix(0, 0, -0.3, 0),
        augment.colour_matrix(0.2, 0, 0, 0),
        augment.colour_matrix(0, 0.1, 0, 0),
    ]
    for colour in colours:
        stepwise = colour
        for step in steps:
            stepwise = apply(step, stepwise)
        assert np.allclose(apply(once, colour), stepwise)


def test_a_turn_of_the_hue_moves_red_towards_other_colours_of_the_circle():
    red = np.array([200.0, 40, 40])
    hues = []
    for turn in (0, 0.1, 0.2, 0.3):
        pixel = np.clip(apply(augment.colour_matrix(0, 0, 0, turn), red), 0, 255).astype(np.uint8).reshape(1, 1, 3)
        hues.append(int(cv2.cvtColor(pixel, cv2.COLOR_RGB2HSV)[0, 0, 0]) * 2 % 360)
    steps = (np.diff(hues) + 180) % 360 - 180
    assert (np.abs(steps) > 15).all()
    assert (np.sign(steps) == np.sign(steps[0])).all()


def test_colours_of_the_crop_are_those_of_the_matrix(tmp_path):
    image = write(tmp_path / "a.png", np.full((200, 200, 3), (40, 90, 160), np.uint8))  # BGR
    settings = config(augment={"brightness": 0.3, "contrast": 0.3, "saturation": 0.5, "hue": 0.2})
    for seed in range(3):
        example = make(sample(scattered(low=(90, 90), high=(110, 110)), image=image), settings=settings, rng=np.random.RandomState(seed))
        expected = np.clip(apply(drawn(seed, settings).colour, [160, 90, 40]), 0, 255)
        assert np.abs(example.image[32, 32] - expected).max() <= 1


def test_a_hiding_rectangle_covers_what_was_drawn_and_nothing_else():
    image = np.full((100, 100, 3), 7, np.uint8)
    one = augment.Drawn(hidden=(0.2, 0.5, 0.3, 0.25), patch=np.full((1, 1, 3), (1, 2, 3), np.uint8))
    augment.spoil(image, one)
    assert (image[50:75, 20:50] == (1, 2, 3)).all()
    assert (image == 7).all(axis=2).sum() == 100 * 100 - 25 * 30
    textured = np.full((100, 100, 3), 7, np.uint8)
    augment.spoil(textured, one._replace(patch=np.random.RandomState(0).randint(0, 256, (8, 8, 3), np.uint8)))
    assert textured[50:75, 20:50].std() > 20
    augment.spoil(image, augment.NOTHING)


# The configuration.


def test_a_hand_is_never_flipped_and_the_reference_s_crop_never_turned():
    hand = ["model.kind=hand", "data.mix={synthetic_hand: 1}"]
    with pytest.raises(UserError, match="augment.flip=0.5: a hand network is trained on left hands"):
        configuration.load("demo", hand + ["augment.flip=0.5"])
    configuration.load("demo", hand + ["augment.rotate=20", "augment.flip=0"])
    with pytest.raises(UserError, match="augment.rotate=20.0: the reference's crop does not turn"):
        configuration.load("demo", ["augment.rotate=20", "compat.crop=legacy"])
    with pytest.raises(UserError, match="augment.flip: 1.5 is above 1"):
        configuration.load("demo", ["augment.flip=1.5"])


def test_presets_of_the_reference_do_not_augment_and_the_recommended_one_does():
    for name in ("ascend_full", "ascend_perf"):
        assert configuration.load(name).augment == Augment()
    wanted = dataclasses.asdict(configuration.load("coco_body").augment)
    assert all(wanted.values())


def test_augmentation_is_part_of_what_a_run_is_and_the_cache_is_not():
    plain = configuration.load("demo")
    assert configuration.identity(configuration.load("demo", ["augment.rotate=5"])) != configuration.identity(plain)
    assert configuration.identity(configuration.load("demo", ["data.cache_mb=5"])) == configuration.identity(plain)
