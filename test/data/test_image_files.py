"""Files: what is read, how it is shrunk and kept, and what damaged ones say."""

import cv2
import numpy as np
import pytest

from mtc.coco import pictures
from mtc.data import image_files
from mtc.errors import UserError
from test.data.made import make, noise, sample, scattered, write


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
    assert image_files.read_image(str(path)).pixels.shape == (120, 160, 3)


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


def test_rotation_by_exif_is_ignored(tmp_path):
    path = tmp_path / "a.jpg"
    noise(path, 40, 80)
    data = path.read_bytes()
    # APP1 with one EXIF entry: orientation (0x0112) 6, turn by 90 degrees.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    assert cv2.imread(str(path)).shape == (80, 40, 3)
    assert image_files.read_image(str(path)).pixels.shape == (40, 80, 3)


# Shrinking, sizes, and the cache.


@pytest.mark.parametrize("shape", [(64, 96), (61, 90), (1, 7)])
@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_shrunk_image_has_the_mean_of_each_square_and_knows_the_size_of_its_file(tmp_path, name, k, shape):
    smooth = cv2.GaussianBlur(np.random.RandomState(0).randint(0, 256, (*shape, 3), np.uint8), (0, 0), 4)
    raster = image_files.read_image(write(tmp_path / name, smooth, [cv2.IMWRITE_JPEG_QUALITY, 98]), k)
    assert (raster.height, raster.width) == shape
    height, width = -(-shape[0] // k), -(-shape[1] // k)
    assert raster.pixels.shape == (height, width, 3)
    padded = np.pad(smooth.astype(float), ((0, height * k - shape[0]), (0, width * k - shape[1]), (0, 0)), "edge")
    means = padded.reshape(height, k, width, k, 3).mean(axis=(1, 3))
    assert np.abs(raster.pixels - means).mean() < 2.5


def test_the_size_of_a_jpeg_is_read_from_its_frame_alone(tmp_path):
    for name, options in (("a", []), ("progressive", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]), ("restarts", [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])):
        path = tmp_path / (name + ".jpg")
        cv2.imwrite(str(path), np.zeros((40, 70, 3), np.uint8), options)
        data = path.read_bytes()
        assert pictures.frame(data) == (70, 40, 3)
        thumbnail = b"\xff\xe1\x00\x10Exif\0\0\xff\xc0\x00\x0b\x08\0\x01\0"  # a frame header inside another segment is none
        assert pictures.frame(data[:2] + thumbnail + data[2:]) == (70, 40, 3)
        assert pictures.frame(data[:2] + b"\xff\xff" + data[2:]) == (70, 40, 3)
    for data in (b"", b"\xff\xd8", b"\x89PNG", b"\xff\xd8\xff\xc0\0\x0b", b"\xff\xd8garbage and more garbage"):
        assert pictures.frame(data) is None


def test_a_cache_reads_a_file_once_and_keeps_no_more_than_it_may(tmp_path):
    paths = [noise(tmp_path / "{}.png".format(n), 300, 400, n) for n in range(4)]  # 0.34 MB each
    asked = []

    def read(cache, path):
        return cache.get(path, lambda: asked.append(path) or image_files.read_image(path))

    cache = image_files.Cache(1)
    first = [read(cache, path) for path in paths]
    again = [read(cache, path) for path in paths]
    assert asked == paths + paths[2:]  # two fit
    assert all((a.pixels == b.pixels).all() for a, b in zip(first, again))
    none = image_files.Cache(0)
    assert read(none, paths[0]) is not read(none, paths[0])


def test_a_cached_mask_survives_the_boxes_of_other_people(tmp_path):
    cache, mask = image_files.Cache(10), write(tmp_path / "m.png", np.full((120, 160), 255, np.uint8))
    image = noise(tmp_path / "a.png")
    crowded = sample(scattered(low=(30, 20), high=(120, 100)), image=image, mask=mask, others=[[0, 0, 160, 120]])
    alone = crowded._replace(others=crowded.others[:0])
    assert not make(crowded, cache=cache).mask.any()
    assert make(alone, cache=cache).mask.any()


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_mask_is_0_and_255_whatever_it_counts_with(tmp_path, depth):
    pixels = np.zeros((6, 9), depth)
    pixels[2, 3], pixels[4, 5] = 1, np.iinfo(depth).max
    raster = image_files.read_mask(write(tmp_path / "m.png", pixels))
    assert raster.pixels.dtype == np.uint8
    assert np.argwhere(raster.pixels == 255).tolist() == [[2, 3], [4, 5]]
    assert (raster.pixels == 0).sum() == 52


@pytest.mark.parametrize("mode", ["CMYK", "L"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_cmyk_and_grey_jpegs_become_colours(tmp_path, mode, k):
    image = pytest.importorskip("PIL.Image")
    rgb = np.zeros((120, 160, 3), np.uint8)
    rgb[:, :80, 0], rgb[:, 80:, 2], rgb[60:, :, 1] = 200, 150, 90
    image.fromarray(rgb).convert(mode).save(str(tmp_path / "a.jpg"), quality=95)
    found = image_files.read_image(str(tmp_path / "a.jpg"), k).pixels
    expected = np.array(image.fromarray(rgb).convert(mode).convert("RGB"))[..., ::-1]
    for y, x in ((8, 8), (100, 8), (8, 150), (100, 150)):
        assert np.abs(found[y // k, x // k].astype(int) - expected[y, x]).max() <= 3
