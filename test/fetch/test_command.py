"""`python -m tasks.fetch`: its exit codes, sentences and records."""

import json
import signal

import numpy as np
import pytest

from tasks import fetch
from test.fetch.conftest import COCO_MEMBERS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Run in an empty folder, and give the signals back afterwards."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    yield tmp_path / "cwd"
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(*arguments, **values):
    overrides = [part for key, value in values.items() for part in ("--set", "{}={}".format(key.replace("__", "."), value))]
    return fetch.main(list(arguments) + ["--run-dir", "run"] + overrides)


def record(folder, step):
    return json.loads((folder / "run" / "steps" / (step + ".json")).read_text())


def coco(source, archives, *words, **values):
    return run("coco", *words, data__root="data", fetch__source=source, fetch__manifest=archives / "manifest.json", **values)


@pytest.mark.parametrize("arguments", [[], ["cocoa"], ["--config", "demo"]])
def test_the_first_argument_must_be_known(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        fetch.main(arguments)
    assert end.value.code == 2
    assert "usage: python -m tasks.fetch" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["coco", "--help"], ["snapshot", "--help"]])
def test_help_is_given(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        fetch.main(arguments)
    assert end.value.code == 0
    assert "python -m tasks.fetch" in capsys.readouterr().out


def test_the_data_set_is_fetched_recorded_and_not_fetched_again(coco_site, archives, folder, capsys):
    assert coco(coco_site.url, archives) == 0
    done = record(folder, "fetch_coco")
    assert done["status"] == "success"
    assert done["figures"]["images"] == {"train2017": 3, "val2017": 2}
    assert set(done["figures"]["archives"]) == set(COCO_MEMBERS)
    assert done["figures"]["bytes"] > 0
    assert done["figures"]["seconds"] >= 0
    outputs = [output["path"].rpartition("/")[2] for output in done["outputs"]]
    assert outputs == ["person_keypoints_train2017.json", "person_keypoints_val2017.json", "fetched.json"]
    assert coco(coco_site.url, archives) == 0
    assert len(coco_site.requests) == 3
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("spoil", ["lost", "cut", "changed"])
def test_images_that_were_damaged_since_are_brought_back(coco_site, archives, folder, spoil):
    assert coco(coco_site.url, archives) == 0
    image = sorted((folder / "data" / "train2017").iterdir())[0]
    whole = image.read_bytes()
    if spoil == "lost":
        image.unlink()
    else:
        image.write_bytes(whole[:-1] if spoil == "cut" else whole[::-1])
    words = ["--force"] * (spoil == "changed")  # of the same size: only --force looks deeper
    assert coco(coco_site.url, archives, *words) == 0
    assert image.read_bytes() == whole
    assert len(coco_site.requests) == 3  # the archives are still there


def test_a_changed_archive_in_a_source_folder_is_noticed(archives, folder, make_zip):
    assert run("coco", data__root="data", fetch__source=archives, fetch__manifest="none") == 0
    make_zip("official/zips/val2017.zip", {"val2017/000000000042.jpg": b"another"})
    assert run("coco", data__root="data", fetch__source=archives, fetch__manifest="none") == 0
    assert [path.name for path in (folder / "data" / "val2017").iterdir()] == ["000000000042.jpg"]


def test_a_changed_manifest_is_noticed(archives, folder, capsys):
    assert coco(archives, archives) == 0
    manifest = archives / "manifest.json"
    manifest.write_text(manifest.read_text().replace("train2017/", "train2018/"))
    assert coco(archives, archives) == 2
    assert "member 'train2017/000000000001.jpg' is not expected here" in capsys.readouterr().err


def test_a_wrong_hash_ends_with_2_and_a_sentence(coco_site, archives, folder, capsys):
    coco_site.files["zips/val2017.zip"] = bytes(len(coco_site.files["zips/val2017.zip"]))
    assert coco(coco_site.url, archives) == 2
    assert "error: {}/zips/val2017.zip: expected".format(coco_site.url) in capsys.readouterr().err
    assert record(folder, "fetch_coco")["status"] == "user_error"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"fetch__source": "gs://bucket"}, "scheme 'gs'"),
        ({"fetch__source": "/not/there"}, "fetch.source=/not/there cannot be read: No such file or directory"),
        ({"fetch__manifest": "/not/there.json"}, "manifest /not/there.json cannot be read"),
        ({"data__root": "/dev/null/x"}, "/dev/null/x cannot be written: Not a directory"),
    ],
)
def test_mistakes_end_with_2_and_a_sentence(archives, capsys, values, sentence):
    given = dict({"data__root": "data", "fetch__source": archives, "fetch__manifest": archives / "manifest.json"}, **values)
    assert run("coco", **given) == 2
    assert sentence in capsys.readouterr().err


