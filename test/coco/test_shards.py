"""Preprocessing in parts gives the bytes of preprocessing in one go."""

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


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_any_number_of_shards_gives_the_same_bytes(fetched, data, tmp_path, count):
    whole = tmp_path / "whole"
    shutil.copytree(str(fetched), str(whole))
    assert preprocess.main(arguments(whole, tmp_path / "run")) == 0
    for number in range(count, 0, -1):
        assert preprocess.main(arguments(data, tmp_path / "parts", "--shard", "{}/{}".format(number, count))) == 0
    assert preprocess.main(arguments(data, tmp_path / "parts", "--merge")) == 0
    assert contents(data) == contents(whole)


def test_a_shard_that_is_missing_is_named(data, tmp_path, capsys):
    assert preprocess.main(arguments(data, tmp_path / "run", "--shard", "1/2")) == 0
    assert preprocess.main(arguments(data, tmp_path / "run", "--merge")) == 2
    assert "images have no masks of a shard yet" in capsys.readouterr().err
    assert not (data / "COCO.json").exists()


def test_a_mask_that_went_missing_after_its_shard_is_noticed(data, tmp_path, capsys):
    assert preprocess.main(arguments(data, tmp_path / "run", "--shard", "1/1")) == 0
    next((data / "mask2017").glob("*.png")).unlink()
    assert preprocess.main(arguments(data, tmp_path / "run", "--merge")) == 2
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
