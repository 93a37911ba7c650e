"""Whatever the source, `data.root` ends up with the data set, and nothing of the user's is touched."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest

from mtc import config as configuration
from mtc.errors import UserError
from mtc.fetch import dataset, manifest
from mtc.storage import open_storage
from test.fetch.conftest import COCO_MEMBERS


@pytest.fixture
def configure(tmp_path, archives):
    """Return a function that makes a config with this source, the test's manifest and `data.root` = <tmp>/root."""

    def make(source, **fetch):
        config = configuration.load("coco_body")
        config.data.root = str(tmp_path / "root")
        config.fetch = dataclasses.replace(config.fetch, source=str(source), manifest=fetch.get("manifest", str(archives / "manifest.json")))
        return config

    return make


@pytest.fixture
def extracted(tmp_path):
    """A folder with the extracted data set."""
    for members in COCO_MEMBERS.values():
        for name, data in members.items():
            path = tmp_path / "extracted" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return tmp_path / "extracted"


def tree(folder):
    """Return {relative path: bytes} of the data set's files in a folder."""
    found = {}
    for name in ("train2017", "val2017", "annotations"):
        for path in sorted((folder / name).iterdir()):
            found[name + "/" + path.name] = path.read_bytes()
    return found


WHOLE = {name: data for members in COCO_MEMBERS.values() for name, data in members.items()}


def test_archives_of_a_web_server_are_fetched_once(coco_site, configure, tmp_path):
    config = configure(coco_site.url + "/")
    figures = dataset.fetch(config)
    assert tree(tmp_path / "root") == WHOLE
    assert figures["images"] == {"train2017": 3, "val2017": 2}
    assert set(figures["archives"]) == set(COCO_MEMBERS)
    assert figures["bytes"] == sum(len(data) for data in coco_site.files.values())
    assert len(coco_site.requests) == 3
    again = dataset.fetch(config)
    assert len(coco_site.requests) == 3
    assert again["archives"] == figures["archives"]


def test_archives_may_be_deleted_once_they_are_unpacked(coco_site, configure, tmp_path):
    config = configure(coco_site.url)
    dataset.fetch(config)
    shutil.rmtree(str(tmp_path / "root" / "archives"))
    dataset.fetch(config)
    assert len(coco_site.requests) == 3


def test_without_a_manifest_the_same_source_is_not_fetched_twice(coco_site, configure, tmp_path):
    config = configure(coco_site.url, manifest="none")
    dataset.fetch(config)
    dataset.fetch(config)
    assert tree(tmp_path / "root") == WHOLE
    assert len(coco_site.requests) == 3


def test_archives_come_from_a_bucket(s3, archives, configure, tmp_path):
    storage = open_storage("s3://bucket/coco", endpoint=s3)
    for path in COCO_MEMBERS:
        storage.put(str(archives / path), path)
    config = configure("s3://bucket/coco")
    config.storage.endpoint = s3
    dataset.fetch(config)
    assert tree(tmp_path / "root") == WHOLE


@pytest.mark.parametrize("flat", [False, True])
def test_archives_in_a_folder_are_used_where_they_are(archives, configure, tmp_path, flat):
    if flat:
        for path in COCO_MEMBERS:
            os.rename(str(archives / path), str(archives / os.path.basename(path)))
    before = sorted(str(path) for path in archives.rglob("*"))
    dataset.fetch(configure(archives.as_uri() if flat else archives))
    assert tree(tmp_path / "root") == WHOLE
    assert not list((tmp_path / "root").rglob("*.zip"))
    assert sorted(str(path) for path in archives.rglob("*")) == before


def test_an_archive_with_a_wrong_hash_is_not_unpacked(archives, configure, tmp_path):
    with open(str(archives / "zips" / "val2017.zip"), "r+b") as f:
        f.write(b"PK\x03\x05")
    with pytest.raises(UserError, match="val2017.zip has SHA-256 .*, expected"):
        dataset.fetch(configure(archives))
    assert not (tmp_path / "root" / "val2017").exists()


def test_a_folder_that_lost_a_file_is_unpacked_again(coco_site, configure, tmp_path):
    config = configure(coco_site.url)
    dataset.fetch(config)
    os.unlink(str(tmp_path / "root" / "train2017" / "000000000001.jpg"))
    dataset.fetch(config)
    assert tree(tmp_path / "root") == WHOLE
    assert len(coco_site.requests) == 3


@pytest.mark.parametrize("moment", ["before the folder appears", "after the folder appeared"])
def test_after_a_crash_while_unpacking_the_folder_is_made_again(coco_site, configure, tmp_path, monkeypatch, moment):
    config, extract = configure(coco_site.url), dataset.extract.extract
    config.fetch.parallel = 1

    def crash(archive, target, members):
        if moment == "after the folder appeared":
            extract(archive, target, members)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataset.extract, "extract", crash)
        with pytest.raises(KeyboardInterrupt):
            dataset.fetch(config)
    dataset.fetch(config)
    assert tree(tmp_path / "root") == WHOLE
    assert {path for path, _ in coco_site.requests} == {"/" + path for path in COCO_MEMBERS}
    assert coco_site.requests.count(("/zips/train2017.zip", None)) == 1


