"""Pictures of the network's answers, drawn while training goes on, change nothing of the training and cost it nothing when they fail."""

import json
import os

import cv2
import pytest

from mtc.report import predictions
from test.training.test_training import assert_same_variables

pytestmark = pytest.mark.last


def test_pictures_come_every_so_many_steps_the_newest_stay_and_the_weights_are_the_same(trained):
    run = trained("train.steps=7", "previews.every=2", "previews.samples=3", "previews.keep=2")
    assert sorted(os.listdir(str(run / "previews"))) == ["step-00000004", "step-00000006"]
    assert cv2.imread(str(run / "previews" / "step-00000006" / "sheet.jpg")).shape[1] > 1000
    found = json.loads((run / "previews" / "step-00000006" / "skeletons.json").read_text())
    assert (found["step"], len(found["joints"]), len(found["samples"])) == (6, 20, 3)
    for sample in found["samples"]:
        assert len(sample["joints"]) == len(sample["scores"]) == 20
        assert all(place is None or len(place) == 3 for place in sample["joints"])
    assert_same_variables(trained("train.steps=7", run="plain"), run)


def test_pictures_that_cannot_be_drawn_are_told_once_and_cost_no_step(trained, monkeypatch, capsys):
    def write(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predictions, "write", write)
    run = trained("train.steps=6", "previews.every=2")
    assert capsys.readouterr().err.count("are not drawn") == 1
    assert not (run / "previews").exists()
