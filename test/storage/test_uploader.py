"""Checkpoints reach the storage whole, without holding up whoever submits them."""

import json
import threading
import uuid

import pytest

from mtc import files
from mtc.errors import UserError
from mtc.storage import TransientError, open_storage
from mtc.storage.uploader import Uploader, claim_prefix


@pytest.fixture(params=["file", "s3"])
def storage(request, tmp_path):
    if request.param == "file":
        return open_storage(str(tmp_path / "store"))
    return open_storage("s3://bucket/" + uuid.uuid4().hex, endpoint=request.getfixturevalue("s3"))


@pytest.fixture
def start():
    """Make uploaders that are closed after the test, with short pauses."""
    made = []

    def make(*arguments, **options):
        made.append(Uploader(*arguments, **dict({"pause": 0.001}, **options)))
        return made[-1]

    yield make
    for uploader in made:
        uploader.close()


def checkpoint(folder, step, weights=b"weights"):
    """Write a checkpoint directory as the training loop does; return its path."""
    path = folder / "step-{:08d}".format(step)
    path.mkdir(parents=True, exist_ok=True)
    for name, data in (("model.index", b"index"), ("model.data-00000-of-00001", weights), ("state.json", json.dumps({"step": step}).encode())):
        (path / name).write_bytes(data)
    listed = {f.name: {"bytes": f.stat().st_size, "sha256": files.sha256(str(f))} for f in sorted(path.iterdir()) if f.name != "MANIFEST.json"}
    files.write_json(str(path / "MANIFEST.json"), {"v": 1, "step": step, "files": listed})
    return str(path)


class Wrapped:
    """A storage that records what is stored, and does something of the test's before each put."""

    def __init__(self, storage, before_put=lambda key: None):
        self.storage, self.before_put, self.stored = storage, before_put, []

    def put(self, path, key):
        self.before_put(key)
        self.storage.put(path, key)
        self.stored.append(key)

    def write(self, key, data):
        self.storage.write(key, data)
        self.stored.append(key)

    def __getattr__(self, name):
        return getattr(self.storage, name)


def failing(times, error):
    """A `before_put` that raises so many times."""
    left = [times]

    def before_put(key):
        if left[0]:
            left[0] -= 1
            raise error

    return before_put


def test_a_checkpoint_arrives_whole_and_latest_points_at_it(storage, start, tmp_path):
    path = checkpoint(tmp_path, 500)
    uploader = start(storage, "runs/demo")
    uploader.submit(path)
    assert uploader.wait() == []
    assert uploader.pending() == 0
    folder = "runs/demo/checkpoints/step-00000500"
    assert {key for key in storage.sizes("runs/demo/checkpoints")} == {
        folder + "/" + name for name in ("MANIFEST.json", "model.data-00000-of-00001", "model.index", "state.json")
    }
    assert storage.read(folder + "/model.data-00000-of-00001") == b"weights"
    latest = json.loads(storage.read("runs/demo/latest.json").decode())
    assert (latest["step"], latest["checkpoint"], latest["uri"]) == (500, "step-00000500", storage.url(folder))
    assert latest["time"] > 0


def test_the_manifest_comes_after_all_files_and_latest_after_the_manifest(start, tmp_path):
    wrapped = Wrapped(open_storage(str(tmp_path / "store")))
    uploader = start(wrapped, "p")
    uploader.submit(checkpoint(tmp_path, 1))
    uploader.wait()
    names = [key.rpartition("/")[2] for key in wrapped.stored]
    assert names == ["model.data-00000-of-00001", "model.index", "state.json", "MANIFEST.json", "latest.json"]


def test_a_checkpoint_that_is_there_is_not_sent_again(storage, start, tmp_path):
    path, wrapped, events = checkpoint(tmp_path, 1), Wrapped(storage), []
    for _ in range(2):
        uploader = start(wrapped, "p", on_event=lambda kind, **facts: events.append((kind, facts["skipped"])))
        uploader.submit(path)
        uploader.wait()
    assert len(wrapped.stored) == 5
    assert events == [("uploaded", False), ("uploaded", True)]


def test_a_changed_checkpoint_replaces_the_remote_one_without_leftovers(storage, start, tmp_path):
    uploader = start(storage, "p")
    path = checkpoint(tmp_path, 1)
    storage.write("p/checkpoints/step-00000001/old.data", b"old")
    uploader.submit(path)
    uploader.wait()
    uploader.submit(checkpoint(tmp_path, 1, weights=b"other"))
    assert uploader.wait() == []
    assert storage.read("p/checkpoints/step-00000001/model.data-00000-of-00001") == b"other"
    assert storage.read("p/checkpoints/step-00000001/old.data") is None


def test_while_a_changed_checkpoint_is_sent_no_manifest_vouches_for_it(start, tmp_path):
    storage, seen = open_storage(str(tmp_path / "store")), []
    wrapped = Wrapped(storage, lambda key: seen.append(storage.read("checkpoints/step-00000001/MANIFEST.json")))
    uploader = start(wrapped, "")
    for weights in (b"a", b"b"):
        uploader.submit(checkpoint(tmp_path, 1, weights=weights))
        uploader.wait()
    assert seen == [None] * 6


def test_a_late_upload_of_an_old_checkpoint_does_not_turn_latest_back(storage, start, tmp_path):
    uploader = start(storage, "p")
    for step in (2, 1):
        uploader.submit(checkpoint(tmp_path, step))
    uploader.wait()
    assert json.loads(storage.read("p/latest.json").decode())["step"] == 2


