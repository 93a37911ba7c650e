"""From COCO.json and masks to samples: joints, boxes of other people, and files that may be missing."""

import logging
import os
import shutil

import numpy as np
import pytest

from mtc.coco import records
from mtc.data import image_files
from mtc.data.readers import coco
from mtc.errors import UserError
from tasks import preprocess
from test.coco import people

GOLDEN = os.path.join(people.REAL, "..", "..", "golden", "coco_crops.npz")


@pytest.fixture(autouse=True)
def _logs_reach_the_test(monkeypatch):
    monkeypatch.setattr(logging.getLogger("mtc"), "propagate", True)


def joints(flags=(), coordinate=10):
    """Return 17 points (10 i, 5 i), visible but for {index: flag}."""
    flags = dict(flags)
    return [[coordinate * i, coordinate / 2 * i, flags.get(i, 1)] for i in range(17)]


def record(number=42, **change):
    made = {"img_paths": "{:012d}.jpg".format(number), "bbox": [1.5, 2.5, 30, 40], "bbox_other": [], "joint_self": joints()}
    made.update(change)
    return made


@pytest.fixture
def read(tmp_path):
    def call(content, split="train", kind="miss", images=(42,)):
        people.write(tmp_path / records.FILES[split], {"root": content})
        (tmp_path / (split + "2017")).mkdir(exist_ok=True)
        for i in images:
            (tmp_path / (split + "2017") / "{:012d}.jpg".format(i)).write_bytes(b"")
        return coco.read(str(tmp_path), split, kind)

    return call


def test_worked_example_of_joints(read):
    points = joints({12: 0, 16: 2})
    points[5][:2], points[6][:2], points[11][:2], points[12][:2], points[16][:2] = [120, 100], [100, 100], [118, 200], [104, 200], [0, 0]
    (one,) = read([record(joint_self=points)])
    assert one.uv.tolist() == [
        [0, 0], [110, 100], [100, 100], [80, 40], [100, 50], [120, 100], [70, 35], [90, 45], [104, 200], [140, 70], [0, 0], [118, 200],
        [130, 65], [150, 75], [20, 10], [10, 5], [40, 20], [30, 15], [0, 0], [110.5, 150],
    ]  # fmt: skip
    assert one.valid.astype(int).tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert (one.uv.dtype, one.valid.dtype) == (np.float32, bool)


def test_neck_needs_both_shoulders_and_chest_the_hips_too(read):
    whole, no_shoulder, no_hip = read([record(), record(joint_self=joints({5: 0})), record(joint_self=joints({11: 2}))])
    assert [s.valid[[1, 18, 19]].tolist() for s in (whole, no_shoulder, no_hip)] == [[True, False, True], [False, False, False], [True, False, False]]


def test_coordinates_are_truncated(read):
    points = joints()
    points[0] = [12.999, 7.5, 1.0]
    assert read([record(joint_self=points)])[0].uv[0].tolist() == [12, 7]


@pytest.mark.parametrize(("visible", "used"), [(3, 0), (4, 1)])
def test_four_visible_joints_are_needed(read, visible, used):
    few = record(43, joint_self=joints({i: 0 for i in range(visible, 17)}))
    assert len(read([record(), few], images=(42, 43))) == 1 + used


def test_boxes_of_others_are_truncated_corners(read):
    (one,) = read([record(bbox_other=[[10.7, 20.2, 30.9, 40.1]])])
    assert one.others.tolist() == [[10, 20, 41, 60]]
    assert one.others.dtype == np.int32
    x1, y1, x2, y2 = one.others[0]
    assert (x2 - x1) * (y2 - y1) == 1240


EMPTY = {"_ArrayType_": "double", "_ArraySize_": [0, 0], "_ArrayData_": None}


@pytest.mark.parametrize(("others", "n"), [([], 0), (EMPTY, 0), ([1.0, 2.0, 3.0, 4.0], 1), ([[1, 2, 3, 4]] * 33, 33)])
def test_any_number_of_others_in_any_form(read, others, n):
    assert read([record(bbox_other=others)])[0].others.shape == (n, 4)


def test_others_may_be_missing(read):
    made = record()
    del made["bbox_other"]
    assert read([made])[0].others.shape == (0, 4)


def test_names_number_the_records_of_an_image(read):
    few = record(joint_self=joints({i: 0 for i in range(17)}))
    found = read([record(), few, record(), record(7)], images=(42, 7))
    assert [s.name for s in found] == ["000000000042.jpg#0", "000000000042.jpg#2", "000000000007.jpg#0"]
    assert found[0].box.tolist() == [1.5, 2.5, 30, 40]
    assert found[0].xyz is None
    assert found[0].camera is None
    assert not found[0].mirror


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_come_from_the_folder_of_the_split(read, split, tmp_path):
    found = read([record(img_paths="val2014/COCO_val2014_000000000042.jpg")], split)
    assert found[0].image == str(tmp_path / (split + "2017") / "000000000042.jpg")


