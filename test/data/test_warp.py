"""What a crop shows: image, mask and labels agree."""

import cv2
import numpy as np
import pytest

from mtc.data import augment, crop, image_files, warp
from mtc.sections import Config
from mtc.skeleton import BODY
from test.data.made import config, dotted, make, noise, sample, scattered, spot, write


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_bright_dots_at_the_joints_are_found_where_the_labels_say(tmp_path, seed, mirror):
    rng = np.random.RandomState(seed)
    dots = np.array([(x, y) for x in (120, 190, 260, 330, 400) for y in (90, 160, 230, 300)]) + rng.uniform(-15, 15, (20, 2))
    example = make(sample(dots, image=dotted(tmp_path / "a.png", dots), mirror=mirror), size=256, rng=np.random.RandomState(seed))
    for place in example.uv:
        assert np.abs(spot(example.image[..., 0] * (example.image[..., 0] != warp.GREY), place, 12) - place).max() < 0.3


def test_exact_crop_interpolates_the_image_at_the_point_of_every_pixel(tmp_path):
    image = noise(tmp_path / "a.png")
    pixels = cv2.imread(image)[..., ::-1].astype(np.float64)
    uv = scattered(low=(30, 20), high=(120, 100))
    example = make(sample(uv, image=image), size=128)
    found = crop.crop_2d(sample(uv), size=128, config=Config(), skeleton=BODY)
    for j, i in np.random.RandomState(1).randint(0, 128, (200, 2)):
        x, y = found.center + (np.array([i, j]) - 64) / found.scale
        x0, y0 = int(np.floor(x)), int(np.floor(y))
        if 0 <= x0 < 159 and 0 <= y0 < 119:
            fx, fy = x - x0, y - y0
            upper, lower = [pixels[row, x0] * (1 - fx) + pixels[row, x0 + 1] * fx for row in (y0, y0 + 1)]
            expected = upper * (1 - fy) + lower * fy
            assert np.abs(example.image[j, i] - expected).max() < 10  # OpenCV before 5 interpolates at 1/32 pixel
            assert example.mask[j, i] == 255
        elif x < -1 or y < -1 or x > 160 or y > 120:
            assert (example.image[j, i] == 128).all()
            assert example.mask[j, i] == 0


def test_a_crop_far_outside_the_image_is_mid_grey_and_does_not_count(tmp_path):
    image = noise(tmp_path / "a.png")
    for mode in ("exact", "legacy"):
        example = make(sample(scattered(low=(3000, 3000), high=(3100, 3100)), image=image), settings=config({"crop": mode}))
        assert (example.image == 128).all()
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
    assert (found == 255 * usable[60:420, 60:420]).all()


def test_a_box_of_1240_pixels(tmp_path):
    image = write(tmp_path / "a.png", np.zeros((200, 200, 3), np.uint8))
    usable = crop._usable(sample(np.zeros((20, 2)), others=[[10, 20, 41, 60]]), image_files.read_image(image), None)
    assert (usable == 0).sum() == 1240
    assert not usable[20:60, 10:41].any()


def test_mask_and_boxes_of_the_worked_example_leave_73_pixels_on_the_canvas(tmp_path):
    usable = np.ones((10, 10), np.uint8)
    usable[1:4, 6:9] = usable[3:7, 3:6] = 0  # an unlabelled person and a crowd
    usable[3, 3] = 1  # a labelled person in the crowd
    mask = write(tmp_path / "m.png", 255 * usable)
    image = write(tmp_path / "a.png", np.zeros((10, 10, 3), np.uint8))
    assert usable.sum() == 80
    found = crop._usable(sample(np.zeros((20, 2)), mask=mask, others=[[5, 5, 8, 8]]), image_files.read_image(image), None)
    assert (found == 255).sum() == 73
    assert (found == 0).sum() == 27


def test_mask_edges_are_soft(tmp_path):
    example = make(sample(scattered(low=(5, 5), high=(150, 110)), image=noise(tmp_path / "a.png")), size=200, rng=np.random.RandomState(3))
    assert example.mask.min() == 0
    assert example.mask.max() == 255
    assert ((example.mask > 2) & (example.mask < 253)).any()


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
        drawn = augment.draw(np.random.RandomState(seed), settings)
        found = crop.crop_2d(one, size=128, config=settings, skeleton=BODY, drawn=drawn)
        example = make(one, 128, settings, rng=np.random.RandomState(seed))
        side = 128 / found.scale
        x1, y1 = found.center - side // 2
        box = np.array([[y1 / canvas_shape[0], x1 / canvas_shape[1], (y1 + side) / canvas_shape[0], (x1 + side) / canvas_shape[1]]], np.float32)
        with tf.Graph().as_default(), tf.Session() as session:
            expected = session.run(tf.image.crop_and_resize(tf.constant(canvas[None]), tf.constant(box), [0], [128, 128]))[0]
        assert np.abs(example.image - (expected[..., :3] + 0.5) * 255).max() < 0.6  # rounded
        assert np.abs(example.mask - expected[..., 3] * 255).max() < 0.6


