"""Each mistake that people make ends with exit code 2, one sentence that names it, and the files as they were."""

import json
import shutil

import pytest

from tasks import doctor, fetch, preprocess, train


@pytest.fixture
def copied(small_data, tmp_path):
    """A data set of this test's own, to spoil."""
    root = tmp_path / "data"
    shutil.copytree(small_data, str(root), ignore=shutil.ignore_patterns("archives"))
    return root


@pytest.fixture
def failing(small, tmp_path, capsys):
    """Run a command that must fail with exit code 2; return what it says: failing(train.main, "train.steps=1")."""

    def run(main, *overrides, words=()):
        assert main(list(words) + small(*overrides)) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return run


def annotations(root):
    return root / "annotations" / "person_keypoints_train2017.json"


def test_broken_json(failing, copied):
    annotations(copied).write_text(annotations(copied).read_text()[:-100])
    before = (copied / "COCO.json").read_bytes()
    said = failing(preprocess.main, "data.root={}".format(copied))
    assert "person_keypoints_train2017.json" in said
    assert (copied / "COCO.json").read_bytes() == before


def test_truncated_jpeg(failing, copied, tmp_path):
    for image in (copied / "train2017").iterdir():
        image.write_bytes(image.read_bytes()[:-500])
    said = failing(train.main, "data.root={}".format(copied), "train.steps=2")
    assert "train2017" in said
    assert ".jpg" in said
    assert "truncated" in said


def test_wrong_sha256(failing, tmp_path):
    (tmp_path / "official").mkdir()
    for name in ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip"):
        (tmp_path / "official" / name).write_bytes(b"not what it should be")
    entry = {"bytes": 21, "sha256": "0" * 64, "members": ".*"}
    paths = ("zips/train2017.zip", "zips/val2017.zip", "annotations/annotations_trainval2017.zip")
    (tmp_path / "manifest.json").write_text(json.dumps({"v": 1, "archives": [dict(entry, path=path) for path in paths]}))
    places = ("data.root={}".format(tmp_path / "new"), "fetch.source={}".format(tmp_path / "official"))
    said = failing(fetch.main, "fetch.manifest={}".format(tmp_path / "manifest.json"), *places, words=["coco"])
    assert "train2017.zip" in said
    assert "0000" in said
    assert not (tmp_path / "new" / "train2017").exists()


@pytest.mark.parametrize("main", [doctor.main, preprocess.main, train.main])
def test_unknown_key(failing, main):
    assert "unknown key 'train.step'; did you mean 'train.steps'?" in failing(main, "train.step=5")


@pytest.mark.usefixtures("no_superpowers")
def test_folder_without_permission(failing, copied):
    copied.chmod(0)
    try:
        assert str(copied) in failing(preprocess.main, "data.root={}".format(copied))
    finally:
        copied.chmod(0o755)


@pytest.mark.parametrize("content", ["missing", "a file"])
def test_folder_that_is_none(failing, tmp_path, content):
    folder = tmp_path / "nothing"
    if content == "a file":
        folder.write_text("a file")
    said = failing(fetch.main, "fetch.source={}".format(folder), "data.root={}".format(tmp_path / "new"), words=["coco"])
    assert str(folder) in said


def test_empty_data_set(failing, copied):
    document = json.loads(annotations(copied).read_text())
    annotations(copied).write_text(json.dumps(dict(document, annotations=[])))
    assert "person_keypoints_train2017.json" in failing(preprocess.main, "data.root={}".format(copied))


def test_storage_that_cannot_be_written(failing, tmp_path):
    (tmp_path / "storage").write_text("a file")
    assert "storage" in failing(doctor.main)
