"""A manifest is taken as it is meant, or refused with its field."""

import json

import pytest

from mtc.errors import UserError
from mtc.fetch import manifest

GOOD = {"path": "zips/a.zip", "bytes": 1, "sha256": "0" * 64, "members": "a/.*"}


def text(**changes):
    return json.dumps({"v": 1, "archives": [dict(GOOD, **changes)]})


def test_the_official_manifest_lists_coco_2017_with_sizes_and_hashes():
    assert [(a.path, a.bytes, a.sha256[:8]) for a in manifest.load("official")] == [
        ("zips/train2017.zip", 19336861798, "69a8bb58"),
        ("zips/val2017.zip", 815585330, "4f7e2ccb"),
        ("annotations/annotations_trainval2017.zip", 252907541, "113a836d"),
    ]


def test_none_is_the_official_paths_unchecked():
    assert [(a.path, a.bytes, a.sha256) for a in manifest.load("none")] == [(a.path, None, None) for a in manifest.load("official")]


def test_files_and_urls_hold_the_same_form(site, tmp_path):
    (tmp_path / "m.json").write_text(text(sha256="AB" * 32, bytes=None))
    site.files["m.json"] = text(sha256="AB" * 32, bytes=None).encode()
    wanted = [manifest.Archive("zips/a.zip", None, "ab" * 32, "a/.*")]
    assert manifest.load(str(tmp_path / "m.json")) == wanted
    assert manifest.load(site.url + "/m.json") == wanted


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ("{", "m.json is not JSON"),
        ("[]", 'expected {"v": 1'),
        ('{"v": 1, "archives": []}', "field 'archives'"),
        ('{"v": 1, "archives": [1]}', r"archives\[0\]: expected an object"),
        (text(path="../a.zip"), "field 'path'"),
        (text(path="/a.zip"), "field 'path'"),
        (text(path="a.rar"), "field 'path'"),
        (text(path=None), "field 'path'"),
        (text(bytes=-1), "field 'bytes' is -1"),
        (text(bytes=True), "field 'bytes' is True"),
        (text(sha256="abc"), "field 'sha256' is 'abc'"),
        (text(members="("), "field 'members'"),
        (text(members=None), "field 'members'"),
        (text(md5="x"), "unknown field 'md5'"),
        (json.dumps({"v": 1, "archives": [GOOD, GOOD]}), "listed twice"),
    ],
)
def test_a_mistake_is_named_with_its_field(document, part):
    with pytest.raises(UserError, match=part):
        manifest.parse(document, "m.json")


def test_a_manifest_that_is_not_there_is_named(site, tmp_path):
    for source in (str(tmp_path / "no.json"), site.url + "/no.json"):
        with pytest.raises(UserError, match="no.json cannot be"):
            manifest.load(source)
