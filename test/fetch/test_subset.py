"""A part of COCO, image by image: which ones, that they are whole, and that nothing is fetched twice."""

import hashlib
import json
import os

import cv2
import numpy as np
import pytest

from mtc.coco import annotations
from mtc.fetch import dataset, subset
from tasks import fetch, preprocess
from test.coco import people
from test.fetch.conftest import COCO_MEMBERS

OUTLINE = [[10, 10, 60, 10, 60, 110, 10, 110]]


@pytest.fixture
def whole(site, make_zip, tmp_path):
    """A server with 30 images of train2017 and 10 of val2017, every third of which has nobody to train on."""
    contents = {}
    for split, first, count in (("train", 1, 30), ("val", 1001, 10)):
        ids = range(first, first + count)
        persons = [people.person(10 * i, i, (10, 10, 50, 100), 2 if i % 3 == 0 else 17, 5000, OUTLINE) for i in ids]
        content = people.document(persons, [(i, 160, 120) for i in ids])
        content["info"] = {"year": 2017, "contributor": "\u00e9"}
        contents["annotations/person_keypoints_{}2017.json".format(split)] = json.dumps(content).encode()
        contents["annotations/captions_{}2017.json".format(split)] = b"{}"
        for i in ids:
            picture = np.random.RandomState(i).randint(0, 256, (120, 160, 3), np.uint8)
            site.files["{}2017/{:012d}.jpg".format(split, i)] = cv2.imencode(".jpg", picture)[1].tobytes()
    with open(make_zip("a.zip", contents), "rb") as f:
        data = f.read()
    site.files["annotations/annotations_trainval2017.zip"] = data
    entry = {"path": "annotations/annotations_trainval2017.zip", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    entry["members"] = r"annotations/[a-z_]+_(train|val)2017\.json"
    (tmp_path / "manifest.json").write_text(json.dumps({"v": 1, "archives": [entry]}))
    return site


@pytest.fixture
def run(whole, tmp_path, capsys, monkeypatch):
    """run("--images", "6") -> (exit code, what was said, the requests of it)"""
    monkeypatch.setattr(subset, "PATIENCE", 5)

    def call(*words, source=whole.url):
        del whole.requests[:]
        overrides = (
            "data.root={}".format(tmp_path / "root"),
            "fetch.source={}".format(source),
            "fetch.manifest={}".format(tmp_path / "manifest.json"),
        )
        argv = ["coco", "--run-dir", str(tmp_path / "run")] + [word for override in overrides for word in ("--set", override)]
        code = fetch.main(argv + list(words))
        return code, capsys.readouterr().err, [path for path, _ in whole.requests]

    return call


def names(folder, split):
    return sorted(os.listdir(str(folder / "root" / (split + "2017"))))


def test_a_few_images_come_with_their_annotations_and_can_be_trained_on(run, whole, tmp_path):
    code, _, asked = run("--images", "6")
    assert code == 0
    assert len(asked) == 1 + 6 + 1
    for split, count in (("train", 6), ("val", 1)):
        there = names(tmp_path, split)
        index = annotations.index(str(tmp_path / "root" / "annotations" / "person_keypoints_{}2017.json".format(split)))
        assert [image.file_name for image in index.images] == there
        assert len(there) == count
        assert all(int(name[:12]) % 3 for name in there)
        for name in there:
            assert (tmp_path / "root" / (split + "2017") / name).read_bytes() == whole.files["{}2017/{}".format(split, name)]
    content = json.loads((tmp_path / "root" / "annotations" / "person_keypoints_train2017.json").read_text())
    assert content["info"] == {"year": 2017, "contributor": "\u00e9"}
    assert sorted(os.listdir(str(tmp_path / "root"))) == [".fetch.lock", ".steps", "annotations", "archives", "fetched.json", "train2017", "val2017"]
    assert preprocess.main(["--run-dir", str(tmp_path / "run"), "--set", "data.root={}".format(tmp_path / "root")]) == 0
    assert len(json.loads((tmp_path / "root" / "COCO.json").read_text())["root"]) == 6


def test_the_same_again_is_nothing_and_more_are_the_same_and_others(run, tmp_path):
    run("--images", "6")
    few = names(tmp_path, "train")
    assert run("--images", "6")[2] == []
    code, _, asked = run("--images", "9")
    assert (code, len(asked)) == (0, 3), asked
    assert set(few) < set(names(tmp_path, "train"))
    code, _, asked = run("--images", "6")
    assert (code, asked) == (0, [])
    assert names(tmp_path, "train") == few


def test_all_of_them_are_all_with_somebody_to_train_on(run, tmp_path):
    assert run("--images", "1000")[0] == 0
    assert len(names(tmp_path, "train")) == 20


@pytest.mark.parametrize("text", ["3\n5\n1002\n", "[3, 5, 1002]"])
def test_a_file_says_which(run, tmp_path, text):
    (tmp_path / "ids.txt").write_text(text)
    assert run("--ids", str(tmp_path / "ids.txt"))[0] == 0
    assert names(tmp_path, "train") == ["000000000003.jpg", "000000000005.jpg"]
    assert names(tmp_path, "val") == ["000000001002.jpg"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("3\nfive\n", "expected whole numbers"),
        ("", "no id is in it"),
        ("3 1002 7777", "no image with a person has the id 7777"),
        ("3 5", "no id of val2017 is in it"),
        (None, "cannot be read: No such file"),
    ],
)
def test_bad_lists_are_one_sentence(run, tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "ids.txt").write_text(text)
    code, said, _ = run("--ids", str(tmp_path / "ids.txt"))
    assert code == 2
    assert sentence in said
    assert not (tmp_path / "root" / "train2017").exists()


def test_an_image_that_is_not_there_or_another_is_named_and_the_others_are_kept(run, whole, tmp_path):
    name = "train2017/000000000001.jpg"
    (tmp_path / "ids.txt").write_text("1 2 4 1002")
    picture = whole.files.pop(name)
    code, said, _ = run("--ids", str(tmp_path / "ids.txt"))
    assert code == 2
    assert name + " answers 404" in said
    whole.files[name] = picture[:-1000]
    assert (
        "gives 160 x 120 pixels of {} bytes, expected a JPEG of 160 x 120".format(len(picture) - 1000) in run("--ids", str(tmp_path / "ids.txt"))[1]
    )
    whole.files[name] = picture
    code, _, asked = run("--ids", str(tmp_path / "ids.txt"))
    assert code == 0
    assert "/" + name in asked
    assert len(asked) < 4


def test_a_server_that_stumbles_is_asked_again(run, whole):
    whole.answers = [503, None, 500, ("cut", 10), 429]
    assert run("--images", "3")[0] == 0


def test_the_whole_data_set_takes_the_place_of_a_part_but_not_the_other_way_round(run, whole, archives, tmp_path):
    assert run("--images", "3")[0] == 0
    official = ("--set", "fetch.manifest={}".format(archives / "manifest.json"))
    for path in COCO_MEMBERS:
        whole.files[path] = (archives / path).read_bytes()
    code, said, _ = run(*official)
    assert code == 0, said
    assert len(names(tmp_path, "train")) == 3
    assert dataset.SUBSET not in json.loads((tmp_path / "root" / "fetched.json").read_text())["archives"]
    code, said, _ = run("--images", "3")
    assert code == 2
    assert "of another fetch: choose another data.root" in said


def test_folders_of_the_users_are_not_touched(run, tmp_path):
    (tmp_path / "root" / "train2017").mkdir(parents=True)
    code, said, _ = run("--images", "3")
    assert code == 2
    assert "train2017 is there and was not made by this command" in said
