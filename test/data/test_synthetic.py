"""The synthetic data set: official layout, exact labels, the same bytes from the same configuration."""

import json
import zipfile

import cv2
import numpy as np
import pytest

from mtc.coco import annotations
from mtc.data.readers import synthetic3d
from mtc.data.synthetic import figure, scenes, write_archives
from mtc.errors import UserError
from mtc.sections import Synthetic
from mtc.skeleton import BODY

SMALL = Synthetic(train_images=6, val_images=2, samples_3d=4, hands_3d=4, width=160)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    return folder, write_archives(SMALL, str(folder))


def test_the_same_configuration_gives_the_same_bytes_and_another_seed_does_not(archives, tmp_path):
    again = write_archives(SMALL, str(tmp_path / "again"))
    other = write_archives(Synthetic(seed=2, train_images=6, val_images=2, samples_3d=4, hands_3d=4, width=160), str(tmp_path / "other"))
    digests = [[entry["sha256"] for entry in manifest["archives"]] for manifest in (archives[1], again, other)]
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])


def test_the_archives_have_the_official_layout(archives, tmp_path):
    folder, _ = archives
    for name in ("train2017", "val2017"):
        with zipfile.ZipFile(str(folder / "zips" / (name + ".zip"))) as z:
            assert all(n.startswith(name + "/") and len(n) == len(name) + 17 for n in z.namelist())
    with zipfile.ZipFile(str(folder / "annotations" / "annotations_trainval2017.zip")) as z:
        z.extractall(str(tmp_path))
    assert len(annotations.read(str(tmp_path / "annotations" / "person_keypoints_train2017.json")).images) == SMALL.train_images


def test_annotations_say_what_the_picture_shows():
    for index in range(12):
        scene = scenes.people_scene(7, "train2017", index, 200, 3)
        taken = np.zeros(scene.image.shape[:2], int)
        for person in scene.people:
            taken += person.mask
            if person.keypoints is not None:
                near = cv2.dilate(person.mask.astype(np.uint8), np.ones((3, 3), np.uint8))
                seen = person.keypoints[person.keypoints[:, 2] == 2]
                assert all(near[y, x] for x, y, _ in seen)
                assert np.all(person.keypoints[person.keypoints[:, 2] == 0] == 0)
        assert taken.max() == 1  # a pixel belongs to one person


def test_crowds_unlabelled_and_several_people_occur():
    people = [scenes.people_scene(1, "train2017", i, 160, 3).people for i in range(30)]
    assert any(p.crowd for scene in people for p in scene)
    assert any(p.keypoints is None and not p.crowd for scene in people for p in scene)
    assert max(sum(p.keypoints is not None for p in scene) for scene in people) == 3


def test_a_crowds_runs_decode_to_its_mask():
    mask = np.random.RandomState(0).uniform(size=(5, 7)) > 0.5
    for m in (mask, ~mask):
        coded = scenes.uncompressed_rle(m)
        flat = np.concatenate([np.full(count, i % 2) for i, count in enumerate(coded["counts"])])
        assert np.array_equal(flat.reshape(m.shape, order="F"), m)


@pytest.mark.parametrize(("scene", "split", "joints"), [(scenes.body_scene, "body_train", 20), (scenes.hand_scene, "hand_train", 21)])
def test_3d_joints_project_onto_the_drawn_figure(scene, split, joints):
    for index in range(4):
        made = scene(1, split, index, 160)
        assert made.joints.shape == (joints, 3)
        x, y, width, height = made.box
        inside = [x - 2 <= u <= x + width + 2 and y - 2 <= v <= y + height + 2 for u, v in made.uv]
        in_image = [0 <= u < made.image.shape[1] and 0 <= v < made.image.shape[0] for u, v in made.uv]
        assert all(a for a, b in zip(inside, in_image) if b)
        assert sum(in_image) >= joints - 6


def test_bones_have_the_same_length_in_every_pose():
    rng = np.random.RandomState(0)
    lengths = []
    for _ in range(20):
        joints = figure.person(rng)
        scale = np.linalg.norm(joints[2] - joints[5])
        lengths.append([np.linalg.norm(joints[a] - joints[b]) / scale for a, b in ((2, 3), (3, 4), (5, 6), (8, 9), (9, 10), (12, 13))])
    assert np.ptp(lengths, axis=0).max() < 1e-9


def test_the_reader_gives_the_cameras_frame(archives, tmp_path):
    folder, _ = archives
    for name in ("synthetic3d", "synthetic_hand"):
        with zipfile.ZipFile(str(folder / "zips" / (name + ".zip"))) as z:
            z.extractall(str(tmp_path))
    made = scenes.body_scene(SMALL.seed, "body_val", 0, SMALL.width)
    sample = synthetic3d.read(str(tmp_path), "synthetic3d", "val")[0]
    assert np.allclose(sample.xyz, made.joints @ made.camera.R.T + made.camera.t, atol=1e-3)
    assert np.allclose(sample.uv, made.uv, atol=1e-2)
    assert sample.valid.all()
    assert len(sample.uv) == len(BODY.joints)
    assert [s.mirror for s in synthetic3d.read(str(tmp_path), "synthetic_hand", "train")] == [False, True, False, True]


@pytest.mark.parametrize("content", [None, "{", '{"samples": [{"image": "train/1.jpg"}]}', json.dumps({"v": 1})])
def test_a_missing_or_broken_file_is_named(tmp_path, content):
    path = tmp_path / "synthetic3d" / "train.json"
    path.parent.mkdir()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="train.json"):
        synthetic3d.read(str(tmp_path), "synthetic3d", "train")