def test_people_of_images_that_are_not_in_the_split_are_left_out_with_one_warning(read, caplog):
    assert len(read([record(), record(1), record(2)])) == 1
    warnings = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(warnings) == 1
    assert "2 people are left out" in warnings[0]
    assert "000000000001.jpg" in warnings[0]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("miss", "mask2017/train2017_mask_miss_000000000042.png"),
        ("all", "mask2017/train2017_mask_all_000000000042.png"),
        ("miss", "mask2017/train2017/000000000042.png"),
        ("all", "segmentation2017/train2017/000000000042.png"),
    ],
)
def test_masks_are_found_in_both_layouts(read, tmp_path, kind, name, caplog):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"")
    assert read([record()], kind=kind)[0].mask == str(tmp_path / name)
    assert not caplog.records


def test_our_own_mask_goes_before_an_older_one(read, tmp_path):
    (tmp_path / "mask2017" / "train2017").mkdir(parents=True)
    (tmp_path / "mask2017" / "train2017" / "000000000042.png").write_bytes(b"")
    own = tmp_path / "mask2017" / "train2017_mask_miss_000000000042.png"
    own.write_bytes(b"")
    assert read([record()])[0].mask == str(own)


def test_missing_masks_are_said_once(read, caplog):
    assert [s.mask for s in read([record(), record()])] == [None, None]
    (warning,) = [r.getMessage() for r in caplog.records]
    assert "2 of 2 people have no 'miss' mask" in warning


def test_what_is_missing_names_the_command(tmp_path, read):
    with pytest.raises(UserError, match="COCO.json does not exist: run python -m tasks.preprocess"):
        coco.read(str(tmp_path), "train", "miss")
    people.write(tmp_path / "COCO_val.json", {"root": [record()]})
    with pytest.raises(UserError, match="image folder .*val2017 does not exist"):
        coco.read(str(tmp_path), "val", "miss")


@pytest.mark.parametrize("content", [[], [record(joint_self=joints({i: 0 for i in range(17)}))], [record(5)]])
def test_nobody_to_use_is_an_error(read, content):
    with pytest.raises(UserError, match="nothing to use"):
        read(content)


@pytest.fixture(params=["made", "made-png", "real"])
def prepared(request, tmp_path):
    """A prepared data set: of made images, and of real ones where they are present."""
    root = str(tmp_path / "coco")
    if request.param.startswith("made"):
        people.data_set(root)
    elif os.path.isdir(people.REAL):
        shutil.copytree(people.REAL, root, copy_function=shutil.copyfile)
    else:
        pytest.skip("the sample data is not beside the project")
    for folder in [root] + [os.path.join(root, name) for name in os.listdir(root)]:
        os.chmod(folder, 0o755)
    store = "png" if request.param.endswith("png") else "rle"
    words = ["--set", "data.root=" + root, "--set", "data.mask_store=" + store, "--run-dir", str(tmp_path / "run")]
    assert preprocess.main(words) == 0
    return root


@pytest.mark.parametrize("kind", ["miss", "all"])
def test_a_prepared_data_set_is_read_whole(prepared, kind, caplog):
    caplog.clear()
    for split in ("train", "val"):
        found = coco.read(prepared, split, kind)
        assert len({s.name for s in found}) == len(found) > 0
        for one in found:
            assert os.path.isfile(one.image)
            mask = image_files.read_mask(one.mask)
            image = image_files.read_image(one.image)
            assert (mask.width, mask.height) == (image.width, image.height)
            if isinstance(one.mask, str):
                assert "{}2017_mask_{}_".format(split, kind) in one.mask
            assert one.uv.shape == (20, 2)
            assert one.valid.sum() >= 4
            x, y, width, height = one.box
            inside = (one.uv >= [x - 5, y - 5]).all(axis=1) & (one.uv <= [x + width + 5, y + height + 5]).all(axis=1)
            assert inside[one.valid].all()
    assert not caplog.records


@pytest.mark.skipif(not os.path.isfile(GOLDEN), reason="the golden numbers are not beside the project")
@pytest.mark.parametrize("prepared", ["real"], indirect=True)
def test_real_people_are_read_as_by_the_reference(prepared):
    z = np.load(GOLDEN)
    found = coco.read(prepared, "train", "miss") + coco.read(prepared, "val", "miss")
    assert [s.name.split("#")[0] for s in found] == z["files"].tolist()
    assert np.abs(np.array([s.uv for s in found]) - z["body"]).max() < 1e-4
    assert (np.array([s.valid for s in found]) == z["valid"]).all()
