"""`python -m tasks.evaluate`: a checkpoint judged, from here or from the storage, and its judgement used by the report."""

import json
import shutil

import pytest

from mtc.evaluation import held_out
from tasks import evaluate, report, train
from test.conftest import SMALL

pytestmark = pytest.mark.last


@pytest.fixture(scope="module")
def finished(small_data, tmp_path_factory):
    """A finished run and its storage, for all tests to copy."""
    folder = tmp_path_factory.mktemp("finished")
    words = ["--config", "demo", "--run-dir", str(folder / "run")]
    for override in SMALL + ("data.root={}".format(small_data), "storage.uri={}".format(folder / "storage"), "train.steps=4"):
        words += ["--set", override]
    assert train.main(words) == 0
    return folder


@pytest.fixture
def run(finished, small, tmp_path):
    for name in ("run", "storage"):
        shutil.copytree(str(finished / name), str(tmp_path / name))
    return tmp_path / "run", small("train.steps=4", "report.samples=3", "report.pictures=2")


def test_the_newest_checkpoint_is_judged_and_the_report_takes_that_judgement(run, monkeypatch, capsys):
    directory, arguments = run
    assert evaluate.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "step          4, 3 held-out samples" in printed
    assert "PCK           trained" in printed
    figures = json.loads((directory / "evaluation.json").read_text())["figures"]
    record = json.loads((directory / "steps" / "evaluate.json").read_text())["figures"]
    assert record["pck"] == figures["pck"]["trained"]

    monkeypatch.setattr(held_out, "evaluate", None)
    assert report.main(arguments) == 0
    assert json.loads((directory / "report.json").read_text())["pck"] == figures["pck"]


def test_a_report_with_other_samples_judges_anew(run, small):
    directory, arguments = run
    assert evaluate.main(arguments) == 0
    assert report.main(small("train.steps=4", "report.samples=2", "report.pictures=1")) == 0
    assert json.loads((directory / "report.json").read_text())["samples"]["held_out"] == 2


def test_a_damaged_judgement_is_made_anew(run):
    directory, arguments = run
    assert evaluate.main(arguments) == 0
    (directory / "evaluation.npz").write_bytes(b"damaged")
    assert report.main(arguments) == 0
    assert json.loads((directory / "report.json").read_text())["samples"]["held_out"] == 3


def test_a_checkpoint_in_the_storage_is_brought_and_judged(run, tmp_path):
    directory, arguments = run
    there = (tmp_path / "storage" / "run" / "checkpoints" / "step-00000004").as_uri()
    elsewhere = tmp_path / "elsewhere"
    words = [str(elsewhere) if word == str(directory) else word for word in arguments]
    assert evaluate.main(words + ["--checkpoint", there]) == 0
    assert evaluate.main(arguments) == 0
    one, other = (json.loads((d / "evaluation.json").read_text())["figures"] for d in (directory, elsewhere))
    assert one == other


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/nowhere/run/checkpoints/step-00000004", "it is not there, or damaged"),
        ("/nowhere/checkpoints/step-00000004", "expected …/<run>/checkpoints/step-…"),
        ("/nowhere/step-00000004", "expected …/<run>/checkpoints/step-…"),
        ("/nowhere/model", "expected a directory step-…"),
    ],
)
def test_a_checkpoint_that_is_none_is_told(run, capsys, given, said):
    assert evaluate.main(run[1] + ["--checkpoint", given]) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_checkpoint_is_told(run, capsys):
    directory, arguments = run
    shutil.rmtree(str(directory / "checkpoints"))
    assert evaluate.main(arguments) == 2
    assert "has no good checkpoint" in capsys.readouterr().err
