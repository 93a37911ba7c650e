"""A downloaded file is the right one, or there is none."""

import hashlib
import logging
import os

import pytest

from mtc.errors import UserError
from mtc.fetch import download, sources
from mtc.storage import TransientError, open_storage

DATA = os.urandom(3 << 20)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def file_site(site):
    site.files["data.bin"] = DATA
    return site


@pytest.fixture
def target(tmp_path):
    return str(tmp_path / "sub" / "data.bin")


def read(path):
    with open(path, "rb") as f:
        return f.read()


def leftovers(target):
    return sorted(os.listdir(os.path.dirname(target)))


def test_a_file_arrives_and_is_not_asked_for_again(file_site, target):
    url = file_site.url + "/data.bin"
    found = download.fetch(url, target, len(DATA), SHA256)
    assert (found.bytes, found.sha256, read(target)) == (len(DATA), SHA256, DATA)
    assert download.fetch(url, target, len(DATA), SHA256) == found
    assert file_site.requests == [("/data.bin", None)]
    assert leftovers(target) == ["data.bin", "data.bin.ok.json"]


def test_a_verified_file_is_not_hashed_again_until_it_changes(file_site, target, monkeypatch):
    download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256)
    hashed = []
    monkeypatch.setattr(download, "_hash", lambda path, *rest: hashed.append(path) or "0" * 64)
    download.verify(target, len(DATA), SHA256)
    assert hashed == []
    os.utime(target, ns=(1, 1))
    with pytest.raises(UserError, match="SHA-256"):
        download.verify(target, len(DATA), SHA256)
    assert hashed == [target]


def test_a_wrong_hash_is_never_published(file_site, target):
    with pytest.raises(UserError, match="data.bin: expected .*{}.* found .*{}.*nothing was kept".format("f" * 64, SHA256)):
        download.fetch(file_site.url + "/data.bin", target, len(DATA), "f" * 64)
    assert leftovers(target) == []


def test_a_wrong_size_is_refused_before_the_body_is_read(file_site, target):
    with pytest.raises(UserError, match="it has {} bytes, expected 5".format(len(DATA))):
        download.fetch(file_site.url + "/data.bin", target, 5, SHA256)
    assert leftovers(target) == []


def test_a_busy_server_is_asked_again(file_site, target):
    file_site.answers = [503, 429]
    assert download.fetch(file_site.url + "/data.bin", target).sha256 == SHA256
    assert len(file_site.requests) == 3


def test_a_server_that_stays_busy_is_given_up_with_its_words(file_site, target):
    file_site.answers = [500] * 100
    with pytest.raises(TransientError, match="answers 500"):
        download.fetch(file_site.url + "/data.bin", target)
    assert len(file_site.requests) == download.TRIES


@pytest.mark.parametrize("status", [403, 404])
def test_a_file_that_is_not_given_is_the_users_to_mend(file_site, target, status):
    file_site.answers = [status]
    with pytest.raises(UserError, match="data.bin answers {}".format(status)):
        download.fetch(file_site.url + "/data.bin", target)
    assert len(file_site.requests) == 1


def test_a_broken_connection_goes_on_where_it_broke(file_site, target):
    file_site.answers = [("cut", 1 << 20), ("cut", 1 << 20)]
    assert download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256).sha256 == SHA256
    assert [asked for _, asked in file_site.requests] == [None, "bytes=1048576-", "bytes=2097152-"]


def test_a_part_of_an_earlier_run_is_gone_on_from(file_site, target):
    os.makedirs(os.path.dirname(target))
    with open(target + ".part", "wb") as f:
        f.write(DATA[:1000])
    download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256)
    assert read(target) == DATA
    assert file_site.requests == [("/data.bin", "bytes=1000-")]


def test_a_part_that_is_whole_needs_no_request(file_site, target):
    os.makedirs(os.path.dirname(target))
    with open(target + ".part", "wb") as f:
        f.write(DATA)
    download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256)
    assert file_site.requests == []


