"""Which pixels count, and that mask files are whole, right and the same for any number of workers."""

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


def test_files_have_the_reference_names_and_are_8_bit_grey(tmp_path, images):
    assert masks.write(str(tmp_path), "train", images) == {"written": 6, "kept": 0}
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


def test_any_number_of_workers_writes_the_same_bytes(tmp_path, images):
    for workers in (1, 2, 5):
        masks.write(str(tmp_path / str(workers)), "train", images, workers)
    assert read_all(tmp_path / "1") == read_all(tmp_path / "2") == read_all(tmp_path / "5")


def test_right_masks_are_kept_and_damaged_or_foreign_ones_replaced(tmp_path, images):
    masks.write(str(tmp_path), "train", images)
    before = read_all(tmp_path)
    folder = tmp_path / masks.FOLDER
    truncated, wrong_size, wrong_pixels, deleted, empty = sorted(before)[:5]
    (folder / truncated).write_bytes(before[truncated][:-20])
    cv2.imwrite(str(folder / wrong_size), np.zeros((5, 5), np.uint8))
    cv2.imwrite(str(folder / wrong_pixels), np.zeros((120, 160), np.uint8))
    (folder / deleted).unlink()
    (folder / empty).write_bytes(b"")
    assert masks.write(str(tmp_path), "train", images) == {"written": 5, "kept": 1}
    assert read_all(tmp_path) == before


def test_folder_that_cannot_be_written_is_a_clear_sentence(tmp_path, images):
    (tmp_path / masks.FOLDER).write_text("a file in the way")
    with pytest.raises(UserError, match="masks cannot be written to .*mask2017"):
        masks.write(str(tmp_path), "train", images)


def test_full_disk_is_a_clear_sentence_and_leaves_no_half_file(tmp_path, images, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        masks.write(str(tmp_path), "train", images)
    assert read_all(tmp_path) == {}


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
