"""The command: what it leaves, when it has nothing to do, and how it answers bad input."""

import json
import os
import signal

import cv2
import numpy as np
import pytest

from mtc.coco import masks
from tasks import preprocess, step
from test.coco import people


@pytest.fixture(autouse=True)
def _signals_as_before():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


@pytest.fixture
def run(tmp_path, capsys):
    def call(root, *more, png=False):
        words = ["--set", "data.root={}".format(root), "--run-dir", str(tmp_path / "run")] + list(more)
        for override in ["data.mask_store=png"] * png:
            words += ["--set", override]
        return preprocess.main(words), capsys.readouterr().err

    return call


@pytest.fixture
def root(tmp_path):
    return people.data_set(tmp_path / "coco")


def record(tmp_path):
    return json.loads((tmp_path / "run" / "steps" / "preprocess.json").read_text())


def test_it_makes_records_and_masks_of_both_splits(run, root, tmp_path):
    assert run(root, png=True)[0] == step.SUCCESS
    with open(os.path.join(root, "COCO.json")) as f:
        assert [r["image_id"] for r in json.load(f)["root"]] == [5, 7, 9]
    with open(os.path.join(root, "COCO_val.json")) as f:
        assert [r["image_id"] for r in json.load(f)["root"]] == [6]
    assert {key: len(ids) for key, ids in masks.found(root).items()} == {
        ("train", "miss"): 3, ("train", "all"): 3, ("val", "miss"): 1, ("val", "all"): 1
    }  # fmt: skip
    figures = record(tmp_path)["figures"]
    assert figures["train"]["images"] == 3
    assert figures["train"]["people"] == 9
    assert figures["train"]["records"] == 3
    assert figures["train"]["masks"] == {"written": 6, "kept": 0}
    assert figures["train"]["bad"] == {"annotations": 0, "images": 0}
    assert figures["images_per_second"] > 0


def test_masks_are_run_lengths_where_nobody_asks_for_pngs(run, root):
    assert run(root)[0] == step.SUCCESS
    assert sorted(os.listdir(os.path.join(root, masks.FOLDER))) == ["index.json", "train2017.rle", "val2017.rle"]
    assert sorted(masks.read_store(root, "train", "miss")) == [5, 7, 9]


def test_pngs_take_the_place_of_run_lengths_and_the_other_way_round(run, root):
    run(root)
    assert run(root, png=True)[0] == step.SUCCESS
    assert masks.read_store(root, "train", "miss") is None
    assert masks.found(root)["train", "miss"] == {5, 7, 9}
    assert run(root)[0] == step.SUCCESS
    assert sorted(masks.read_store(root, "train", "miss")) == [5, 7, 9]


def test_unchanged_inputs_and_outputs_are_nothing_to_do(run, root):
    run(root)
    code, said = run(root)
    assert code == step.SUCCESS
    assert "nothing to do" in said


@pytest.mark.parametrize(
    ("lost", "png"),
    [
        ("mask2017/train2017_mask_all_000000000007.png", True),
        ("mask2017/val2017_mask_miss_000000000006.png", True),
        ("COCO.json", True),
        ("COCO.json", False),
        ("mask2017/train2017.rle", False),
    ],
)
def test_a_lost_result_is_made_again_once(run, root, lost, png, tmp_path):
    run(root, png=png)
    with open(os.path.join(root, lost), "rb") as f:
        before = f.read()
    os.unlink(os.path.join(root, lost))
    assert "nothing to do" not in run(root, png=png)[1]
    with open(os.path.join(root, lost), "rb") as f:
        assert f.read() == before
    assert record(tmp_path)["figures"]["train"]["masks"]["kept"] >= (5 if png else 0)
    assert "nothing to do" in run(root, png=png)[1]


def test_other_annotations_in_the_same_folder_replace_records_and_masks(run, root, tmp_path):
    run(root, png=True)
    path = os.path.join(root, "annotations", "person_keypoints_train2017.json")
    with open(path) as f:
        content = json.load(f)
    content["annotations"][0]["segmentation"] = [[20, 20, 40, 20, 40, 40, 20, 40]]
    people.write(path, content)
    assert run(root, png=True)[0] == step.SUCCESS
    assert record(tmp_path)["figures"]["train"]["masks"] == {"written": 1, "kept": 5}


