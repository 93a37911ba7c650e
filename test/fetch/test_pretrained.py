"""The snapshot is found where it is, or brought whole, or the user is told what to do."""

import hashlib
import json
import os
import tarfile
import zipfile

import pytest

from mtc.errors import UserError
from mtc.fetch import pretrained
from mtc.sections import Snapshot
from mtc.storage import open_storage


@pytest.fixture
def snapshots(tmp_path):
    folder = tmp_path / "snapshots"
    folder.mkdir()
    return folder


def put(folder, name="model-390000", shards=1):
    """Write the files of a checkpoint (their content does not matter here); return its prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / (name + ".index")).write_bytes(b"index of " + name.encode())
    for i in range(shards):
        (folder / "{}.data-{:05d}-of-{:05d}".format(name, i, shards)).write_bytes(b"data")
    return str(folder / name)


def both(uri, folder, **options):
    """Return what `fetch` says, having checked that `locate` agrees."""
    snapshot = Snapshot(uri=str(uri), sha256=options.pop("sha256", ""))
    found = pretrained.fetch(snapshot, str(folder), **options)
    assert pretrained.locate(snapshot, str(folder)) == found
    return found


def packed(tmp_path, name="mtc_snapshots.zip"):
    """Write an archive with a checkpoint two folders down; return its path."""
    prefix = put(tmp_path / "pack" / "snapshots" / "Final", shards=2)
    paths = pretrained.checkpoint_files(prefix)
    archive = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(str(archive), "w") as z:
            for path in paths:
                z.write(path, os.path.relpath(path, str(tmp_path / "pack")))
    else:
        with tarfile.open(str(archive), "w:gz") as t:
            t.add(str(tmp_path / "pack" / "snapshots"), "snapshots")
    return archive


def test_none_and_an_empty_or_missing_folder_mean_initial_weights(snapshots, tmp_path):
    put(snapshots)
    assert both("none", snapshots) is None
    assert both("auto", tmp_path / "missing") is None
    assert not (tmp_path / "missing").exists()


def test_auto_takes_the_only_checkpoint_wherever_it_lies_below(snapshots):
    prefix = put(snapshots / "Final" / "deep")
    assert both("auto", snapshots) == prefix


def test_of_several_steps_the_newest_is_taken(snapshots):
    put(snapshots, "model-90000")
    prefix = put(snapshots, "model-390000")
    assert both("auto", snapshots) == prefix


def test_checkpoints_in_several_folders_are_not_chosen_between(snapshots):
    prefixes = [put(snapshots / name) for name in ("a", "b")]
    with pytest.raises(UserError, match="several checkpoints .{}, {}.: set snapshot.uri".format(*prefixes)):
        pretrained.locate(Snapshot(), str(snapshots))


def test_a_missing_shard_is_named(snapshots):
    prefix = put(snapshots, shards=3)
    os.unlink(prefix + ".data-00001-of-00003")
    for uri in ("auto", prefix, str(snapshots)):
        with pytest.raises(UserError, match=r"model-390000\.data-00001-of-00003 is missing"):
            pretrained.locate(Snapshot(uri=uri), str(snapshots))
    for name in ("0-of-00003", "2-of-00003"):
        os.unlink(prefix + ".data-0000" + name)
    with pytest.raises(UserError, match=r"model-390000\.data-00000-of-00001 is missing"):
        pretrained.locate(Snapshot(), str(snapshots))


@pytest.mark.parametrize("ending", ["", ".index", ".data-00000-of-00001"])
def test_a_checkpoint_is_used_in_place_whichever_of_its_files_is_named(snapshots, tmp_path, ending):
    prefix = put(tmp_path / "elsewhere")
    assert both(prefix + ending, snapshots) == prefix
    assert both("file://" + prefix + ending, snapshots) == prefix
    assert os.listdir(str(snapshots)) == []


def test_a_folder_is_used_in_place(snapshots, tmp_path):
    prefix = put(tmp_path / "elsewhere")
    assert both(tmp_path / "elsewhere", snapshots) == prefix


@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("/not/there", "there is no such folder, checkpoint"),
        ("/not/there.zip", "there is no such folder"),
        ("http://127.0.0.1/model-1", "only an archive"),
        ("gs://bucket/x.zip", "scheme 'gs'"),
        ("s3://bucket", "the URI names no file|expected s3://bucket/folder"),
    ],
)
def test_what_cannot_be_a_snapshot_is_refused(snapshots, uri, part):
    with pytest.raises(UserError, match=part):
        pretrained.fetch(Snapshot(uri=uri), str(snapshots))


def test_a_folder_without_a_checkpoint_is_refused(snapshots, tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        pretrained.locate(Snapshot(uri=str(tmp_path)), str(snapshots))


@pytest.mark.parametrize("name", ["mtc_snapshots.zip", "mtc_snapshots.tar.gz", "mtc_snapshots.tgz"])
def test_a_local_archive_is_unpacked_once(snapshots, tmp_path, name):
    archive = packed(tmp_path, name)
    prefix = both(archive, snapshots)
    assert prefix == str(snapshots / "mtc_snapshots" / "snapshots" / "Final" / "model-390000")
    before = os.stat(prefix + ".index").st_mtime_ns
    assert both(archive, snapshots) == prefix
    assert os.stat(prefix + ".index").st_mtime_ns == before
    os.unlink(str(archive))
    assert both(archive, snapshots) == prefix


def test_a_remote_archive_is_fetched_once_and_not_kept(site, snapshots, tmp_path):
    data = packed(tmp_path).read_bytes()
    site.files["mtc_snapshots.zip"] = data
    uri = site.url + "/mtc_snapshots.zip"
    with pytest.raises(UserError, match="run python -m tasks.fetch snapshot first"):
        pretrained.locate(Snapshot(uri=uri), str(snapshots))
    digest = hashlib.sha256(data).hexdigest()
    prefix = both(uri, snapshots, sha256=digest)
    assert both(uri, snapshots, sha256=digest) == prefix
    assert len(site.requests) == 1
    assert not (snapshots / "mtc_snapshots.zip").exists()
    assert both("auto", snapshots) == prefix


def test_an_archive_with_a_wrong_hash_is_not_unpacked(site, snapshots, tmp_path):
    archive = packed(tmp_path)
    site.files["mtc_snapshots.zip"] = archive.read_bytes()
    for uri in (str(archive), site.url + "/mtc_snapshots.zip"):
        with pytest.raises(UserError, match="expected"):
            pretrained.fetch(Snapshot(uri=uri, sha256="0" * 64), str(snapshots))
    assert not (snapshots / "mtc_snapshots").exists()


def test_an_evil_archive_is_refused(snapshots, tmp_path):
    archive = tmp_path / "evil.tar"
    with tarfile.open(str(archive), "w") as t:
        info = tarfile.TarInfo("model-1.index")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        t.addfile(info)
    with pytest.raises(UserError, match="is a link"):
        pretrained.fetch(Snapshot(uri=str(archive)), str(snapshots))
    assert not (snapshots / "evil").exists()


def test_an_archive_of_several_checkpoints_names_them(snapshots, tmp_path):
    put(tmp_path / "pack" / "snapshots" / "Hand", "model-160000")
    archive = packed(tmp_path, "both.tgz")
    with pytest.raises(UserError, match="several checkpoints .*Final/model-390000, .*Hand/model-160000"):
        pretrained.fetch(Snapshot(uri=str(archive)), str(snapshots))
    chosen = str(snapshots / "both" / "snapshots" / "Hand" / "model-160000")
    assert both(chosen, snapshots) == chosen


def test_a_folder_of_the_user_is_not_replaced(snapshots, tmp_path):
    put(snapshots / "mtc_snapshots", "mine-1")
    with pytest.raises(UserError, match="was not made from .*move it away"):
        pretrained.fetch(Snapshot(uri=str(packed(tmp_path))), str(snapshots))
    assert (snapshots / "mtc_snapshots" / "mine-1.index").exists()


def test_a_crash_while_unpacking_is_made_good_by_the_next_run(snapshots, tmp_path, monkeypatch):
    archive = packed(tmp_path)

    def crash(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "_source_path", crash)
        with pytest.raises(KeyboardInterrupt):
            pretrained._fetch_archive(pretrained._place(str(archive), str(snapshots)), Snapshot(uri=str(archive)), str(snapshots), "", "")
    assert pretrained.locate(Snapshot(), str(snapshots)) is None
    assert both(archive, snapshots)


@pytest.mark.parametrize("tail", ["", "/model-500"])
def test_a_checkpoint_in_a_bucket_is_copied_and_compared(s3, snapshots, tmp_path, tail):
    storage = open_storage("s3://bucket/run/checkpoints", endpoint=s3)
    paths = pretrained.checkpoint_files(put(tmp_path / "step-00000500", "model-500"))
    for path in paths:
        storage.put(path, "step-00000500/" + os.path.basename(path))
    listed = {"model-500.index": {"bytes": 18, "sha256": hashlib.sha256(b"index of model-500").hexdigest()}}
    storage.write("step-00000500/MANIFEST.json", json.dumps({"v": 1, "step": 500, "files": listed}).encode())
    prefix = both("s3://bucket/run/checkpoints/step-00000500" + tail, snapshots, endpoint=s3)
    with open(prefix + ".index", "rb") as f:
        assert f.read() == b"index of model-500"


def test_a_damaged_checkpoint_in_a_bucket_is_refused(s3, snapshots):
    storage = open_storage("s3://bucket/damaged", endpoint=s3)
    storage.write("step-1/model.index", b"x")
    storage.write("step-1/model.data-00000-of-00001", b"x")
    storage.write("step-1/MANIFEST.json", json.dumps({"files": {"model.index": {"bytes": 1, "sha256": "0" * 64}}}).encode())
    with pytest.raises(UserError, match="model.index is not what its MANIFEST.json says"):
        pretrained.fetch(Snapshot(uri="s3://bucket/damaged/step-1"), str(snapshots), endpoint=s3)
    assert not (snapshots / "step-1").exists()
