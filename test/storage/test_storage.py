"""A folder and a bucket behave the same."""

import os
import threading
import uuid

import pytest

from mtc.errors import UserError
from mtc.storage import TransientError, open_storage


@pytest.fixture(params=["file", "s3"])
def storage(request, tmp_path):
    if request.param == "file":
        return open_storage(str(tmp_path / "store"))
    endpoint = request.getfixturevalue("s3")
    return open_storage("s3://bucket/" + uuid.uuid4().hex, endpoint=endpoint)


def test_what_is_written_is_read_back(storage):
    storage.write("a/b.json", b"one")
    storage.write("a/b.json", b"two")
    assert storage.read("a/b.json") == b"two"


def test_a_missing_object_reads_as_none_and_cannot_be_fetched(storage, tmp_path):
    target = tmp_path / "target"
    assert storage.read("nothing/here") is None
    with pytest.raises(FileNotFoundError):
        storage.get("nothing/here", str(target))
    with pytest.raises(FileNotFoundError):
        storage.stream("nothing/here")
    assert not target.exists()


def test_a_large_file_survives_put_and_get(storage, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(1 << 20) * 33)  # more than two parts of a multipart upload
    storage.put(str(source), "deep/down/file.bin")
    storage.get("deep/down/file.bin", str(target))
    assert target.read_bytes() == source.read_bytes()
    assert storage.sizes() == {"deep/down/file.bin": 33 << 20}


def test_a_stream_starts_where_it_is_asked_to(storage):
    storage.write("x", b"0123456789")
    blocks, total = storage.stream("x", 4)
    assert (b"".join(blocks), total) == (b"456789", 10)
    blocks, total = storage.stream("x", 10)
    assert (b"".join(blocks), total) == (b"", 10)


def test_sizes_are_those_of_the_folder_asked_for(storage):
    for key in ("run/a", "run/sub/b", "runner/c", "d"):
        storage.write(key, b"x" * len(key))
    assert storage.sizes("run") == {"run/a": 5, "run/sub/b": 9}
    assert set(storage.sizes()) == {"run/a", "run/sub/b", "runner/c", "d"}
    assert storage.sizes("none") == {}


def test_deleting_removes_and_may_be_repeated(storage):
    storage.write("a/b", b"x")
    storage.delete("a/b")
    storage.delete("a/b")
    assert storage.read("a/b") is None
    assert storage.sizes() == {}


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a/../../b", "a//b", "./a", "a\\b", "a/.b.tmp"])
def test_keys_stay_inside_the_store(storage, key):
    with pytest.raises(UserError, match="key"):
        storage.write(key, b"x")


def test_the_url_of_a_key_opens_the_same_place(storage):
    storage.write("run/latest.json", b"{}")
    endpoint = getattr(storage, "endpoint", "")
    assert open_storage(storage.url("run"), endpoint=endpoint).read("latest.json") == b"{}"


def test_a_good_store_passes_the_probe_and_keeps_nothing_of_it(storage):
    storage.probe()
    assert storage.sizes() == {}


def test_putting_a_file_that_is_not_there_leaves_no_object(storage, tmp_path):
    with pytest.raises(FileNotFoundError):
        storage.put(str(tmp_path / "gone"), "key")
    assert storage.sizes() == {}


def test_a_reader_never_sees_half_an_object_in_a_folder(tmp_path):
    storage, source = open_storage(str(tmp_path / "store")), tmp_path / "pipe"
    os.mkfifo(str(source))
    writer = threading.Thread(target=storage.put, args=(str(source), "key"))
    writer.start()
    with open(str(source), "wb") as pipe:
        pipe.write(b"x" * 100000)
        pipe.flush()
        assert storage.sizes() == {}
        assert storage.read("key") is None
    writer.join()
    assert storage.sizes() == {"key": 100000}


@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("", "neither a path nor a URI"),
        ("gs://bucket/x", "scheme 'gs'"),
        ("http://host/x", "can be written to"),
        ("s3:bucket", "two slashes"),
        ("s3:///prefix", "not a bucket"),
        ("s3://bucket/../x", "cannot be the key"),
        ("file://host/x", "three slashes"),
    ],
)
def test_a_uri_that_is_no_store_is_refused(uri, part):
    with pytest.raises(UserError, match=part):
        open_storage(uri)


def test_file_uris_and_relative_folders_name_the_same_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_storage("a b").write("k", b"1")
    assert open_storage((tmp_path / "a b").as_uri()).read("k") == b"1"


def test_the_probe_says_that_the_folder_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used .*Not a directory|cannot be used .*exists"):
        open_storage(str(tmp_path / "file" / "store")).probe()


def test_the_probe_says_that_the_bucket_does_not_exist(s3):
    with pytest.raises(UserError, match="bucket 'other' does not exist"):
        open_storage("s3://other/x", endpoint=s3).probe()


def test_the_probe_says_that_the_secret_is_wrong(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match="AWS_SECRET_ACCESS_KEY"):
        open_storage("s3://bucket/x", endpoint=s3).probe()


def test_the_probe_says_that_credentials_are_missing(s3, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match="credentials are missing"):
        open_storage("s3://bucket/x", endpoint=s3).probe()


def test_an_endpoint_that_nobody_answers_at_is_transient_and_the_probe_says_so(s3, closed_port):
    storage = open_storage("s3://bucket/x", endpoint="http://127.0.0.1:{}".format(closed_port))
    with pytest.raises(TransientError):
        storage.read("key")
    with pytest.raises(UserError, match="cannot be used now"):
        storage.probe()


def test_an_endpoint_that_is_no_url_is_refused(s3):
    with pytest.raises(UserError, match=r"storage\.endpoint=localhost:9000"):
        open_storage("s3://bucket/x", endpoint="localhost:9000")