def test_another_folder_with_the_same_annotations_is_prepared_too(run, root, tmp_path):
    run(root)
    other = people.data_set(tmp_path / "other")
    assert "nothing to do" not in run(other)[1]
    assert os.path.isfile(os.path.join(other, "COCO.json"))


def test_what_was_left_out_of_the_masks_is_reported(run, root, tmp_path):
    path = os.path.join(root, "annotations", "person_keypoints_train2017.json")
    with open(path) as f:
        content = json.load(f)
    content["annotations"][1]["segmentation"].append([1, 2, 3, 4])
    people.write(path, content)
    code, said = run(root, "--set", "data.max_bad_fraction=0.12")  # of 9 people
    assert code == step.SUCCESS
    assert "1 x polygon with less than three points" in said
    figures = record(tmp_path)["figures"]["train"]
    assert figures["findings"]["polygon with less than three points or half a point, left out"]["count"] == 1
    assert figures["bad"] == {"annotations": 1, "images": 0}
    code, said = run(root, "--force", "--set", "data.max_bad_fraction=0.11")
    assert code == step.USER_ERROR
    assert "something is wrong with 1 of 9 annotations, data.max_bad_fraction=0.11 allows 0: 1 x polygon with less than three points" in said
    assert os.path.isfile(os.path.join(root, "COCO.json"))


def spoil_pictures(root):
    """Make every kind of bad or odd picture of nine; returns the ids of those that can be used."""
    path = os.path.join(root, "annotations", "person_keypoints_train2017.json")
    ids = list(range(101, 110))
    outline = [[10, 10, 60, 10, 60, 110, 10, 110]]
    persons = [people.person(i, i, (10, 10, 50, 100), area=5000, segmentation=outline) for i in ids]
    people.write(path, people.document(persons, [(i, 160, 120) for i in ids]))
    picture = np.random.RandomState(0).randint(0, 256, (120, 160, 3), np.uint8)
    names = [os.path.join(root, "train2017", "{:012d}.jpg".format(i)) for i in ids]
    for name in names:
        cv2.imwrite(name, picture)
    cv2.imwrite(names[1], picture[:100])
    cv2.imwrite(names[2], picture[..., 0])
    cmyk = bytearray(cv2.imencode(".jpg", picture)[1].tobytes())
    cmyk[cmyk.index(b"\xff\xc0") + 9] = 4
    for name, data in ((names[3], bytes(cmyk)), (names[4], b"no picture"), (names[5], b"")):
        with open(name, "wb") as f:
            f.write(data)
    os.unlink(names[6])
    os.unlink(names[7])
    os.mkdir(names[7])
    return [101, 103, 104, 107, 109]


def test_bad_pictures_are_counted_and_left_out(run, root, tmp_path):
    usable = spoil_pictures(root)
    code, said = run(root, "--set", "data.max_bad_fraction=0.5")
    assert code == step.SUCCESS
    figures = record(tmp_path)["figures"]["train"]
    assert figures["findings"] == {
        "image file of another size than annotated, left out": {"count": 1, "first": ["image 102: 160 x 100 pixels, annotated 160 x 120"]},
        "grey JPEG, used": {"count": 1, "first": ["image 103"]},
        "CMYK JPEG, used": {"count": 1, "first": ["image 104"]},
        "image file that is neither JPEG nor PNG, left out": {"count": 2, "first": ["image 105", "image 106"]},
        "image file that is not there": {"count": 1, "first": ["image 107"]},
        "image file that cannot be read, left out": {"count": 1, "first": ["image 108: Is a directory"]},
    }
    assert figures["bad"] == {"annotations": 0, "images": 4}
    with open(os.path.join(root, "COCO.json")) as f:
        found = json.load(f)["root"]
    assert [(r["image_id"], r["annolist_index"]) for r in found] == [(i, i - 100) for i in usable]
    assert sorted(masks.read_store(root, "train", "all")) == usable
    assert run(root, "--force", "--set", "data.max_bad_fraction=0.4")[0] == step.USER_ERROR


