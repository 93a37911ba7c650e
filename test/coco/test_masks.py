"""Which pixels count, and that mask files are whole, right and the same for any number of workers."""

import collections
import itertools
import os

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtc.coco import annotations, masks
from mtc.errors import UserError
from test.coco import people

A = people.person(1, labelled=6, segmentation=[[1, 1, 4, 1, 4, 4, 1, 4]])
B = people.person(2, labelled=0, segmentation=[[6, 1, 9, 1, 9, 4, 6, 4]])
C = people.person(3, labelled=0, crowd=1, segmentation={"counts": [33, 4, 6, 4, 6, 4, 43], "size": [10, 10]})

MISS = """
1111111111
1111110001
1111110001
1111000001
1110001111
1110001111
1110001111
1111111111
1111111111
1111111111
"""


def rasterise(tmp_path, persons, size=(10, 10)):
    path = people.write(tmp_path / "person_keypoints_train2017.json", people.document(persons, sizes=[(42,) + size]))
    return masks.rasterise(annotations.read(path).images[0])


@pytest.mark.parametrize("order", list(itertools.permutations([A, B, C])))
def test_two_people_and_a_crowd_in_any_order(tmp_path, order):
    found = rasterise(tmp_path, order)
    assert found["miss"].dtype == found["all"].dtype == np.uint8
    assert (found["miss"] == 255 * np.array([[int(c) for c in row] for row in MISS.split()])).all()
    assert (found["miss"] == 255).sum() == 80
    assert (found["all"] == 255).sum() == 29
    assert set(np.unique(found["all"])) == {0, 255}


def test_all_polygons_of_an_unlabelled_person_are_masked(tmp_path):
    found = rasterise(tmp_path, [people.person(labelled=0, segmentation=[[1, 1, 3, 1, 3, 3, 1, 3], [6, 6, 8, 6, 8, 8, 6, 8]])])
    assert (found["miss"] == 0).sum() == 8
    assert (found["all"] == 255).sum() == 8


def test_overlapping_polygons_are_united(tmp_path):
    found = rasterise(tmp_path, [people.person(labelled=0, segmentation=[[1, 1, 5, 1, 5, 5, 1, 5], [3, 3, 7, 3, 7, 7, 3, 7]])])
    assert (found["all"] == 255).sum() == 28


def test_several_crowds_are_united(tmp_path):
    second = people.person(4, labelled=0, crowd=1, segmentation={"counts": [0, 10, 90], "size": [10, 10]})
    assert (rasterise(tmp_path, [A, B, C, second])["miss"] == 255).sum() == 70


def test_labelled_people_of_any_number_of_keypoints_are_not_masked(tmp_path):
    assert rasterise(tmp_path, [people.person(labelled=3)])["miss"].all()


def test_rows_and_columns_are_not_swapped(tmp_path):
    found = rasterise(tmp_path, [people.person(labelled=0, segmentation={"counts": [1, 2, 3], "size": [2, 3]})], size=(3, 2))
    assert (found["all"] == [[0, 255, 0], [255, 0, 0]]).all()


@pytest.fixture
def images(tmp_path):
    root = people.data_set(tmp_path)
    return annotations.read(os.path.join(root, "annotations", "person_keypoints_train2017.json")).images


def read_all(root):
    folder = os.path.join(str(root), masks.FOLDER)
    content = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as f:
            content[name] = f.read()
    return content


def write(root, images):
    """Write the PNGs of all images; return how many were written and how many kept."""
    folder = os.path.join(str(root), masks.FOLDER)
    os.makedirs(folder, exist_ok=True)
    return collections.Counter(verb for image in images for verb in masks.write_image(folder, "train", image))


def test_files_have_the_reference_names_and_are_8_bit_grey(tmp_path, images):
    assert write(tmp_path, images) == {"written": 6}
    names = {"train2017_mask_{}_{:012d}.png".format(kind, i) for kind in ("miss", "all") for i in (5, 7, 9)}
    content = read_all(tmp_path)
    assert set(content) == names
    assert masks.found(str(tmp_path)) == {
        ("train", "miss"): {5, 7, 9}, ("train", "all"): {5, 7, 9}, ("val", "miss"): set(), ("val", "all"): set()
    }  # fmt: skip
    for image in images:
        for kind, expected in masks.rasterise(image).items():
            there = cv2.imread(str(tmp_path / masks.FOLDER / masks.file_name("train", kind, image.id)), cv2.IMREAD_UNCHANGED)
            assert there.dtype == np.uint8
            assert there.ndim == 2
            assert (there == expected).all()


