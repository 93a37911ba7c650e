"""What is read from person_keypoints files, and what is refused."""

import json

import pytest

from mtc.coco import annotations, document, records
from mtc.errors import UserError
from test.coco import people


def read(tmp_path, content):
    return annotations.read(people.write(tmp_path / "person_keypoints_train2017.json", content))


def test_images_come_in_ascending_id_and_people_in_file_order(tmp_path):
    content = people.document([people.person(3, 7), people.person(2, 5), people.person(1, 7)], sizes=[(7, 640, 480), (6, 640, 480), (5, 320, 240)])
    images = read(tmp_path, content).images
    assert [(i.id, i.file_name, i.width, i.height, [p.id for p in i.people]) for i in images] == [
        (5, "000000000005.jpg", 320, 240, [2]),
        (7, "000000000007.jpg", 640, 480, [3, 1]),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"keypoints": [0] * 50}, "keypoints: expected 51 numbers, got 50"),
        ({"keypoints": [5, 5, -1] * 17}, "keypoints: a visibility is not 0, 1 or 2"),
        ({"keypoints": [float("nan"), 1, 2] * 17}, "a number is not finite"),
        ({"bbox": [1, 2, 3]}, "bbox: expected 4 numbers"),
        ({"bbox": [1, 2, -3, 4]}, "bbox=[1, 2, -3, 4]"),
        ({"bbox": ["1", 2, 3, 4]}, "bbox: expected a list of numbers"),
        ({"bbox": [0, 0, float("inf"), 5]}, "a number is not finite"),
        ({"area": None}, "area=None"),
        ({"num_keypoints": 3.5}, "num_keypoints=3.5"),
        ({"num_keypoints": 18}, "num_keypoints=18"),
    ],
)
def test_a_person_with_unusable_labels_is_an_unlabelled_one(tmp_path, change, expected):
    found = read(tmp_path, people.document([dict(people.person(), **change)]))
    person = found.images[0].people[0]
    assert (person.num_keypoints, person.keypoints) == (0, [0] * 51)
    assert [polygon.tolist() for polygon in person.polygons] == people.SQUARE
    ((reason, finding),) = found.findings.items()
    assert reason == "person whose labels cannot be used, taken as unlabelled"
    assert finding["count"] == 1
    assert finding["first"][0].startswith("annotation 1: " + expected)


@pytest.mark.parametrize("key", ["bbox", "area", "num_keypoints", "segmentation"])
def test_a_missing_field_costs_one_person_no_more(tmp_path, key):
    person = people.person(2)
    del person[key]
    found = read(tmp_path, people.document([people.person(), person]))
    assert [p.num_keypoints for p in found.images[0].people] == [17, 17 if key == "segmentation" else 0]
    assert sum(finding["count"] for finding in found.findings.values()) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": 43}, "annotation of an image that is not in the file"),
        ({"image_id": [43]}, "annotation without a usable image_id"),
        ({"id": None}, "annotation without a usable id"),
        ({"id": 1}, "annotation whose id is used before"),
    ],
)
def test_an_annotation_that_belongs_nowhere_is_left_out(tmp_path, change, reason):
    found = read(tmp_path, people.document([people.person(), dict(people.person(2), **change)]))
    assert len(found.images[0].people) == 1
    assert [(name.startswith(reason), finding["count"]) for name, finding in found.findings.items()] == [(True, 1)]


def test_what_is_no_object_is_left_out(tmp_path):
    content = people.document([people.person(), 5, "x"])
    content["images"].append("000000000001.jpg")
    found = read(tmp_path, content)
    assert found.findings == {
        "annotation that is no object, left out": {"count": 2, "first": ["annotation number 1", "annotation number 2"]},
        "image that is no object, left out": {"count": 1, "first": ["image number 1: '000000000001.jpg'"]},
    }


def test_instances_file_is_recognised(tmp_path):
    person = people.person()
    del person["keypoints"], person["num_keypoints"]
    with pytest.raises(UserError, match="use person_keypoints_.*not instances_"):
        read(tmp_path, people.document([person]))