def test_what_is_held_out_is_never_trained_on(run, root, tmp_path):
    for split in ("train", "val"):
        path = os.path.join(root, "annotations", "person_keypoints_{}2017.json".format(split))
        with open(path) as f:
            content = json.load(f)
        if split == "train":
            content["images"].append({"id": 6, "file_name": "000000000006.jpg", "width": 160, "height": 120})
            content["annotations"].append(dict(content["annotations"][0], id=1000, image_id=6))
            people.write(path, content)
    code, said = run(root, "--set", "data.max_bad_fraction=0.3")
    assert code == step.SUCCESS
    assert "1 x image of train2017 that val2017 has too, left out of train2017 (image 6)" in said
    ids = {}
    for split, name in (("train", "COCO.json"), ("val", "COCO_val.json")):
        with open(os.path.join(root, name)) as f:
            ids[split] = {r["image_id"] for r in json.load(f)["root"]}
    assert ids == {"train": {5, 7, 9}, "val": {6}}
    assert run(root, "--force")[0] == step.USER_ERROR


def test_processes_make_the_same_bytes(run, root, monkeypatch):
    contents = {}
    monkeypatch.setattr(preprocess, "FEW", 0)
    monkeypatch.setattr(preprocess, "AT_ONCE", 1)
    for png in (False, True):
        for workers in (1, 2, 5):
            assert run(root, "--force", "--set", "data.workers={}".format(workers), png=png)[0] == step.SUCCESS
            found = {}
            for folder, _, names in os.walk(root):
                for name in set(names) - {"preprocess.json"}:
                    with open(os.path.join(folder, name), "rb") as f:
                        found[name] = f.read()
            assert found == contents.setdefault(png, found)


def truncate(root):
    with open(os.path.join(root, "annotations", "person_keypoints_val2017.json"), "r+") as f:
        f.truncate(100)


def drop_val(root):
    os.unlink(os.path.join(root, "annotations", "person_keypoints_val2017.json"))


def unlabel(root):
    people.write(
        os.path.join(root, "annotations", "person_keypoints_train2017.json"),
        people.document([people.person(1, 5, labelled=2)], [(5, 160, 120)]),
    )


def folder_instead_of_file(root):
    drop_val(root)
    os.mkdir(os.path.join(root, "annotations", "person_keypoints_val2017.json"))


def masks_in_the_way(root):
    with open(os.path.join(root, masks.FOLDER), "w") as f:
        f.write("not a folder")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncate, "person_keypoints_val2017.json is not valid JSON"),
        (drop_val, "person_keypoints_val2017.json does not exist: fetch COCO 2017"),
        (unlabel, "person_keypoints_train2017.json: no person is accepted for training (area below 32 x 32: 0, fewer than 5 keypoints: 1"),
        (folder_instead_of_file, "person_keypoints_val2017.json cannot be read: Is a directory"),
        (masks_in_the_way, "mask2017 cannot be written: File exists"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, root, damage, sentence, tmp_path):
    damage(root)
    code, said = run(root)
    assert code == step.USER_ERROR
    assert sentence in said
    assert "Traceback" not in said
    assert record(tmp_path)["status"] == "user_error"


def test_missing_folder_is_one_sentence(run, tmp_path):
    code, said = run(str(tmp_path / "nowhere"))
    assert code == step.USER_ERROR
    assert "nowhere: no such folder" in said


def test_full_disk_is_one_sentence(run, root, monkeypatch):
    def full(source, target):
        if target.endswith("COCO.json"):
            raise OSError(28, "No space left on device", target)
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    code, said = run(root)
    assert code == step.USER_ERROR
    assert "COCO.json cannot be written: No space left on device; free space" in said
    assert not [name for name in os.listdir(root) if name.endswith(".tmp")]


def test_damaged_index_is_made_again(run, root):
    run(root)
    with open(os.path.join(root, masks.FOLDER, "index.json"), "w") as f:
        f.write("{")
    assert "nothing to do" not in run(root)[1]
    assert "nothing to do" in run(root)[1]
