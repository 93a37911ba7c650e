"""What is read from person_keypoints files, and what is refused."""

import pytest

from mtc.coco import annotations
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
        ({"keypoints": [0] * 50}, "annotation 1: keypoints: expected 51 numbers, got 50"),
        ({"bbox": [1, 2, 3]}, "annotation 1: bbox: expected 4 numbers"),
        ({"bbox": [1, 2, -3, 4]}, "annotation 1: bbox="),
        ({"bbox": ["1", 2, 3, 4]}, "annotation 1: bbox: expected a list of numbers"),
        ({"area": None}, "annotation 1: area"),
        ({"num_keypoints": 3.5}, "annotation 1: num_keypoints=3.5"),
        ({"num_keypoints": 18}, "annotation 1: num_keypoints=18"),
        ({"iscrowd": 2}, "annotation 1: iscrowd=2"),
        ({"keypoints": [5, 5, -1] * 17}, "annotation 1: keypoints: visibilities"),
        ({"segmentation": "none"}, "annotation 1: segmentation"),
        ({"segmentation": {"size": [480, 640]}}, "annotation 1: segmentation: expected 'size'"),
        ({"segmentation": {"size": [480, 640], "counts": "~~~"}}, "not a compressed run length string"),
        ({"image_id": 43}, "annotation 1: image_id 43 is not among"),
        ({"image_id": [43]}, "annotation 1: image_id"),
    ],
)
def test_wrong_field_is_refused_with_its_place(tmp_path, change, expected):
    with pytest.raises(UserError) as error:
        read(tmp_path, people.document([dict(people.person(), **change)]))
    assert expected in str(error.value)
    assert "person_keypoints_train2017.json" in str(error.value)


@pytest.mark.parametrize("key", ["id", "image_id", "bbox", "area", "iscrowd", "segmentation"])
def test_missing_key_is_refused(tmp_path, key):
    person = people.person()
    del person[key]
    with pytest.raises(UserError, match="has no '{}'".format(key)):
        read(tmp_path, people.document([person]))


def test_instances_file_is_recognised(tmp_path):
    person = people.person()
    del person["keypoints"], person["num_keypoints"]
    with pytest.raises(UserError, match="use person_keypoints_.*not instances_"):
        read(tmp_path, people.document([person]))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}, "file_name='a.jpg'"),
        ({"id": 1, "file_name": "000000000002.jpg", "width": 10, "height": 10}, "file_name='000000000002.jpg'"),
        ({"id": 1.0, "file_name": "1.jpg", "width": 10, "height": 10}, "file_name='1.jpg'"),
        ({"id": 1, "file_name": "000000000001.jpg", "width": 0, "height": 10}, "width=0"),
        ({"id": 1, "file_name": "000000000001.jpg", "height": 10}, "width=None"),
        ("000000000001.jpg", "expected an object"),
    ],
)
def test_wrong_image_is_refused(tmp_path, image, expected):
    with pytest.raises(UserError) as error:
        read(tmp_path, {"images": [image], "annotations": []})
    assert expected in str(error.value)


def test_broken_json_missing_file_and_other_json_are_told_apart(tmp_path):
    path = tmp_path / "person_keypoints_train2017.json"
    with pytest.raises(UserError, match="does not exist"):
        annotations.read(str(path))
    path.write_text('{"images": [')
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


def test_person_with_numbers_that_are_not_finite_is_taken_as_unlabelled(tmp_path):
    persons = [people.person(bbox=(0, 0, float("inf"), 5)), people.person(2, keypoints=[[float("nan"), 1, 2]] * 17)]
    found = read(tmp_path, people.document(persons))
    assert [p.num_keypoints for p in found.images[0].people] == [0, 0]
    assert sum(f["count"] for f in found.findings.values()) == 2


def test_run_lengths_come_plain_or_compressed_and_must_fit_the_image(tmp_path):
    runs = [33, 4, 6, 4, 6, 4, 43]
    forms = (runs, "Q146000U1", [33, 4], runs[:-1] + [44])
    crowd = [people.person(1, crowd=1, segmentation={"size": [10, 10], "counts": counts}) for counts in forms]
    found = read(tmp_path, people.document(crowd, sizes=[(42, 10, 10)]))
    assert [p.rle for p in found.images[0].people] == [runs, runs, None, None]
    assert found.findings["run lengths that do not fit the image"]["count"] == 2


def test_other_categories_are_counted_and_left_out(tmp_path):
    found = read(tmp_path, people.document([people.person(), dict(people.person(2), category_id=18)]))
    assert len(found.images[0].people) == 1
    assert found.findings["not a person"]["count"] == 1