def test_several_archives_come_at_once(coco_site, configure, tmp_path):
    arrived, together = [], threading.Barrier(3)

    def wait_for_the_others(path):
        together.wait(20)
        arrived.append(path)

    coco_site.before = wait_for_the_others
    dataset.fetch(configure(coco_site.url))
    assert len(arrived) == 3
    assert tree(tmp_path / "root") == WHOLE


def test_one_archive_that_cannot_be_had_ends_all(coco_site, configure, tmp_path):
    del coco_site.files["zips/val2017.zip"]
    with pytest.raises(UserError, match="val2017.zip answers 404"):
        dataset.fetch(configure(coco_site.url))
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_archives_are_deleted_where_nobody_wants_to_keep_them(coco_site, archives, configure, tmp_path):
    config = configure(coco_site.url)
    config.fetch.keep_archives = False
    dataset.fetch(config)
    dataset.fetch(config)
    assert tree(tmp_path / "root") == WHOLE
    assert not [path for path in (tmp_path / "root" / "archives").rglob("*") if path.is_file()]
    assert len(coco_site.requests) == 3
    config = configure(archives)
    config.data.root, config.fetch.keep_archives = str(tmp_path / "other"), False
    dataset.fetch(config)
    assert (archives / "zips" / "train2017.zip").is_file()


def test_two_fetches_share_one_download(coco_site, configure, tmp_path):
    code = "import sys; from mtc import config; from mtc.fetch import dataset; c = config.load('coco_body'); "
    config = configure(coco_site.url)
    code += "c.data.root, c.fetch.source, c.fetch.manifest = sys.argv[1:]; dataset.fetch(c)"
    command = [sys.executable, "-c", code, config.data.root, config.fetch.source, config.fetch.manifest]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert len(coco_site.requests) == 3
    assert tree(tmp_path / "root") == WHOLE


def test_too_small_a_disk_is_said_before_anything_is_asked_for(coco_site, configure, monkeypatch):
    monkeypatch.setattr(dataset.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="root needs .* for the archives and what is in them, its disk has 1000 B free"):
        dataset.fetch(configure(coco_site.url))
    assert coco_site.requests == []


@pytest.mark.parametrize(("manifest_is", "source", "asked"), [("mine", "down", True), ("official", "mine", False)])
def test_the_mirrors_of_a_manifest_belong_to_its_source(coco_site, archives, configure, monkeypatch, manifest_is, source, asked):
    path = archives / "manifest.json"
    content = json.loads(path.read_text())
    for entry in content["archives"]:
        entry["mirrors"] = [coco_site.url + "/" + entry["path"]]
    path.write_text(json.dumps(content))
    config = configure(coco_site.url + "/nothing/here")
    if manifest_is == "official":
        monkeypatch.setattr(manifest, "OFFICIAL", str(path))
        config.fetch.manifest = "official"
        with pytest.raises(UserError, match="answers 404"):
            dataset.fetch(config)
    else:
        dataset.fetch(config)
    assert ("/zips/val2017.zip" in [path for path, _ in coco_site.requests]) == asked


def test_an_extracted_folder_is_linked(extracted, configure, tmp_path):
    config = configure(extracted)
    figures = dataset.fetch(config)
    root = tmp_path / "root"
    assert tree(root) == WHOLE
    assert os.readlink(str(root / "train2017")) == str(extracted / "train2017")
    assert figures["images"] == {"train2017": 3, "val2017": 2}
    dataset.fetch(config)
    assert tree(root) == WHOLE


def test_links_follow_the_source_and_give_way_to_archives(extracted, coco_site, configure, tmp_path):
    dataset.fetch(configure(extracted))
    os.rename(str(extracted), str(tmp_path / "moved"))
    dataset.fetch(configure(tmp_path / "moved"))
    assert os.readlink(str(tmp_path / "root" / "val2017")) == str(tmp_path / "moved" / "val2017")
    dataset.fetch(configure(coco_site.url))
    assert not (tmp_path / "root" / "val2017").is_symlink()
    assert tree(tmp_path / "root") == WHOLE
    assert tree(tmp_path / "moved") == WHOLE


@pytest.mark.parametrize("lost", ["val2017", "annotations/person_keypoints_val2017.json", "train2017"])
def test_an_incomplete_folder_is_refused_with_what_is_missing(extracted, configure, lost):
    path = extracted / lost
    shutil.rmtree(str(path)) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match="fetch.source=.* lacks {}".format(lost)):
        dataset.fetch(configure(extracted))