def test_a_server_without_ranges_gives_the_file_from_the_start(file_site, target):
    file_site.answers = [("cut", 5000), "whole"]
    download.fetch(file_site.url + "/data.bin", target)
    assert read(target) == DATA


def test_a_file_that_changed_between_two_tries_is_not_mixed(file_site, target):
    other = os.urandom(len(DATA))
    file_site.answers = [("cut", 1 << 20)] + [500] * download.TRIES
    with pytest.raises(TransientError):
        download.fetch(file_site.url + "/data.bin", target)
    file_site.files["data.bin"] = other
    download.fetch(file_site.url + "/data.bin", target)
    assert read(target) == other


def test_a_damaged_part_is_thrown_away_and_fetched_anew(file_site, target):
    os.makedirs(os.path.dirname(target))
    with open(target + ".part", "wb") as f:
        f.write(b"x" * 1000)
    download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256)
    assert read(target) == DATA


def test_a_part_of_another_source_is_not_used(file_site, target):
    file_site.files["other.bin"] = b"y" * 5000
    file_site.answers = [("cut", 1000)] + [500] * download.TRIES
    with pytest.raises(TransientError):
        download.fetch(file_site.url + "/other.bin", target)
    download.fetch(file_site.url + "/data.bin", target)
    assert read(target) == DATA
    assert file_site.requests[-1] == ("/data.bin", None)


def test_a_damaged_target_is_fetched_again(file_site, target):
    os.makedirs(os.path.dirname(target))
    with open(target, "wb") as f:
        f.write(b"x" * len(DATA))
    download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256)
    assert read(target) == DATA


def test_an_unchecked_target_of_another_source_is_replaced(file_site, target):
    file_site.files["other.bin"] = b"other"
    download.fetch(file_site.url + "/other.bin", target)
    download.fetch(file_site.url + "/data.bin", target)
    assert read(target) == DATA


def test_redirects_are_followed(file_site, target):
    file_site.files["old"] = "/data.bin"
    assert download.fetch(file_site.url + "/old", target).sha256 == SHA256


def test_a_redirect_that_never_ends_is_refused(file_site, target):
    file_site.files["loop"] = "/loop"
    with pytest.raises(UserError, match="redirects more than"):
        download.fetch(file_site.url + "/loop", target)


@pytest.mark.parametrize(("url", "location"), [("https://a/x", "http://a/x"), ("http://a/x", "file:///etc/passwd")])
def test_a_silent_change_of_scheme_is_refused(url, location):
    with pytest.raises(UserError, match="the change from"):
        sources.redirect_target(url, location)


def test_redirects_within_https_and_up_to_it_are_fine():
    assert sources.redirect_target("https://a/x/y", "z") == "https://a/x/z"
    assert sources.redirect_target("http://a/x", "https://b/x") == "https://b/x"


def test_files_and_buckets_are_sources_too(s3, tmp_path):
    source = tmp_path / "source file"
    source.write_bytes(DATA)
    open_storage("s3://bucket/in", endpoint=s3).put(str(source), "data.bin")
    for i, uri in enumerate((str(source), source.as_uri(), "s3://bucket/in/data.bin")):
        target = str(tmp_path / str(i))
        with open(target + ".part", "wb") as f:
            f.write(DATA[: i * 1000])
        assert download.fetch(uri, target, len(DATA), SHA256, endpoint=s3).sha256 == SHA256
        assert read(target) == DATA


@pytest.mark.parametrize("uri", ["s3://bucket/not/there", "/not/there"])
def test_a_source_that_is_not_there_is_named(s3, target, uri):
    with pytest.raises(UserError, match=uri + " does not exist"):
        download.fetch(uri, target, endpoint=s3)


def test_progress_is_plain_lines_where_there_is_no_terminal(file_site, target, monkeypatch, caplog):
    monkeypatch.setattr("mtc.fetch.SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(logging.getLogger("mtc"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="mtc.fetch"):
        download.fetch(file_site.url + "/data.bin", target)
    assert "data.bin: 1.0 MB (33 %)" in caplog.text