def test_a_lost_latest_is_written_again_for_a_checkpoint_that_is_there(storage, start, tmp_path):
    uploader = start(storage, "p")
    for _ in range(2):
        storage.delete("p/latest.json")
        uploader.submit(checkpoint(tmp_path, 1))
        uploader.wait()
    assert json.loads(storage.read("p/latest.json").decode())["step"] == 1


def test_an_error_that_passes_is_retried_and_what_was_sent_is_not_sent_again(start, tmp_path):
    events = []
    wrapped = Wrapped(open_storage(str(tmp_path / "store")))
    failures = iter([False, True, True, False, False])

    def before_put(key):
        if next(failures):
            raise TransientError("no route to host")

    wrapped.before_put = before_put
    uploader = start(wrapped, "p", on_event=lambda kind, **facts: events.append((kind, facts.get("reason"))))
    uploader.submit(checkpoint(tmp_path, 1))
    assert uploader.wait() == []
    assert events == [("retry", "no route to host")] * 2 + [("uploaded", None)]
    assert len(wrapped.stored) == 5


def test_tries_are_bounded_and_the_next_checkpoint_still_goes(start, tmp_path):
    events = []
    wrapped = Wrapped(open_storage(str(tmp_path / "store")), failing(3, TransientError("busy")))
    uploader = start(wrapped, "p", on_event=lambda kind, **facts: events.append((kind, facts["checkpoint"])), tries=3)
    for step in (1, 2):
        uploader.submit(checkpoint(tmp_path, step))
    assert uploader.wait() == ["step-00000001"]
    assert events[-2:] == [("failed", "step-00000001"), ("uploaded", "step-00000002")]
    uploader.submit(checkpoint(tmp_path, 1))
    assert uploader.wait() == []


def test_what_only_a_person_can_mend_fails_at_once(s3, start, tmp_path):
    events = []
    uploader = start(open_storage("s3://nobody", endpoint=s3), "p", on_event=lambda kind, **facts: events.append((kind, facts["reason"])))
    uploader.submit(checkpoint(tmp_path, 1))
    assert uploader.wait() == ["step-00000001"]
    assert [kind for kind, _ in events] == ["failed"]
    assert "bucket 'nobody' does not exist" in events[0][1]


def test_denied_credentials_fail_at_once(s3, start, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    events = []
    uploader = start(open_storage("s3://bucket/x", endpoint=s3), "p", on_event=lambda kind, **facts: events.append((kind, facts["reason"])))
    uploader.submit(checkpoint(tmp_path, 1))
    assert uploader.wait() == ["step-00000001"]
    assert [kind for kind, _ in events] == ["failed"]
    assert "AWS_SECRET_ACCESS_KEY" in events[0][1]


def test_a_damaged_checkpoint_is_not_sent(start, tmp_path):
    storage = open_storage(str(tmp_path / "store"))
    path = checkpoint(tmp_path, 1)
    with open(path + "/model.index", "wb") as f:
        f.write(b"ind")
    uploader = start(storage, "p")
    uploader.submit(path)
    assert uploader.wait() == ["step-00000001"]
    assert storage.sizes() == {}


def test_a_removed_checkpoint_and_a_bug_do_not_stop_the_thread(start, tmp_path):
    wrapped = Wrapped(open_storage(str(tmp_path / "store")), failing(1, ZeroDivisionError("bug")))
    uploader = start(wrapped, "p")
    uploader.submit(str(tmp_path / "gone"))
    uploader.submit(checkpoint(tmp_path, 1))
    uploader.submit(checkpoint(tmp_path, 2))
    assert uploader.wait() == ["gone", "step-00000001"]
    assert wrapped.read("p/checkpoints/step-00000002/MANIFEST.json")


def test_a_listener_that_raises_does_not_cost_the_upload(start, tmp_path):
    def listener(kind, **facts):
        raise RuntimeError("listener")

    uploader = start(open_storage(str(tmp_path / "store")), "p", on_event=listener)
    for step in (1, 2):
        uploader.submit(checkpoint(tmp_path, step))
    assert uploader.wait() == []


def test_submit_returns_while_the_transfer_hangs(start, tmp_path):
    released = threading.Event()
    uploader = start(Wrapped(open_storage(str(tmp_path / "store")), lambda key: released.wait()), "p")
    for step in (1, 2):
        uploader.submit(checkpoint(tmp_path, step))  # would never come back if it waited for the transfer
    assert uploader.pending() == 2
    uploader.wait(timeout=0.01)
    assert uploader.pending() == 2
    released.set()
    assert uploader.wait() == []


def test_closing_ends_a_long_pause_and_reports_what_was_not_sent(start, tmp_path):
    paused = threading.Event()
    wrapped = Wrapped(open_storage(str(tmp_path / "store")), failing(100, TransientError("down")))
    uploader = start(wrapped, "p", on_event=lambda kind, **facts: paused.set(), pause=1000)
    for step in (1, 2):
        uploader.submit(checkpoint(tmp_path, step))
    paused.wait()
    uploader.close()
    assert uploader.wait() == ["step-00000001", "step-00000002"]
    with pytest.raises(RuntimeError, match="closed"):
        uploader.submit("more")


def test_a_prefix_belongs_to_the_run_that_claimed_it(storage):
    claim_prefix(storage, "runs/demo", "uid-1")
    claim_prefix(storage, "runs/demo", "uid-1")
    with pytest.raises(UserError, match="belongs to another run .*uid-1.*uid-2"):
        claim_prefix(storage, "runs/demo", "uid-2")
    assert json.loads(storage.read("runs/demo/run.json").decode()) == {"uid": "uid-1"}
