"""The command: what it leaves, when it has nothing to do, and how it answers bad input."""

import json
import os
import signal

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
    def call(root, *more):
        code = preprocess.main(["--set", "data.root={}".format(root), "--run-dir", str(tmp_path / "run")] + list(more))
        return code, capsys.readouterr().err

    return call


@pytest.fixture
def root(tmp_path):
    return people.data_set(tmp_path / "coco")


def record(tmp_path):
    return json.loads((tmp_path / "run" / "steps" / "preprocess.json").read_text())


def test_it_makes_records_and_masks_of_both_splits(run, root, tmp_path):
    assert run(root)[0] == step.SUCCESS
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
    assert figures["images_per_second"] > 0


def test_unchanged_inputs_and_outputs_are_nothing_to_do(run, root):
    run(root)
    code, said = run(root)
    assert code == step.SUCCESS
    assert "nothing to do" in said


@pytest.mark.parametrize("lost", ["mask2017/train2017_mask_all_000000000007.png", "mask2017/val2017_mask_miss_000000000006.png", "COCO.json"])
def test_a_lost_result_is_made_again_once(run, root, lost, tmp_path):
    run(root)
    with open(os.path.join(root, lost), "rb") as f:
        before = f.read()
    os.unlink(os.path.join(root, lost))
    assert "nothing to do" not in run(root)[1]
    with open(os.path.join(root, lost), "rb") as f:
        assert f.read() == before
    assert record(tmp_path)["figures"]["train"]["masks"]["kept"] >= 5
    assert "nothing to do" in run(root)[1]


def test_other_annotations_in_the_same_folder_replace_records_and_masks(run, root, tmp_path):
    run(root)
    path = os.path.join(root, "annotations", "person_keypoints_train2017.json")
    with open(path) as f:
        content = json.load(f)
    content["annotations"][0]["segmentation"] = [[20, 20, 40, 20, 40, 40, 20, 40]]
    people.write(path, content)
    assert run(root)[0] == step.SUCCESS
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
    code, said = run(root)
    assert code == step.SUCCESS
    assert "1 x polygon with less than three points" in said
    assert record(tmp_path)["figures"]["train"]["findings"]["polygon with less than three points or half a point"]["count"] == 1


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
        (masks_in_the_way, "mask2017: "),
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
    def full(path, records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preprocess.records, "write", full)
    code, said = run(root)
    assert code == step.USER_ERROR
    assert "COCO.json cannot be written: No space left on device; free space" in said


def test_damaged_index_is_made_again(run, root):
    run(root)
    with open(os.path.join(root, masks.FOLDER, "index.json"), "w") as f:
        f.write("{")
    assert "nothing to do" not in run(root)[1]
    assert "nothing to do" in run(root)[1]
