"""The whole chain of commands on real COCO images at the published crop size, where they are at hand; else on synthetic ones."""

import json
import os
import pathlib

import pytest

from mtc.training import checkpoints
from tasks import fetch, preprocess, report, train

COCO_MINI = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini"


@pytest.fixture
def source(small_data):
    """A folder in COCO's layout that somebody already has, and how many people of it can be trained on."""
    if COCO_MINI.is_dir():
        return str(COCO_MINI), 7
    with open(os.path.join(small_data, "COCO.json"), encoding="utf-8") as f:
        return small_data, len(json.load(f)["root"])


def test_real_images_go_from_a_folder_to_a_report(source, tmp_path):
    folder, people = source
    settings = {
        "data.root": tmp_path / "data",
        "fetch.source": folder,
        "fetch.manifest": "none",
        "storage.uri": tmp_path / "storage",
        "snapshot.uri": "none",
        "model.width": 0.05,
        "model.stages": 2,
        "train.steps": 3,
        "train.batch_size": 1,
        "train.lr": "1e-3",
        "train.lr_steps": "",
        "report.samples": 3,
    }
    arguments = ["--config", "coco_body", "--run-dir", str(tmp_path / "run")]
    arguments += [word for key, value in settings.items() for word in ("--set", "{}={}".format(key, value))]

    assert [fetch.main(["coco"] + arguments), preprocess.main(arguments), train.main(arguments), report.main(arguments)] == [0, 0, 0, 0]

    assert (tmp_path / "data" / "train2017").is_symlink()
    assert checkpoints.state(checkpoints.newest_good(str(tmp_path / "run")))["step"] == 3
    found = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert found["samples"]["training"] == people
    assert found["config"]["model"]["crop"] == 368
    assert 0 < found["loss"]["last_mean"] < 1
    assert set(found["pck"]) == {"trained", "untrained", "mean_pose"}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "step-00000003" in page
