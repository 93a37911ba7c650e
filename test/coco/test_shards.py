"""Preprocessing in parts gives the bytes of preprocessing in one go."""

import json
import pathlib
import shutil

import pytest

from tasks import fetch, preprocess
from test.conftest import SMALL


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fetched")
    assert fetch.main(["coco"] + arguments(folder / "data", folder / "run")) == 0
    return folder / "data"


@pytest.fixture
def data(fetched, tmp_path):
    shutil.copytree(str(fetched), str(tmp_path / "data"))
    return tmp_path / "data"


def arguments(data, run, *more):
    words = ["--config", "demo", "--run-dir", str(run)]
    for override in SMALL + ("data.root={}".format(data),):
        words += ["--set", override]
    return words + list(more)


def contents(data):
    """{path: bytes} of all that training reads."""
    kept = [path for path in pathlib.Path(str(data)).rglob("*") if path.is_file() and ".steps" not in path.parts]
    return {str(path.relative_to(str(data))): path.read_bytes() for path in kept}


@pytest.mark.parametrize(("count", "store"), [(1, "rle"), (2, "rle"), (3, "rle"), (20, "rle"), (1, "png"), (3, "png")])
def test_any_number_of_shards_gives_the_same_bytes(fetched, data, tmp_path, count, store):
    whole, png = tmp_path / "whole", ("--set", "data.mask_store=" + store)
    shutil.copytree(str(fetched), str(whole))
    assert preprocess.main(arguments(whole, tmp_path / "run", *png)) == 0
    for number in range(count, 0, -1):
        assert preprocess.main(arguments(data, tmp_path / "parts", *png, "--shard", "{}/{}".format(number, count))) == 0
    assert preprocess.main(arguments(data, tmp_path / "parts", *png, "--merge")) == 0
    assert contents(data) == contents(whole)
    figures = []
    for run in ("run", "parts"):
        found = json.loads((tmp_path / run / "steps" / "preprocess.json").read_text())["figures"]
        figures.append({split: found[split] for split in ("train", "val")})
    assert figures[0] == figures[1]


def test_what_shards_have_found_adds_up(data, tmp_path):
    path = data / "annotations" / "person_keypoints_train2017.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[1, 2, 3, 4]]
    content["annotations"].append(dict(content["annotations"][0]))
    path.write_text(json.dumps(content))
    lenient = ("--set", "data.max_bad_fraction=1")
    assert preprocess.main(arguments(data, tmp_path / "run", *lenient)) == 0
    for number in (1, 2, 3):
        assert preprocess.main(arguments(data, tmp_path / "parts", *lenient, "--force", "--shard", "{}/3".format(number))) == 0
    assert preprocess.main(arguments(data, tmp_path / "parts", *lenient, "--force", "--merge")) == 0
    one, other = (json.loads((tmp_path / run / "steps" / "preprocess.json").read_text())["figures"]["train"] for run in ("run", "parts"))
    assert one == other
    assert one["bad"]["annotations"] == len(content["annotations"])


def test_a_shard_that_is_missing_is_named(data, tmp_path, capsys):
    assert preprocess.main(arguments(data, tmp_path / "run", "--merge")) == 2
    assert "0 of N shards" in capsys.readouterr().err
    assert preprocess.main(arguments(data, tmp_path / "run", "--shard", "1/2")) == 0
    assert preprocess.main(arguments(data, tmp_path / "run", "--merge")) == 2
    said = capsys.readouterr().err
    assert "1 of 2 shards of these annotations" in said
    assert "run python -m tasks.preprocess --shard 2/2 first" in said
    assert not (data / "COCO.json").exists()


def test_a_png_that_went_missing_after_its_shard_is_noticed(data, tmp_path, capsys):
    png = ("--set", "data.mask_store=png")
    assert preprocess.main(arguments(data, tmp_path / "run", *png, "--shard", "1/1")) == 0
    next((data / "mask2017").glob("*.png")).unlink()
    assert preprocess.main(arguments(data, tmp_path / "run", *png, "--merge")) == 2
    assert "1 of " in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--shard", "1/3"), ("--merge",)])
def test_another_run_finds_the_work_done_and_says_by_whom(data, tmp_path, capsys, more):
    assert preprocess.main(arguments(data, tmp_path / "one")) == 0
    assert preprocess.main(arguments(data, tmp_path / "two", *more)) == 0
    assert "nothing to do" in capsys.readouterr().err
    record = next((tmp_path / "two" / "steps").glob("preprocess*.json")).read_text()
    assert '"unchanged"' in record


@pytest.mark.parametrize("given", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_nonsense_for_a_shard_is_refused(data, tmp_path, capsys, given):
    with pytest.raises(SystemExit) as stop:
        preprocess.main(arguments(data, tmp_path / "run", "--shard=" + given))
    assert stop.value.code == 2
    assert "expected I/N" in capsys.readouterr().err
