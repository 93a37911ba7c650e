"""A downloaded file is the right one, or there is none."""

import email.utils
import hashlib
import json
import logging
import os
import re
import threading
import time

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


def test_a_wrong_hash_is_asked_for_once_more_and_never_published(file_site, target):
    with pytest.raises(UserError, match=r"data.bin: expected .*{}.* found .*{}.*kept as .*data.bin.bad".format("f" * 64, SHA256)):
        download.fetch(file_site.url + "/data.bin", target, len(DATA), "f" * 64)
    assert file_site.requests == [("/data.bin", None)] * 2
    assert leftovers(target) == ["data.bin.bad"]
    assert download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256).sha256 == SHA256
    assert leftovers(target) == ["data.bin", "data.bin.ok.json"]


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


@pytest.mark.parametrize(
    ("orders", "asked"),
    [
        ([("reset", 1 << 20)], [None, "bytes=1048576-"]),
        ([("stall", 1 << 20)], [None, "bytes=1048576-"]),
        ([("cut", 1 << 20), ("range", 5), ("cut", 1 << 20)], [None, "bytes=1048576-", None, "bytes=1048576-"]),
        ([("cut", 1 << 20), 416], [None, "bytes=1048576-", None]),
        ([("cut", 1 << 20), 503, (429, "0"), 408, 425], [None] + ["bytes=1048576-"] * 5),
        ([("cut", 1 << 20), "whole"], [None, "bytes=1048576-"]),
    ],
)
def test_whatever_the_server_does_the_file_arrives(file_site, target, monkeypatch, orders, asked):
    monkeypatch.setattr(sources, "READ_SECONDS", 0.5)
    file_site.answers = list(orders)
    download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256)
    assert read(target) == DATA
    assert [range for _, range in file_site.requests] == asked


def test_a_file_that_became_another_size_is_refused_and_the_bytes_are_kept(file_site, target):
    file_site.answers = [("cut", 1 << 20), ("total", 5)]
    with pytest.raises(UserError, match="it has 5 bytes, expected {}".format(len(DATA))):
        download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256)
    assert os.stat(target + ".part").st_size == 1 << 20


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_says_when_to_come_again(file_site, target, monkeypatch, form):
    paused = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds=None: paused.append(seconds))
    after = "90" if form == "seconds" else email.utils.formatdate(time.time() + 90, usegmt=True)
    file_site.answers = [(503, after), (429, "100000"), (503, "soon")]
    download.fetch(file_site.url + "/data.bin", target)
    paused = [seconds for seconds in paused if seconds is not None]
    assert 85 < paused[0] <= 90
    assert paused[1:3] == [download.LONGEST_ASKED_PAUSE, 0]


def test_mirrors_are_asked_in_their_order_and_go_on_from_what_is_there(file_site, target):
    file_site.files["mirror/data.bin"] = DATA
    file_site.answers = [("cut", 1 << 20)] + [500] * (download.TRIES - 1) + [404]
    mirrors = [file_site.url + "/gone.bin", file_site.url + "/mirror/data.bin"]
    download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256, mirrors=mirrors)
    assert read(target) == DATA
    assert file_site.requests[-2:] == [("/gone.bin", "bytes=1048576-"), ("/mirror/data.bin", "bytes=1048576-")]


def test_a_mirror_of_other_bytes_is_passed_over(file_site, target):
    file_site.files["mirror/data.bin"] = b"x" * len(DATA)
    mirrors = [file_site.url + "/mirror/data.bin", file_site.url + "/data.bin"]
    download.fetch(file_site.url + "/gone.bin", target, len(DATA), SHA256, mirrors=mirrors)
    assert read(target) == DATA


def test_when_all_sources_fail_the_first_one_is_named_unless_another_may_come_back(file_site, target):
    with pytest.raises(UserError, match="/a answers 404"):
        download.fetch(file_site.url + "/a", target, len(DATA), SHA256, mirrors=[file_site.url + "/b"])
    file_site.answers = [404] + [500] * 100
    with pytest.raises(TransientError, match="/data.bin answers 500"):
        download.fetch(file_site.url + "/a", target, len(DATA), SHA256, mirrors=[file_site.url + "/data.bin"])


def test_after_a_power_failure_only_what_was_flushed_is_trusted(file_site, target, monkeypatch):
    monkeypatch.setattr(download, "FLUSH_EVERY", 1 << 20)
    file_site.answers = [("cut", (2 << 20) + 5)] + [500] * download.TRIES
    with pytest.raises(TransientError):
        download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256)
    note = json.loads(read(target + ".part.json").decode())
    assert note["flushed"] == 2 << 20
    with open(target + ".part", "r+b") as f:  # as a file system may leave it: the right size and zeros
        f.seek(2 << 20)
        f.write(bytes(5))
    monkeypatch.setattr(download, "_boot", lambda: "another start of the machine")
    file_site.answers, file_site.requests = [], file_site.requests[:0]
    download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256)
    assert read(target) == DATA


def test_what_is_there_is_hashed_once_and_not_read_again(file_site, target, monkeypatch):
    file_site.answers = [("cut", 1 << 20), ("cut", 1 << 20)]
    hashed = []
    monkeypatch.setattr(download, "_hash", lambda *arguments: hashed.append(arguments))
    monkeypatch.setattr(download._Part, "_take_up", lambda part, source: hashed.append(part) or os.makedirs(os.path.dirname(part.path)))
    assert download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256).sha256 == SHA256
    assert len(hashed) == 1


def test_a_transfer_that_is_told_to_stop_keeps_what_it_has(file_site, target):
    stop = threading.Event()
    stop.set()
    with pytest.raises(download.Abandoned):
        download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256, stop=stop)
    assert not os.path.exists(target)
    assert download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256).sha256 == SHA256


def test_a_full_disk_is_said_before_a_byte_is_written(file_site, target, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="data.bin.part needs 3.0 MB, the disk has 1000 B free"):
        download.fetch(file_site.url + "/data.bin", target, len(DATA), SHA256, mirrors=[file_site.url + "/b"])
    assert len(file_site.requests) == 1


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
    assert re.search(r"data.bin: 1.0 MB \(33 %\), [0-9.]+ [KMG]?B/s, 0:00:0\d left", caplog.text)