def test_a_folder_with_neither_names_what_is_looked_for(configure, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds neither train2017/, val2017/, annotations/ nor the archive zips/train2017.zip"):
        dataset.fetch(configure(tmp_path / "empty"))


def test_a_source_that_is_no_folder_is_refused(configure, tmp_path):
    (tmp_path / "file").write_text("")
    for name, reason in (("gone", "No such file"), ("file", "Not a directory")):
        with pytest.raises(UserError, match="fetch.source=.*{} cannot be read: {}".format(name, reason)):
            dataset.fetch(configure(tmp_path / name))


def test_a_folder_that_cannot_be_read_is_refused(extracted, configure):
    """A link to itself stands for a folder without permission, which the superuser could read."""
    shutil.rmtree(str(extracted / "val2017"))
    os.symlink("val2017", str(extracted / "val2017"))
    with pytest.raises(UserError, match="lacks val2017/ .*symbolic links"):
        dataset.fetch(configure(extracted))


@pytest.mark.usefixtures("no_superpowers")
def test_a_folder_without_permission_is_refused(extracted, configure):
    os.chmod(str(extracted), 0)
    try:
        with pytest.raises(UserError, match="cannot be read: Permission denied"):
            dataset.fetch(configure(extracted))
    finally:
        os.chmod(str(extracted), 0o755)


def test_a_data_set_that_the_user_put_in_place_is_used_as_it_is(extracted, site, configure, tmp_path):
    os.rename(str(extracted), str(tmp_path / "root"))
    figures = dataset.fetch(configure(site.url))
    assert (figures["origin"], figures["images"]["train2017"]) == ("data.root as it was", 3)
    assert site.requests == []
    assert tree(tmp_path / "root") == WHOLE


def test_folders_of_the_user_are_never_replaced(coco_site, extracted, configure, tmp_path):
    (tmp_path / "root" / "train2017").mkdir(parents=True)
    (tmp_path / "root" / "train2017" / "mine.jpg").write_bytes(b"mine")
    for source in (coco_site.url, extracted):
        with pytest.raises(UserError, match="train2017 is there and"):
            dataset.fetch(configure(source))
    assert [path.name for path in (tmp_path / "root" / "train2017").iterdir()] == ["mine.jpg"]


def test_two_archives_with_one_folder_are_refused(archives, configure, make_zip):
    document = json.loads((archives / "manifest.json").read_text())
    make_zip("official/zips/more.zip", {"train2017/000000000009.jpg": b"9"})
    document["archives"].append(dict(document["archives"][0], path="zips/more.zip", bytes=None, sha256=None))
    (archives / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="zips/train2017.zip and zips/more.zip both hold train2017/"):
        dataset.fetch(configure(archives))


def test_an_archive_that_lacks_a_part_of_the_data_set_is_told(archives, configure, make_zip):
    make_zip("official/annotations/annotations_trainval2017.zip", {"annotations/instances_val2017.json": b"{}"})
    with pytest.raises(UserError, match="lacks annotations/person_keypoints_train2017.json"):
        dataset.fetch(configure(archives, manifest="none"))


@pytest.fixture
def synthetic(monkeypatch, archives):
    """Stand in for the generator: it copies the test's archives; returns the list of its calls."""
    calls = []

    def write_archives(values, folder):
        calls.append(values.seed)
        for path in COCO_MEMBERS:
            os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
            shutil.copy(str(archives / path), os.path.join(folder, path))
        shutil.copy(str(archives / "manifest.json"), folder)

    monkeypatch.setattr("mtc.data.synthetic.write_archives", write_archives)
    return calls


def test_the_synthetic_data_set_is_made_once_for_the_same_values(synthetic, configure, tmp_path):
    config = configure("synthetic")
    figures = dataset.fetch(config)
    dataset.fetch(config)
    assert synthetic == [1]
    assert tree(tmp_path / "root") == WHOLE
    assert set(figures["archives"]) == set(COCO_MEMBERS)
    config.synthetic.seed = 2
    dataset.fetch(config)
    assert synthetic == [1, 2]


def test_the_synthetic_data_set_does_not_replace_downloaded_archives(synthetic, coco_site, configure, tmp_path):
    dataset.fetch(configure(coco_site.url))
    with pytest.raises(UserError, match="holds archives of another source"):
        dataset.fetch(configure("synthetic"))


def test_real_archives_may_follow_synthetic_ones(synthetic, coco_site, configure, archives, tmp_path, make_zip):
    dataset.fetch(configure("synthetic"))
    with open(make_zip("new.zip", {"val2017/000000000007.jpg": b"new"}), "rb") as f:
        coco_site.files["zips/val2017.zip"] = f.read()
    document = json.loads((archives / "manifest.json").read_text())
    document["archives"][1].update(bytes=None, sha256=hashlib.sha256(coco_site.files["zips/val2017.zip"]).hexdigest())
    (tmp_path / "new.json").write_text(json.dumps(document))
    dataset.fetch(configure(coco_site.url, manifest=str(tmp_path / "new.json")))
    assert os.listdir(str(tmp_path / "root" / "val2017")) == ["000000000007.jpg"]


def test_the_official_member_names_admit_what_the_official_archives_hold():
    allowed = {archive.path: archive.members for archive in manifest.load("official")}
    for path, names in {
        "zips/train2017.zip": ["train2017/000000000009.jpg"],
        "zips/val2017.zip": ["val2017/000000581781.jpg"],
        "annotations/annotations_trainval2017.zip": [
            "annotations/{}_{}2017.json".format(kind, split) for kind in ("instances", "captions", "person_keypoints") for split in ("train", "val")
        ],
    }.items():
        assert all(re.fullmatch(allowed[path], name) for name in names)