@pytest.mark.parametrize(
    ("image", "reason", "expected"),
    [
        ({"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}, "file name", "image 1: 'a.jpg', expected 000000000001.jpg"),
        ({"id": 1, "file_name": "bild_\u00e9\u4e2d.jpg", "width": 10, "height": 10}, "file name", "image 1: 'bild_"),
        ({"id": 1, "file_name": "000000000002.jpg", "width": 10, "height": 10}, "file name", "image 1: '000000000002.jpg'"),
        ({"id": 1.0, "file_name": "1.jpg", "width": 10, "height": 10}, "file name", "image 1: '1.jpg'"),
        ({"id": 1, "file_name": "000000000001.jpg", "width": 0, "height": 10}, "id, width or height", "image 1: width=0"),
        ({"id": 1, "file_name": "000000000001.jpg", "height": 10}, "id, width or height", "image 1: width=None"),
        ({"id": 42, "file_name": "000000000042.jpg", "width": 9, "height": 9}, "used before", "image 42"),
    ],
)
def test_an_image_that_is_not_described_is_left_out(tmp_path, image, reason, expected):
    content = people.document([people.person()])
    content["images"].append(image)
    found = read(tmp_path, content)
    assert [(i.id, i.width) for i in found.images] == [(42, 640)]
    ((name, finding),) = found.findings.items()
    assert reason in name
    assert finding["first"][0].startswith(expected)
    finding["first"][0].encode("ascii")


@pytest.mark.parametrize(
    ("bbox", "reason", "kept"),
    [
        ((-0.5, 0, 640.9, 480), None, True),
        ((600, 10, 100, 200), "box that reaches over the image's edge, used", True),
        ((700, 10, 100, 200), "person whose box is outside the image, no record", False),
        ((10, -300, 100, 200), "person whose box is outside the image, no record", False),
    ],
)
def test_boxes_beyond_the_image_are_counted(tmp_path, bbox, reason, kept):
    found = read(tmp_path, people.document([people.person(bbox=bbox)]))
    assert list(found.findings) == ([reason] if reason else [])
    assert found.images[0].people[0].bbox == (list(bbox) if kept else [0, 0, 0, 0])
    assert records.select(found.images)[1]["area below 32 x 32"] == (0 if kept else 1)


def test_a_crowd_is_told_by_its_outline_where_iscrowd_says_nothing(tmp_path):
    runs = {"size": [10, 10], "counts": [33, 4, 6, 4, 6, 4, 43]}
    persons = [dict(people.person(1, bbox=(1, 1, 3, 3)), iscrowd=2), dict(people.person(2, bbox=(1, 1, 3, 3), segmentation=runs), iscrowd=None)]
    found = read(tmp_path, people.document(persons, sizes=[(42, 10, 10)]))
    assert [p.crowd for p in found.images[0].people] == [False, True]
    assert sum(finding["count"] for finding in found.findings.values()) == 2


@pytest.mark.parametrize("segmentation", ["none", {"size": [480, 640]}, {"size": [480, 640], "counts": "~~~"}, None, [[]], ["x"]])
def test_an_outline_that_cannot_be_read_costs_the_outline(tmp_path, segmentation):
    found = read(tmp_path, people.document([dict(people.person(), segmentation=segmentation)]))
    person = found.images[0].people[0]
    assert (person.num_keypoints, person.polygons, person.rle) == (17, (), None)
    assert found.findings["person without an outline, not in the masks"]["count"] == 1


def test_annotations_may_come_before_the_images_and_among_other_things(tmp_path):
    content = people.document([people.person()])
    path = tmp_path / "person_keypoints_train2017.json"
    text = '\n{"info": {"a": [1, {"b": "]}"}]}, "annotations": %s ,\t"images":%s, "n": 12}\n'
    path.write_text(text % (json.dumps(content["annotations"], indent=1), json.dumps(content["images"])), encoding="utf-8")
    assert len(annotations.read(str(path)).images[0].people) == 1


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1000])
def test_a_file_is_read_the_same_in_blocks_of_any_size(tmp_path, monkeypatch, block):
    content = people.document([people.person(i, 42 + i % 3) for i in range(20)], sizes=[(i, 640, 480) for i in (42, 43, 44)])
    content["info"] = {"description": '\u00e9\u4e2d "quoted" \\'}
    whole = read(tmp_path, content)
    monkeypatch.setattr(document, "BLOCK", block)
    again = annotations.read(str(tmp_path / "person_keypoints_train2017.json"))
    assert repr(again) == repr(whole)
    assert len(again.images) == 3


def test_broken_json_missing_file_and_other_json_are_told_apart(tmp_path):
    path = tmp_path / "person_keypoints_train2017.json"
    with pytest.raises(UserError, match="does not exist"):
        annotations.read(str(path))
    for text in ('{"images": [', '{"images": []', '{"images": [], "annotations": []} x', "{'images': []}", ""):
        path.write_text(text)
        with pytest.raises(UserError, match="truncated or damaged, fetch it again"):
            annotations.read(str(path))
    path.write_text("[]")
    with pytest.raises(UserError, match="'images' is missing"):
        annotations.read(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        annotations.read(str(tmp_path))


def test_file_without_people_is_refused(tmp_path):
    with pytest.raises(UserError, match="no image has a person annotation"):
        read(tmp_path, people.document([]))


@pytest.mark.parametrize(
    ("polygon", "reason"),
    [
        ([1, 1, 5, 5], "less than three points"),
        ([], "less than three points"),
        ([1, 1, 5, 1, 5, 5, 1], "half a point"),
        ([1, 1, float("nan"), 1, 5, 5], "not finite"),
        ([1, 1, 1e300, 1, 5, 5], "far outside"),
    ],
)
def test_degenerate_polygon_is_left_out_and_counted(tmp_path, polygon, reason):
    found = read(tmp_path, people.document([people.person(segmentation=[polygon] + people.SQUARE)]))
    assert [p.tolist() for p in found.images[0].people[0].polygons] == people.SQUARE
    ((name, finding),) = found.findings.items()
    assert reason in name
    assert finding["count"] == 1
    assert "annotation 1" in finding["first"][0]


def test_person_without_any_outline_is_kept_and_counted(tmp_path):
    found = read(tmp_path, people.document([people.person(segmentation=[])]))
    assert found.images[0].people[0].polygons == ()
    assert found.findings["person without an outline, not in the masks"]["count"] == 1


def test_run_lengths_come_plain_or_compressed_and_must_fit_the_image(tmp_path):
    runs = [33, 4, 6, 4, 6, 4, 43]
    forms = (runs, "Q146000U1", [33, 4], runs[:-1] + [44])
    crowd = [people.person(i, 42, (1, 1, 5, 5), crowd=1, segmentation={"size": [10, 10], "counts": counts}) for i, counts in enumerate(forms)]
    found = read(tmp_path, people.document(crowd, sizes=[(42, 10, 10)]))
    assert [p.rle for p in found.images[0].people] == [runs, runs, None, None]
    assert found.findings["run lengths that do not fit the image or cannot be read, left out"]["count"] == 2
    assert found.findings["run lengths as a compressed string, used"]["count"] == 1


def test_other_categories_are_counted_and_left_out(tmp_path):
    found = read(tmp_path, people.document([people.person(), dict(people.person(2), category_id=18)]))
    assert len(found.images[0].people) == 1
    assert found.findings["not a person, left out"]["count"] == 1
