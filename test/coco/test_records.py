"""Who gets a record in COCO.json, what is in it, and which files of other tools can be read."""

import json
import os

import numpy as np
import pytest

from mtc.coco import annotations, records
from mtc.errors import UserError
from test.coco import people

J1 = [
    people.person(1, bbox=(100, 50, 100, 368), labelled=17, area=20000),
    people.person(2, bbox=(200, 50, 100, 368), labelled=12, area=18000),
    people.person(3, bbox=(220, 50, 100, 184), labelled=6, area=9000),
    people.person(4, bbox=(400, 300, 20, 40), labelled=4, area=5000),
    people.person(5, bbox=(500, 300, 20, 40), labelled=10, area=1023.99),
    people.person(6, bbox=(10, 10, 50, 60), labelled=0, area=1500),
    people.person(7, bbox=(300, 10, 200, 100), labelled=0, area=8000, crowd=1, segmentation={"counts": [640 * 480], "size": [480, 640]}),
]


def select(tmp_path, persons):
    return records.select(annotations.read(people.write(tmp_path / "person_keypoints_train2017.json", people.document(persons))).images)


def build(tmp_path, persons):
    """Return the records of these people, and how many each rule rejects."""
    accepted, rejected = select(tmp_path, persons)
    return [records.build(one) for one in accepted], rejected


def test_worked_example_of_seven_people(tmp_path):
    (first, second), rejected = build(tmp_path, J1)
    assert rejected == {"fewer than 5 keypoints": 1, "area below 32 x 32": 1, "too close to another": 1}
    assert (first["people_index"], first["objpos"], first["scale_provided"], first["numOtherPeople"]) == (1, [150, 234], 1.0, 4)
    assert first["scale_provided_other"] == pytest.approx([1.0, 0.5, 40 / 368, 40 / 368])
    assert first["objpos_other"] == [[250, 234], [270, 142], [410, 320], [510, 320]]
    assert (second["people_index"], second["objpos"], second["scale_provided"], second["numOtherPeople"]) == (3, [270, 142], 0.5, 4)
    assert second["scale_provided_other"] == pytest.approx([1.0, 1.0, 40 / 368, 40 / 368])
    assert second["bbox_other"] == [[100, 50, 100, 368], [200, 50, 100, 368], [400, 300, 20, 40], [500, 300, 20, 40]]
    assert first["annolist_index"] == second["annolist_index"] == 1
    assert first["num_keypoints_other"] == [12, 6, 4, 10]
    assert np.shape(first["joint_others"]) == (4, 17, 3)


def test_fields_come_in_the_order_of_openpose_train(tmp_path):
    (record,), _ = build(tmp_path, [people.person()])
    assert list(record) == [
        "dataset", "img_paths", "img_width", "img_height", "objpos", "image_id", "bbox", "segment_area", "num_keypoints", "joint_self",
        "scale_provided", "joint_others", "scale_provided_other", "objpos_other", "bbox_other", "segment_area_other", "num_keypoints_other",
        "annolist_index", "people_index", "numOtherPeople",
    ]  # fmt: skip
    assert (record["dataset"], record["img_paths"], record["img_width"], record["img_height"]) == ("COCO", "000000000042.jpg", 640, 480)
    assert record["bbox_other"] == record["joint_others"] == record["scale_provided_other"] == []


@pytest.mark.parametrize(("labelled", "area", "accepted"), [(5, 1024.0, 1), (4, 1024.0, 0), (5, 1023.999, 0)])
def test_least_keypoints_and_area_are_included(tmp_path, labelled, area, accepted):
    assert len(build(tmp_path, [people.person(labelled=labelled, area=area)])[0]) == accepted


@pytest.mark.parametrize(("dy", "accepted"), [(24, 2), (23.9, 1)])
def test_exactly_the_least_distance_is_far_enough(tmp_path, dy, accepted):
    found, _ = build(tmp_path, [people.person(1, bbox=(0, 0, 100, 80)), people.person(2, bbox=(18, dy, 100, 80))])
    assert len(found) == accepted


def test_a_person_whose_box_has_no_extent_gets_no_record(tmp_path):
    assert build(tmp_path, [people.person(bbox=(10, 10, 0, 50))])[0] == []


def test_visibility_is_remapped(tmp_path):
    keypoints = [[10, 20, 2], [30, 40, 1], [0, 0, 0], [1, 2, 3]] + [[5, 5, 2]] * 13
    (record,), _ = build(tmp_path, [people.person(keypoints=keypoints, labelled=15)])
    assert record["joint_self"][:4] == [[10, 20, 1], [30, 40, 0], [0, 0, 2], [1, 2, 4]]


def test_same_people_give_same_bytes(tmp_path):
    records.write(str(tmp_path / "a.json"), select(tmp_path, J1)[0])
    records.write(str(tmp_path / "b.json"), select(tmp_path, J1)[0])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"root": build(tmp_path, J1)[0]}


