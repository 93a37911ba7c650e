"""A folder and a bucket behave the same."""

import contextlib
import fcntl
import os
import threading
import tracemalloc

import boto3
import pytest

from mtc.errors import TakenOver, UserError
from mtc.storage import Conflict, TransientError, local, open_storage, split_uri, without_credentials

pytestmark = pytest.mark.last


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


def test_the_version_read_is_the_one_that_the_write_returned(storage):
    assert storage.read_versioned("a/b.json") == (None, "")
    first = storage.write("a/b.json", b"one")
    assert storage.read_versioned("a/b.json") == (b"one", first)
    second = storage.write("a/b.json", b"two")
    assert storage.read_versioned("a/b.json") == (b"two", second)
    assert len({"", first, second}) == 3


def test_whether_conditions_are_honoured_is_found_out_and_leaves_nothing(storage, request):
    assert storage.honours_conditions() is ("[s3]" not in request.node.name)
    assert storage.honours_conditions() is ("[s3]" not in request.node.name)
    assert storage.sizes() == {}


def test_an_object_is_created_where_there_is_none_and_only_there(conditional):
    storage = conditional()
    storage.write("lease.json", b"mine", expected="")
    with pytest.raises(Conflict, match=storage.url("lease.json")):
        storage.write("lease.json", b"yours", expected="")
    assert storage.read("lease.json") == b"mine"


def test_an_object_is_replaced_where_it_is_the_one_expected_and_only_there(conditional):
    storage = conditional()
    first = storage.write("lease.json", b"one")
    second = storage.write("lease.json", b"two", expected=first)
    with pytest.raises(Conflict):
        storage.write("lease.json", b"three", expected=first)
    assert storage.read_versioned("lease.json") == (b"two", second)


def test_an_object_that_was_removed_is_not_the_one_expected(conditional):
    storage = conditional()
    version = storage.write("lease.json", b"one")
    storage.delete("lease.json")
    with pytest.raises(Conflict):
        storage.write("lease.json", b"two", expected=version)
    assert storage.sizes() == {}


def test_of_writers_that_expect_the_same_version_one_wins(conditional):
    stores, version, start = [conditional() for _ in range(3)], "", threading.Barrier(3)
    won = {}

    def write(number, turn):
        start.wait()
        with contextlib.suppress(Conflict):
            won.setdefault(turn, []).append(stores[number].write("lease.json", "{} {}".format(turn, number).encode(), expected=version))

    for turn in range(25):
        writers = [threading.Thread(target=write, args=(number, turn)) for number in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert len(won[turn]) == 1
        version = won[turn][0]
        assert stores[0].read_versioned("lease.json")[1] == version


def test_a_folder_that_a_stopped_process_has_locked_is_told_not_waited_for_without_end(tmp_path, monkeypatch):
    storage = open_storage(str(tmp_path / "store"))
    storage.write("a", b"one")
    monkeypatch.setattr(local, "LOCK_PATIENCE", 0.1)
    with open(str(tmp_path / "store" / local._LOCK), "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        (tmp_path / "two").write_bytes(b"two")
        for write in (lambda: storage.write("a", b"two"), lambda: storage.put(str(tmp_path / "two"), "a"), lambda: storage.delete("a")):
            with pytest.raises(TransientError, match=r"process {} on .* has held the lock .*: is it stopped\?".format(os.getpid())):
                write()
        assert storage.read("a") == b"one"
    storage.write("a", b"two")
    assert storage.sizes() == {"a": 3}
    assert storage.read("a") == b"two"


def test_a_put_tells_how_many_bytes_go_out(storage, tmp_path):
    source, counts = tmp_path / "source", []
    source.write_bytes(b"x" * (17 << 20))  # two parts
    storage.put(str(source), "key", on_bytes=counts.append)
    assert sum(counts) == 17 << 20
    assert min(counts) > 0


@pytest.mark.parametrize("megabytes", [0.001, 3, 40])
def test_a_put_that_is_abandoned_leaves_nothing(storage, tmp_path, megabytes):
    source, left = tmp_path / "source", [int(megabytes * (1 << 20)) // 2]
    source.write_bytes(b"x" * int(megabytes * (1 << 20)))

    def on_bytes(count):
        left[0] -= count
        if left[0] <= 0:
            raise TakenOver("by another trainer")

    with pytest.raises(TakenOver, match="by another trainer"):
        storage.put(str(source), "a/key", on_bytes=on_bytes)
    assert storage.sizes() == {}
    assert storage.abort_uploads() == 0


def test_an_error_of_the_counter_is_raised_as_it_is(storage, tmp_path):
    source, error = tmp_path / "source", OSError("the counter's own")
    source.write_bytes(b"x")

    def on_bytes(count):
        raise error

    with pytest.raises(OSError, match="the counter's own") as caught:
        storage.put(str(source), "key", on_bytes=on_bytes)
    assert caught.value is error


def test_files_of_any_size_pass_through_little_memory(storage, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    with open(str(source), "wb") as f:
        f.truncate(64 << 20)
    tracemalloc.start()
    try:
        storage.put(str(source), "key")
        storage.get("key", str(target))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert target.stat().st_size == 64 << 20
    assert peak < 24 << 20


def test_what_an_unfinished_put_left_in_a_folder_is_removed(storage, tmp_path):
    storage.write("run/a", b"x")
    leave_unfinished(storage, "run/sub/b")
    leave_unfinished(storage, "runner/c")
    assert storage.abort_uploads("run") == 1
    assert storage.abort_uploads("run") == 0
    assert storage.abort_uploads() == 1
    assert storage.sizes() == {"run/a": 1}


def leave_unfinished(storage, key):
    """Leave behind what a put that was killed in the middle does."""
    if storage.url("").startswith("s3:"):
        bucket, _, name = split_uri(storage.url(key))[1].partition("/")
        boto3.session.Session().client("s3", endpoint_url=storage.endpoint, region_name="us-east-1").create_multipart_upload(Bucket=bucket, Key=name)
    else:
        folder, _, name = split_uri(storage.url(key))[1].rpartition("/")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, ".{}.abcdefgh.tmp".format(name)), "wb") as f:
            f.write(b"half")


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


@pytest.mark.parametrize(
    "uri",
    ["s3://key:S3cret@bucket/x", "s3://key:S3cret/with/slash@bucket/x", "s3://S3cret@bucket", "s3:/key:S3cret@bucket", "https://me:S3cret@host/x", "gs://me:S3cret@b/x"],
)  # fmt: skip
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri):
    with pytest.raises(UserError) as caught:
        open_storage(uri)
    assert "***" in str(caught.value)
    assert "S3cret" not in str(caught.value)
    if uri.startswith("s3://"):
        assert "credentials do not belong into a URL: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(caught.value)


@pytest.mark.parametrize("endpoint", ["https://me:S3cret@host:9000", "me:S3cret@host"])
def test_credentials_in_an_endpoint_are_refused_and_not_repeated(s3, monkeypatch, endpoint):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for given in (endpoint, ""):
        with pytest.raises(UserError, match="^storage.endpoint: credentials do not belong into a URL: use AWS_ACCESS_KEY_ID") as caught:
            open_storage("s3://bucket/x", endpoint=given)
        assert "S3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["s3://bucket/a@b", "http://host:80/a@b", "https://host/a:b@c", "file:///a@b", "a:b@c/d", "/a/b@c", "s3://bucket/a:b@c"]
)
def test_an_at_sign_elsewhere_is_no_user_info(uri):
    assert without_credentials(uri) == uri
    assert split_uri(uri)
