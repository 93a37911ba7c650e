"""What the doctor finds in a data set before anything long starts."""

import json
import os

import pytest

from mtc.data import inspection
from mtc.errors import UserError
from tasks import preprocess
from test.coco import people


@pytest.fixture(params=["rle", "png"])
def root(request, tmp_path):
    folder = people.data_set(tmp_path / "coco")
    assert preprocess.main(["--set", "data.root=" + folder, "--set", "data.mask_store=" + request.param, "--run-dir", str(tmp_path / "run")]) == 0
    return folder


def image(root, number=5):
    return os.path.join(root, "train2017", "{:012d}.jpg".format(number))


def annotations(root):
    return os.path.join(root, "annotations", "person_keypoints_train2017.json")


def test_a_good_data_set_is_described(root):
    expected = "train2017: 3 images, 3 with people (3 opened), 3 people to train on; val2017: 1 images, 1 with people (1 opened), 1 people held out"
    assert inspection.inspect(root, 0.001) == expected


def test_what_is_not_there_yet_is_no_fault(tmp_path):
    assert inspection.inspect(str(tmp_path), 0.001) == "to be fetched"
    folder = people.data_set(tmp_path / "coco")
    assert "3 with people (3 opened), not prepared yet" in inspection.inspect(folder, 0.001)


def lose_an_image(root):
    os.unlink(image(root))


def empty_an_image(root):
    with open(image(root), "wb"):
        pass


def truncate_an_image(root):
    with open(image(root), "r+b") as f:
        f.truncate(1000)


def change(root, key, **fields):
    """Change the first image or annotation of the file."""
    with open(annotations(root)) as f:
        content = json.load(f)
    content[key][0].update(fields)
    people.write(annotations(root), content)


def annotate_another_size(root):
    change(root, "images", width=99)


def lose_the_folder(root):
    os.rename(os.path.join(root, "train2017"), os.path.join(root, "elsewhere"))


def cut_the_annotations(root):
    with open(annotations(root), "r+") as f:
        f.truncate(200)


def spoil_the_annotations(root):
    change(root, "annotations", bbox=[1])


def cut_the_masks(root):
    for name in ("train2017.rle", "train2017_mask_miss_000000000005.png"):
        path = os.path.join(root, "mask2017", name)
        if os.path.exists(path):
            with open(path, "r+b") as f:
                f.truncate(os.stat(path).st_size - 20)


def take_other_records(root):
    os.replace(os.path.join(root, "COCO_val.json"), os.path.join(root, "COCO.json"))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lose_an_image, "1 images with people are missing in .*train2017 .000000000005.jpg.: bring them back .python -m tasks.fetch coco --force."),
        (empty_an_image, "1 images with people are empty in .*000000000005.jpg"),
        (truncate_an_image, "1 of 3 images of .*train2017 that were opened cannot be used .*000000000005.jpg is truncated"),
        (annotate_another_size, "has 160 x 120 pixels, annotated 99 x 120"),
        (lose_the_folder, "train2017 cannot be read: No such file or directory; fetch it"),
        (cut_the_annotations, "train2017.json is not valid JSON"),
        (spoil_the_annotations, "1 x person whose labels cannot be used.*: fetch the annotations again, or raise data.max_bad_fraction"),
        (cut_the_masks, "train2017.rle is damaged|_000000000005.png is truncated"),
        (take_other_records, "1 images of .*COCO.json have no mask .000000000006.jpg..*; .*COCO.json speaks of images that are not annotated"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(root, damage, sentence):
    damage(root)
    with pytest.raises(UserError, match=sentence):
        inspection.inspect(root, 0.001)


def test_as_much_as_is_allowed_is_borne(root):
    lose_an_image(root)
    assert inspection.inspect(root, 0.4).startswith("train2017: 2 images, 3 with people (2 opened)")


def test_the_official_data_set_is_compared_with_what_is_published(root, monkeypatch):
    archives = {archive.path: {"sha256": archive.sha256} for archive in inspection.manifest.load("official")}
    with open(os.path.join(root, "fetched.json"), "w") as f:
        json.dump({"v": 1, "archives": archives}, f)
    with pytest.raises(
        UserError, match="train2017 has 3 images and 3 with people in its annotations, COCO 2017 has 118287 and 64115: bring them back"
    ):
        inspection.inspect(root, 0.001)
    monkeypatch.setattr(inspection, "PUBLISHED", {"train": (3, 3), "val": (1, 1)})
    assert inspection.inspect(root, 0.001).endswith("(COCO 2017)")
