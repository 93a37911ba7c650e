"""A network and a server that fail: what arrives is whole, what may pass is a TransientError, what only a person can mend a UserError."""

import base64
import io
import os
import uuid

import botocore.awsrequest
import botocore.retries.standard
import pytest

from benchmarks.crashing.proxy import KINDS
from mtc.errors import UserError
from mtc.storage import Conflict, TransientError, open_storage, s3

pytestmark = pytest.mark.last

MEND_THEMSELVES = ("drop", "reset", "lost", "truncate", "delay", "500", "503")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Let botocore repeat requests at once."""
    monkeypatch.setattr(botocore.retries.standard.ExponentialBackoff, "delay_amount", lambda self, context: 0)


@pytest.fixture
def storage(s3_proxy):
    return open_storage("s3://bucket/" + uuid.uuid4().hex, endpoint=s3_proxy.url)


@pytest.fixture
def source(tmp_path):
    """A file of two parts."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(1 << 20) * 17)
    return path


def always(s3_proxy, kind):
    s3_proxy.plan([kind], rate=1.0)


def outcomes(s3_proxy, method):
    return [outcome for made, _, outcome in s3_proxy.log if made == method]


@pytest.mark.parametrize("kind", MEND_THEMSELVES)
def test_one_fault_does_not_cost_a_request(storage, s3_proxy, source, tmp_path, kind):
    s3_proxy.plan(script=[("PUT", "small", kind), ("PUT", "partNumber=2", kind)])
    storage.write("small", b"data")
    storage.put(str(source), "large")
    s3_proxy.plan(script=[("GET", "large", kind)])
    storage.get("large", str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert storage.sizes() == {"small": 4, "large": 17 << 20}
    assert s3_proxy.script == []


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"delay", "truncate", "lost", "garbage"}))
def test_a_fault_that_stays_is_transient_and_nothing_appears(storage, s3_proxy, source, tmp_path, kind):
    always(s3_proxy, kind)
    for action in (
        lambda: storage.write("small", b"data"),
        lambda: storage.write("small", b"data", expected=""),
        lambda: storage.put(str(source), "large"),
        lambda: storage.get("large", str(tmp_path / "target")),
        lambda: storage.read("small"),
        lambda: storage.stream("small"),
        lambda: storage.delete("small"),
        lambda: storage.abort_uploads(),
        storage.honours_conditions,
        storage.sizes,
    ):
        with pytest.raises(TransientError):
            action()
    s3_proxy.stop_faults()
    assert storage.sizes() == {}
    assert os.listdir(str(tmp_path)) == ["source"]


@pytest.mark.parametrize("kind", ["reset", "drop", "500", "lost", "truncate"])
def test_a_part_that_does_not_get_through_leaves_neither_object_nor_upload(storage, s3_proxy, source, kind):
    s3_proxy.plan(script=[("PUT", "partNumber=2", kind)] * 2)
    with pytest.raises(TransientError):
        storage.put(str(source), "large")
    s3_proxy.stop_faults()
    assert storage.sizes() == {}
    assert storage.abort_uploads() == 0


def test_an_answer_that_lost_its_reason_on_the_way_is_not_taken_for_nothing_there(storage, s3_proxy):
    always(s3_proxy, "truncate")  # rclone says 404 NoSuchUpload where there never was an upload, in a body that does not arrive
    for _ in range(10):
        with pytest.raises(TransientError):
            storage.abort_uploads()


def test_an_object_that_is_cut_is_not_taken_for_a_whole_one(storage, s3_proxy, source, tmp_path):
    storage.write("small", b"data")
    storage.put(str(source), "large")
    always(s3_proxy, "truncate")
    with pytest.raises(TransientError):
        storage.sizes()
    with pytest.raises(TransientError):
        storage.read("small")
    with pytest.raises(TransientError):
        storage.get("large", str(tmp_path / "target"))
    assert not (tmp_path / "target").exists()
    s3_proxy.plan(script=[("GET", "large", "truncate")])
    blocks, total = storage.stream("large")
    with pytest.raises(TransientError):
        list(blocks)
    assert total == 17 << 20


def test_uploads_under_random_faults_arrive_whole_or_not_at_all(storage, s3_proxy, source, tmp_path):
    for number in range(6):
        s3_proxy.plan(MEND_THEMSELVES, rate=0.3)
        try:
            storage.put(str(source), "large-{}".format(number))
            arrived = True
        except TransientError:
            arrived = False
        s3_proxy.stop_faults()
        there = storage.sizes().get("large-{}".format(number))
        assert there == 17 << 20 if arrived else there in (None, 17 << 20)
        if there:
            storage.get("large-{}".format(number), str(tmp_path / "target"))
            assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert set(outcome for _, _, outcome in s3_proxy.log) & set(KINDS)


def test_a_conditional_write_whose_answer_is_lost_has_succeeded(storage, s3_proxy):
    s3_proxy.plan(script=[("PUT", "lease.json", "lost")])
    first = storage.write("lease.json", b"one", expected="")
    s3_proxy.plan(script=[("PUT", "lease.json", "lost")])
    second = storage.write("lease.json", b"two", expected=first)
    assert outcomes(s3_proxy, "PUT") == ["lost", 412, "lost", 412]
    assert storage.read_versioned("lease.json") == (b"two", second)


def test_a_conditional_write_whose_answers_are_all_lost_succeeds_when_it_is_made_again(storage, s3_proxy):
    s3_proxy.plan(script=[("PUT", "lease.json", "lost")] * 2)
    with pytest.raises(TransientError):
        storage.write("lease.json", b"one", expected="")
    assert storage.write("lease.json", b"one", expected="") == storage.read_versioned("lease.json")[1]
    with pytest.raises(Conflict):
        storage.write("lease.json", b"two", expected="")