def test_right_masks_are_kept_and_damaged_or_foreign_ones_replaced(tmp_path, images):
    write(tmp_path, images)
    before = read_all(tmp_path)
    folder = tmp_path / masks.FOLDER
    truncated, wrong_size, wrong_pixels, deleted, empty = sorted(before)[:5]
    (folder / truncated).write_bytes(before[truncated][:-20])
    cv2.imwrite(str(folder / wrong_size), np.zeros((5, 5), np.uint8))
    cv2.imwrite(str(folder / wrong_pixels), np.zeros((120, 160), np.uint8))
    (folder / deleted).unlink()
    (folder / empty).write_bytes(b"")
    assert write(tmp_path, images) == {"written": 5, "kept": 1}
    assert read_all(tmp_path) == before


def test_a_full_disk_leaves_no_half_file(tmp_path, images, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path, images)
    assert read_all(tmp_path) == {}


@pytest.fixture
def store(tmp_path, images):
    """Path of a file of run lengths."""
    path = masks.store_path(str(tmp_path), "train")
    with masks.writing(path, "train") as add:
        for image in images:
            add(masks.line(image))
    return path


@pytest.mark.parametrize("kind", masks.KINDS)
def test_run_lengths_give_the_pixels_of_the_pngs(tmp_path, images, store, kind):
    found = masks.read_store(str(tmp_path), "train", kind)
    assert sorted(found) == [5, 7, 9]
    for image in images:
        pixels = found[image.id].pixels()
        assert (pixels.dtype, pixels.flags.c_contiguous) == (np.uint8, True)
        np.testing.assert_array_equal(pixels, masks.rasterise(image)[kind])


def test_images_where_all_or_nothing_counts_need_no_run_lengths(tmp_path):
    path = people.write(tmp_path / "a.json", people.document([people.person(segmentation=[])]))
    image = annotations.read(path).images[0]
    assert masks.regions(image) == {"all": b"", "ignored": b""}
    with masks.writing(masks.store_path(str(tmp_path), "val"), "val") as add:
        add(masks.line(image))
    assert (masks.read_store(str(tmp_path), "val", "miss")[42].pixels() == 255).all()
    assert (masks.read_store(str(tmp_path), "val", "all")[42].pixels() == 0).all()


def test_every_changed_byte_of_the_store_is_noticed(tmp_path, store):
    with open(store, "rb") as f:
        whole = f.read()
    for place in list(range(len(whole))) + [None]:
        with open(store, "wb") as f:
            f.write(whole[:-5] if place is None else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match="train2017.rle is damaged .*delete it and run python -m tasks.preprocess"):
            masks.read_store(str(tmp_path), "train", "miss")


def test_no_store_is_none(tmp_path):
    assert masks.read_store(str(tmp_path), "train", "miss") is None


@pytest.mark.skipif(not os.path.isdir(people.REAL), reason="the sample data is not beside the project")
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_people_are_masked_as_pycocotools_draws_them(split):
    path = os.path.join(people.REAL, "annotations", "person_keypoints_{}2017.json".format(split))
    for image in annotations.read(path).images:
        drawn = np.zeros((image.height, image.width), bool)
        for person in image.people:
            for polygon in person.polygons:
                drawn |= coco_mask.decode(coco_mask.frPyObjects([polygon], image.height, image.width))[..., 0].astype(bool)
        found = masks.rasterise(image)
        assert ((found["all"] == 255) >= drawn).all()
        labelled = all(p.num_keypoints for p in image.people)
        assert found["miss"].all() == labelled
        areas = sum(p.area for p in image.people if not p.crowd)
        assert abs((drawn & (found["all"] == 255)).sum() - areas) < 0.05 * areas + 50