# Crops of large images, which are shrunk on the way.


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize(("scale", "k"), [(0.6, 1), (0.5, 2), (0.3, 2), (0.22, 4), (0.12, 8), (0.06, 16)])
def test_dots_and_mask_of_a_large_image_are_found_where_the_labels_say(tmp_path, scale, k, name):
    assert warp.shrinking(scale) == k
    height, width = int(160 / scale) + 3, int(180 / scale) + 5  # odd, and no multiple of k
    wanted = np.array([(x, y) for x in (35, 65, 95, 125) for y in (30, 60, 90, 120, 150)][:20], np.float64)
    dots = (wanted - 80) / scale + [width / 2.0, height / 2.0]
    sigma = max(2.5 / scale, 2.5)
    image = dotted(tmp_path / name, dots, height, width, sigma, [cv2.IMWRITE_JPEG_QUALITY, 98])
    usable = np.zeros((height, width), np.uint8)
    for x, y in dots:
        cv2.circle(usable, (int(round(x * 16)), int(round(y * 16))), int(6 / scale * 16), 255, -1, shift=4)
    # Joints 8 and 11 are the crop's centre and joint 0 its reach.
    uv = np.concatenate([dots, [[width / 2.0, height / 2.0]]])
    reach = 160 / scale / 2 / 1.8
    people = np.full((20, 2), uv[-1])
    people[0, 0] += reach
    one = sample(people, image=image, mask=write(tmp_path / "m.png", usable), others=[[0, 0, 2, 2]])
    found, _ = crop.label_sample(one, size=160, config=Config(), skeleton=BODY)
    assert found.scale == pytest.approx(scale, rel=1e-3)
    example = make(one, size=160)
    for place in found.local(dots, 160):
        assert np.abs(spot(example.image[..., 1].astype(float), place, 12) - place).max() < 0.25
        assert np.abs(spot(example.mask.astype(float), place, 12) - place).max() < 0.4


def textured(height, width, seed=0):
    """Structure of all sizes, as photographs have."""
    rng, image = np.random.RandomState(seed), np.zeros((height, width, 3))
    for size in (4, 16, 64, 256):
        image += cv2.resize(rng.uniform(-1, 1, (size, size, 3)), (width, height), interpolation=cv2.INTER_CUBIC) * 60 / size**0.25
    return np.clip(image + 128, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sampling", [0x111111, 0x221111])
@pytest.mark.parametrize("scale", [0.45, 0.2, 0.11])
def test_a_jpeg_decoded_smaller_gives_the_crop_of_the_whole_one_made_smaller(tmp_path, scale, sampling):
    jpeg = write(tmp_path / "a.jpg", textured(901, 1203), [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling])
    whole = write(tmp_path / "a.png", cv2.imread(jpeg))
    people = np.full((20, 2), (600.0, 450.0))
    people[0, 0] += 128 / scale / 2 / 1.8
    images = [make(sample(people, image=image), size=128).image.astype(int) for image in (jpeg, whole)]
    assert np.abs(images[0] - images[1]).mean() < 1.5
    assert np.abs(images[0] - images[1])[20:-20, 20:-20].max() < 40


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_stripes_too_fine_for_the_crop_become_grey(tmp_path, name):
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 255
    people = np.full((20, 2), 400.0)
    people[0, 0] += 64 / 0.45 / 2 / 1.8
    example = make(sample(people, image=write(tmp_path / name, stripes, [cv2.IMWRITE_JPEG_QUALITY, 100])), size=64)
    assert np.abs(example.image.astype(int) - 128).max() <= 3


def test_what_a_shrunk_mask_says_at_the_edge_of_the_image_is_its_share_inside():
    usable = np.full((5, 5), 255, np.uint8)
    padded = np.pad(usable, ((0, 1), (0, 1)), "constant")
    assert image_files.shrink(padded, 2).tolist() == [[255, 255, 128], [255, 255, 128], [128, 128, 64]]


def test_nothing_of_a_crop_is_read_beyond_what_it_shows():
    identity = np.array([[1.0, 0, 30], [0, 1, 40]])
    assert warp._shown(identity, 10, (100, 200, 3)) == (28, 38, 42, 52)
    assert warp._shown(identity, 10, (42, 33, 3)) == (28, 38, 33, 42)
    assert warp._shown(identity, 10, (5, 5, 3)) == (4, 4, 5, 5)