def test_what_is_written_is_read_back(tmp_path):
    path = str(tmp_path / "COCO.json")
    records.write(path, select(tmp_path, J1)[0])
    first, second = records.read_records(path)
    assert first.file_name == "000000000042.jpg"
    assert first.bbox.tolist() == [100, 50, 100, 368]
    assert first.joints.shape == (17, 3)
    assert second.bbox_other.tolist() == [[100, 50, 100, 368], [200, 50, 100, 368], [400, 300, 20, 40], [500, 300, 20, 40]]


def legacy(**change):
    joints = [[10.0 * i, 5.0 * i, 1.0] for i in range(17)]
    record = {"img_paths": "train2014/COCO_train2014_000000000042.jpg", "bbox": [1.0, 2.0, 3.0, 4.0], "joint_self": joints}
    record.update(change)
    return record


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({}, []),
        ({"bbox_other": None}, []),
        ({"bbox_other": []}, []),
        ({"bbox_other": {"_ArrayType_": "double", "_ArraySize_": [0, 0], "_ArrayData_": None}}, []),
        ({"bbox_other": [1.0, 2.0, 3.0, 4.0], "joint_others": [[0.0, 0.0, 2.0]] * 17, "scale_provided_other": 1.5}, [[1, 2, 3, 4]]),
        ({"bbox_other": [[1.0, 2.0, 3.0, 4.0]] * 30}, [[1, 2, 3, 4]] * 30),
    ],
)
def test_files_of_jsonlab_are_read(tmp_path, others, expected):
    (record,) = records.read_records(people.write(tmp_path / "COCO.json", {"root": [legacy(**others)]}))
    assert record.file_name == "000000000042.jpg"
    assert record.bbox_other.shape == (len(expected), 4)
    assert record.bbox_other.tolist() == expected
    assert record.joints[2].tolist() == [20, 10, 1]


def test_a_single_record_may_come_without_its_list(tmp_path):
    assert len(records.read_records(people.write(tmp_path / "COCO.json", {"root": legacy()}))) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], "'root' is missing"),
        ({"root": [legacy(), 5]}, "record 1: expected an object"),
        ({"root": [{"img_paths": "000000000001.jpg"}]}, "record 0 has no 'bbox'"),
        ({"root": [legacy(bbox=[1, 2, 3])]}, "record 0: bbox: expected 1 x 4 numbers"),
        ({"root": [legacy(bbox=[1, 2, 0, 3])]}, "record 0: bbox="),
        ({"root": [legacy(joint_self=[[1, 2, 1]] * 16)]}, "record 0: joint_self: expected 17 x 3 numbers"),
        ({"root": [legacy(joint_self=[[float("nan"), 2, 1]] * 17)]}, "record 0: joint_self: a number is not finite"),
        ({"root": [legacy(bbox_other=[1, 2, 3, 4, 5])]}, "record 0: bbox_other: expected n x 4 numbers"),
        ({"root": [legacy(img_paths="a.jpg")]}, "record 0: img_paths='a.jpg'"),
    ],
)
def test_records_that_cannot_be_used_are_refused_with_their_place(tmp_path, content, expected):
    with pytest.raises(UserError) as error:
        records.read_records(people.write(tmp_path / "COCO.json", content))
    assert expected in str(error.value)


def test_our_own_file_cut_at_a_line_is_noticed(tmp_path):
    path = tmp_path / "COCO.json"
    records.write(str(path), select(tmp_path, J1)[0])
    lines = path.read_bytes().splitlines(True)
    path.write_bytes(b"".join(lines[:2]))
    with pytest.raises(UserError, match="not valid JSON.*its end is missing"):
        records.read_records(str(path))


def test_our_own_file_laid_out_anew_is_read_all_the_same(tmp_path):
    path = tmp_path / "COCO.json"
    records.write(str(path), select(tmp_path, J1)[0])
    before = records.read_records(str(path))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    for a, b in zip(before, records.read_records(str(path))):
        assert all(np.array_equal(x, y) for x, y in zip(a, b))


def test_missing_and_truncated_files_name_the_command(tmp_path):
    path = tmp_path / "COCO.json"
    with pytest.raises(UserError, match="run python -m tasks.preprocess"):
        records.read_records(str(path))
    path.write_text('{"root": [{')
    with pytest.raises(UserError, match="not valid JSON.*python -m tasks.preprocess"):
        records.read_records(str(path))


@pytest.mark.skipif(not os.path.isdir(people.REAL), reason="the sample data is not beside the project")
def test_real_people_become_records(tmp_path):
    images = annotations.read(os.path.join(people.REAL, "annotations", "person_keypoints_train2017.json")).images
    found, rejected = records.select(images)
    assert [one.image.id for one in found] == [785, 40083, 40083, 196141, 196141, 196141, 196141]
    assert not any(rejected.values())