def test_a_server_that_does_not_answer_in_time_is_transient(s3_proxy, monkeypatch):
    monkeypatch.setattr(s3, "READ_TIMEOUT", 0.2)
    storage = open_storage("s3://bucket/x", endpoint=s3_proxy.url)
    s3_proxy.delay = 3600
    always(s3_proxy, "delay")
    with pytest.raises(TransientError, match="[Tt]imed? ?out"):
        storage.read("key")


def test_a_clock_that_is_wrong_is_transient_and_the_message_says_so(storage, s3_proxy):
    always(s3_proxy, "skew")
    with pytest.raises(TransientError, match="check this machine's clock"):
        storage.write("key", b"data")
    with pytest.raises(TransientError, match="check this machine's clock"):
        storage.stream("key")  # begins with a HEAD request, whose answer has no body


def test_an_answer_that_is_no_xml_is_transient(storage, s3_proxy):
    always(s3_proxy, "garbage")
    with pytest.raises(TransientError):
        storage.sizes()
    with pytest.raises(TransientError):
        storage.abort_uploads()


@pytest.mark.parametrize("action", ["read", "stream", "delete", "sizes", "abort_uploads"])
def test_denied_access_is_for_a_person_to_mend(s3_proxy, monkeypatch, action):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    storage = open_storage("s3://bucket/x", endpoint=s3_proxy.url)
    with pytest.raises(UserError, match="AWS_SECRET_ACCESS_KEY|check the credentials"):
        getattr(storage, action)("key")


def test_a_bucket_that_does_not_exist_is_for_a_person_to_mend(s3_proxy):
    storage = open_storage("s3://nobody/x", endpoint=s3_proxy.url)
    for action in (lambda: storage.write("key", b"data", expected=""), lambda: storage.write("key", b"data", expected='"1"'), storage.sizes):
        with pytest.raises(UserError, match="bucket 'nobody' does not exist"):
            action()


def test_faults_are_drawn_from_the_seed_and_confined_to_what_matches(storage, s3_proxy):
    s3_proxy.plan(["500"], rate=1.0, match=lambda method, path: "state" in path)
    storage.write("weights", b"data")
    with pytest.raises(TransientError):
        storage.write("state", b"data")
    assert outcomes(s3_proxy, "PUT") == [200, "500", "500"]


def canned(storage, status, body):
    """Give all requests of a storage the same answer, without a server. Returns the list that they will be in."""
    sent = []

    def answer(request, **_):
        sent.append(request)
        return botocore.awsrequest.AWSResponse(request.url, status, {"ETag": '"1"'}, Raw(body))

    storage._client.meta.events.register("before-send.s3", answer)
    return sent


class Raw(io.BytesIO):
    """What botocore reads the body of an answer from."""

    def stream(self):
        yield self.read()


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "EntityTooSmall", TransientError), (400, "InvalidPart", TransientError), (400, "BadDigest", TransientError),
        (400, "XAmzContentSHA256Mismatch", TransientError), (400, "IncompleteBody", TransientError), (404, "NoSuchUpload", TransientError),
        (403, "RequestTimeTooSkewed", TransientError), (400, "RequestExpired", TransientError), (429, "TooManyRequests", TransientError),
        (408, "Timeout", TransientError), (409, "ConditionalRequestConflict", TransientError), (412, "PreconditionFailed", Conflict),
        (404, "NoSuchKey", Conflict), (404, "NoSuchBucket", UserError), (403, "AccessDenied", UserError), (501, "NotImplemented", UserError),
        (400, "InvalidRequest", UserError), (502, "BadGateway", TransientError), (504, "", TransientError),
    ],
)  # fmt: skip
def test_each_answer_to_a_conditional_write_says_what_to_do(s3, monkeypatch, status, code, error):
    storage = open_storage("s3://bucket", endpoint=s3)
    canned(storage, status, "<Error><Code>{0}</Code><Message>{0}</Message></Error>".format(code).encode() if code else b"<html>Gateway timed out")
    monkeypatch.setattr(storage, "read_versioned", lambda key: (b"of somebody else", '"2"'))
    with pytest.raises(error):
        storage.write("key", b"data", expected='"1"')


def test_a_server_that_does_not_list_unfinished_uploads_has_none(s3):
    storage = open_storage("s3://bucket", endpoint=s3)
    canned(storage, 501, b"<Error><Code>NotImplemented</Code></Error>")
    assert storage.abort_uploads() == 0


@pytest.mark.parametrize("megabytes", [1, 17])
def test_bodies_go_over_tls_with_their_length_and_signed_digest(s3, tmp_path, megabytes):
    (tmp_path / "source").write_bytes(b"x" * (megabytes << 20))
    storage = open_storage("s3://bucket", endpoint="https://127.0.0.1:1")
    sent = canned(storage, 200, b"<Answer><UploadId>1</UploadId></Answer>")
    storage.put(str(tmp_path / "source"), "key")
    bodies = [request for request in sent if request.method == "PUT"]
    assert sum(int(request.headers["Content-Length"]) for request in bodies) == megabytes << 20
    for request in bodies:
        digest = request.headers["X-Amz-Content-SHA256"]
        checksum = base64.b64decode(request.headers["x-amz-checksum-sha256"])
        assert bytes.fromhex(digest if isinstance(digest, str) else digest.decode()) == checksum