def test_a_source_that_stays_away_ends_with_1_so_that_it_is_tried_again(coco_site, archives, folder):
    coco_site.answers = [503] * 100
    assert coco(coco_site.url, archives) == 1
    assert record(folder, "fetch_coco")["status"] == "failed"


def test_without_a_snapshot_the_step_says_so(folder, capsys):
    assert run("snapshot") == 0
    assert record(folder, "fetch_snapshot")["figures"] == {"snapshot": "none: training starts from initial weights"}
    assert "none: training starts from initial weights" in capsys.readouterr().err


def write_checkpoint(prefix, stages=1, without=(), **more):
    """Write a TensorFlow checkpoint of a tiny network of the body."""
    from mtc.nets import cpm
    from mtc.skeleton import BODY
    from mtc.training import bundle

    values = cpm.initial_values(cpm.plan(BODY, stages, 0.02), 0)
    writer = bundle.BundleWriter()
    writer.write(str(prefix), {name: value for name, value in dict(values, **more).items() if name not in without})
    writer.close()


TINY = {"model__stages": 1, "model__width": 0.02}


def test_a_snapshot_that_was_put_in_place_later_is_noticed(folder, capsys):
    assert run("snapshot", **TINY) == 0
    write_checkpoint(folder / "snapshots" / "model-7")
    assert run("snapshot", **TINY) == 0
    done = record(folder, "fetch_snapshot")
    assert done["figures"] == {"snapshot": "snapshots/model-7"}
    assert [output["path"].rpartition("/")[2] for output in done["outputs"]] == ["model-7.index", "model-7.data-00000-of-00001"]
    assert "snapshots/model-7: 44 variables of this network" in capsys.readouterr().err


def test_what_is_no_checkpoint_or_of_another_network_is_not_accepted(folder, capsys):
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / "model-7.index").write_bytes(b"index")
    (folder / "snapshots" / "model-7.data-00000-of-00001").write_bytes(b"data")
    assert run("snapshot", **TINY) == 2
    assert "snapshots/model-7 is not a TensorFlow checkpoint that can be read" in capsys.readouterr().err
    write_checkpoint(folder / "snapshots" / "model-7")
    assert run("snapshot", model__stages=2, model__width=0.02) == 2
    assert "does not fit this network (missing: CPM/Mconv1_stage2_L1/biases" in capsys.readouterr().err
    assert run("snapshot", model__stages=1, model__width=0.04) == 2
    assert "of another shape: CPM/conv1_1/biases" in capsys.readouterr().err
    write_checkpoint(folder / "snapshots" / "model-7", without=("CPM/conv1_1/weights",), other=np.zeros(3, np.float32))
    assert run("snapshot", **TINY) == 2
    said = capsys.readouterr().err
    assert "missing: CPM/conv1_1/weights; not in this network: other" in said
    write_checkpoint(folder / "snapshots" / "model-7", other=np.zeros(3, np.float32))
    assert run("snapshot", snapshot__discard="other", **TINY) == 0


@pytest.mark.parametrize("form", ["folder", "zip", "url"])
def test_a_snapshot_comes_from_anywhere(folder, site, make_zip, form):
    write_checkpoint(folder / "made" / "model-9")
    members = {path.name: path.read_bytes() for path in (folder / "made").iterdir()}
    uri = str(folder / "made")
    if form != "folder":
        uri = make_zip("snapshot.zip", members)
    if form == "url":
        with open(uri, "rb") as f:
            site.files["snapshot.zip"] = f.read()
        uri = site.url + "/snapshot.zip"
    assert run("snapshot", snapshot__uri=uri, **TINY) == 0
    assert record(folder, "fetch_snapshot")["figures"]["snapshot"].endswith("/model-9")


def test_a_snapshot_that_is_not_there_ends_with_2(folder, capsys):
    assert run("snapshot", snapshot__uri="/not/there") == 2
    assert "snapshot.uri=/not/there: there is no such" in capsys.readouterr().err
