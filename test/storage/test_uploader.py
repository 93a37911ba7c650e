"""Checkpoints reach the storage whole, without holding up whoever submits them, and once only, whoever dies on the way."""

import json
import os
import threading

import pytest

from mtc import files
from mtc.errors import TakenOver, UserError
from mtc.storage import Conflict, TransientError, open_storage
from mtc.storage.retention import superfluous
from mtc.storage.uploader import Uploader, claim_prefix, remote_names
from test.storage.holders import lease

pytestmark = pytest.mark.last


class Free:
    """A lease that is never lost."""

    fence = 1

    def check(self):
        pass

    confirm = check


@pytest.fixture
def start(tmp_path):
    """Make uploaders that are closed after the test, with short pauses and one queue."""
    made = []

    def make(storage, prefix, **options):
        options = dict({"pause": 0.001, "lease": Free(), "queue_path": str(tmp_path / "uploads.json")}, **options)
        uploader = Uploader(storage, prefix, **options)
        made.append(uploader)
        uploader.start()  # whose thread may start another one at once
        return uploader

    yield make
    for uploader in made:
        uploader.close()


def checkpoint(folder, step, weights=b"weights", of=""):
    """Write a checkpoint directory as the training loop does; return its path."""
    path = folder / "step-{:08d}".format(step)
    path.mkdir(parents=True, exist_ok=True)
    for name, data in (
        ("model.index", b"index"),
        ("model.data-00000-of-00001", weights),
        ("state.json", json.dumps({"step": step, "of": of or weights.decode("latin-1")}).encode()),
    ):
        (path / name).write_bytes(data)
    listed = {f.name: {"bytes": f.stat().st_size, "sha256": files.sha256(str(f))} for f in sorted(path.iterdir()) if f.name != "MANIFEST.json"}
    files.write_json(str(path / "MANIFEST.json"), {"v": 1, "step": step, "files": listed})
    return str(path)


class Wrapped:
    """A storage that records what is stored, and does something of the test's before each file of a checkpoint."""

    def __init__(self, storage, before_put=lambda key: None):
        self.storage, self.before_put, self.stored = storage, before_put, []

    def put(self, path, key, on_bytes=None):
        self.before_put(key)
        self.storage.put(path, key, on_bytes=on_bytes)
        self.stored.append(key)

    def write(self, key, data, expected=None):
        if key.endswith("/state.json"):
            self.before_put(key)
        version = self.storage.write(key, data, expected=expected)
        self.stored.append(key)
        return version

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
    assert uploader.wait()
    assert uploader.failed() == {}
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
    assert names == ["MANIFEST.json", "model.data-00000-of-00001", "model.index", "state.json", "MANIFEST.json", "latest.json"]  # a mark first


def test_a_checkpoint_that_is_there_is_not_sent_again(storage, start, tmp_path):
    path, wrapped, events = checkpoint(tmp_path, 1), Wrapped(storage), []
    for name in ("a", "a", "b"):  # the second uploader knows from the queue, the third one, without it, from the storage
        queue_path = str(tmp_path / name)
        uploader = start(wrapped, "p", queue_path=queue_path, on_event=lambda kind, **facts: events.append((kind, facts["skipped"])))
        uploader.submit(path)
        uploader.wait()
    assert len(wrapped.stored) == 6
    assert events == [("uploaded", False), ("uploaded", True)]


def test_a_changed_checkpoint_replaces_the_remote_one_without_leftovers(storage, start, tmp_path):
    uploader = start(storage, "p")
    path = checkpoint(tmp_path, 1)
    storage.write("p/checkpoints/step-00000001/old.data", b"old")
    uploader.submit(path)
    uploader.wait()
    uploader.submit(checkpoint(tmp_path, 1, weights=b"other"))
    assert uploader.wait()
    assert uploader.failed() == {}
    assert storage.read("p/checkpoints/step-00000001/model.data-00000-of-00001") == b"other"
    assert storage.read("p/checkpoints/step-00000001/old.data") is None


def test_while_a_changed_checkpoint_is_sent_no_manifest_vouches_for_it(start, tmp_path):
    storage, seen = open_storage(str(tmp_path / "store")), []
    wrapped = Wrapped(storage, lambda key: seen.append(remote_names(storage, "")))
    uploader = start(wrapped, "")
    for weights in (b"a", b"b"):
        uploader.submit(checkpoint(tmp_path, 1, weights=weights))
        uploader.wait()
    assert seen == [[]] * 6
    assert remote_names(storage, "") == ["step-00000001"]


class Sleeps(Wrapped):
    """One that falls asleep in the middle of the first write of a key that is no mark, until `meanwhile()` returns."""

    def __init__(self, storage, key, meanwhile):
        Wrapped.__init__(self, storage)
        self.key, self.meanwhile = key, meanwhile

    def write(self, key, data, expected=None):
        if key == self.key and b'"for"' not in data and self.meanwhile:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return Wrapped.write(self, key, data, expected)


@pytest.mark.parametrize("part", ["state.json", "MANIFEST.json"])
def test_a_trainer_that_slept_in_the_middle_of_a_write_does_not_spoil_what_its_successor_has_written(conditional, start, tmp_path, part):
    """It had looked before it slept, its lease too; the request itself goes out after the successor's."""
    key, storage = "p/checkpoints/step-00000001/" + part, conditional()

    def meanwhile():
        successor = start(conditional(), "p", queue_path=str(tmp_path / "successor.json"))
        successor.submit(checkpoint(tmp_path / "successor", 1, weights=b"WEIGHTS"))
        assert successor.wait()
        found.append(storage.read(key))

    def note(kind, **facts):
        conflicts.append((kind, storage.read(key)))
        told.set()

    found, conflicts, told = [], [], threading.Event()
    sleeper = start(Sleeps(storage, key, meanwhile), "p", on_event=note, pause=1000)
    sleeper.submit(checkpoint(tmp_path / "sleeper", 1, weights=b"weights"))
    told.wait()
    assert conflicts[0] == ("retry", found[0])


def test_a_trainer_that_slept_does_not_vouch_for_the_files_of_a_successor_that_died_before_its_manifest(conditional, start, tmp_path):
    storage, manifest = conditional(), "p/checkpoints/step-00000001/MANIFEST.json"

    def dies():
        died.set()
        raise TakenOver("killed")

    def meanwhile():
        successor = start(Sleeps(conditional(), manifest, dies), "p", queue_path=str(tmp_path / "successor.json"))
        successor.submit(checkpoint(tmp_path / "successor", 1, weights=b"WEIGHTS"))
        died.wait()

    def note(kind, **facts):
        events.append(kind)
        told.set()

    events, died, told = [], threading.Event(), threading.Event()
    sleeper = start(Sleeps(storage, manifest, meanwhile), "p", on_event=note, pause=1000)
    sleeper.submit(checkpoint(tmp_path / "sleeper", 1))
    told.wait()
    assert events == ["retry"]
    assert remote_names(storage, "p") == []


def test_a_trainer_that_slept_after_any_look_at_its_lease_leaves_what_its_successor_has_written(conditional, start, tmp_path):
    """But for a file of weights that it was about to send, whose bytes are the same."""
    storage, theirs = conditional(), checkpoint(tmp_path / "successor", 1, of="successor")

    class Sleeps(Free):
        looks, whole_process = 0, threading.Lock()

        def confirm(self):
            with self.whole_process:
                self.looks += 1
                if self.looks == nap:
                    successor = start(conditional(), "p", queue_path=str(tmp_path / "successor{}".format(nap)))
                    successor.submit(theirs)
                    assert successor.wait()
                elif self.looks > nap:
                    raise TakenOver("somebody else")

    naps = 0
    for nap in range(1, 30):
        for key in storage.sizes("p"):
            storage.delete(key)
        lease = Sleeps()
        sleeper = start(storage, "p", queue_path=str(tmp_path / "sleeper{}".format(nap)), lease=lease)
        sleeper.submit(checkpoint(tmp_path / "sleeper", 1, of="sleeper"))
        sleeper.wait()
        if lease.looks < nap:
            break
        naps += 1
        for name in os.listdir(theirs):
            with open(os.path.join(theirs, name), "rb") as f:
                assert storage.read("p/checkpoints/step-00000001/" + name) == f.read(), (nap, name)
    assert naps >= 8


def test_what_was_sent_before_somebody_else_wrote_there_is_sent_again(storage, start, tmp_path):
    """The first is killed before its manifest, a second one before its own, and the first goes on with the queue it had."""
    path = checkpoint(tmp_path, 1)

    def until_the_manifest(folder, queue):
        reached = threading.Event()

        def dies():
            reached.set()
            raise TakenOver("killed")

        killed = start(Sleeps(storage, "p/checkpoints/step-00000001/MANIFEST.json", dies), "p", queue_path=str(tmp_path / queue))
        killed.submit(folder)
        reached.wait()

    until_the_manifest(path, "first.json")
    until_the_manifest(checkpoint(tmp_path / "second", 1, weights=b"WEIGHTS"), "second.json")
    again = start(storage, "p", queue_path=str(tmp_path / "first.json"), present=[path])
    assert again.wait()
    with open(os.path.join(path, "state.json"), "rb") as f:
        assert storage.read("p/checkpoints/step-00000001/state.json") == f.read()
    assert storage.read("p/checkpoints/step-00000001/model.data-00000-of-00001") == b"weights"


def test_a_late_upload_of_an_old_checkpoint_does_not_turn_latest_back(storage, start, tmp_path):
    uploader = start(storage, "p")
    for step in (2, 1):
        uploader.submit(checkpoint(tmp_path, step))
    uploader.wait()
    assert json.loads(storage.read("p/latest.json").decode())["step"] == 2


def test_what_was_removed_from_the_storage_is_sent_again_by_the_next_trainer(storage, start, tmp_path):
    path = checkpoint(tmp_path, 1)
    uploader = start(storage, "p")
    uploader.submit(path)
    uploader.wait()
    for key in storage.sizes("p"):
        storage.delete(key)
    assert start(storage, "p", present=[path]).wait()
    assert remote_names(storage, "p") == ["step-00000001"]
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
    assert uploader.wait()
    assert uploader.failed() == {}
    assert events == [("retry", "no route to host")] * 2 + [("uploaded", None)]
    assert len(wrapped.stored) == 6


def test_errors_that_pass_are_borne_for_as_long_as_it_takes_and_checkpoints_keep_their_order(start, tmp_path):
    events = []
    wrapped = Wrapped(open_storage(str(tmp_path / "store")), failing(50, TransientError("busy")))
    uploader = start(wrapped, "p", on_event=lambda kind, **facts: events.append((kind, facts["checkpoint"])), pause=1e-9)
    for step in (1, 2):
        uploader.submit(checkpoint(tmp_path, step))
    assert uploader.wait()
    assert events == [("retry", "step-00000001")] * 50 + [("uploaded", "step-00000001"), ("uploaded", "step-00000002")]


def test_what_only_a_person_can_mend_fails_at_once(s3, start, tmp_path):
    events = []
    uploader = start(open_storage("s3://nobody", endpoint=s3), "p", on_event=lambda kind, **facts: events.append((kind, facts["reason"])))
    uploader.submit(checkpoint(tmp_path, 1))
    assert uploader.wait()
    assert [kind for kind, _ in events] == ["failed"]
    assert "bucket 'nobody' does not exist" in events[0][1]
    assert uploader.failed() == {"step-00000001": events[0][1]}
    assert uploader.needed() == {1}


def test_denied_credentials_fail_at_once(s3, start, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    events = []
    uploader = start(open_storage("s3://bucket/x", endpoint=s3), "p", on_event=lambda kind, **facts: events.append((kind, facts["reason"])))
    uploader.submit(checkpoint(tmp_path, 1))
    assert uploader.wait()
    assert [kind for kind, _ in events] == ["failed"]
    assert "AWS_SECRET_ACCESS_KEY" in events[0][1]


def test_a_damaged_checkpoint_is_not_sent_and_not_waited_for(start, tmp_path):
    storage, events = open_storage(str(tmp_path / "store")), []
    path = checkpoint(tmp_path, 1)
    with open(path + "/model.index", "wb") as f:
        f.write(b"ind")
    uploader = start(storage, "p", on_event=lambda kind, **facts: events.append((kind, facts["reason"])))
    uploader.submit(path)
    assert uploader.wait()
    assert [kind for kind, _ in events] == ["failed"]
    assert "model.index has 3 bytes" in events[0][1]
    assert storage.sizes() == {}
    assert (uploader.failed(), uploader.needed()) == ({}, set())


def test_a_checkpoint_whose_content_is_damaged_is_not_sent(start, tmp_path):
    storage = open_storage(str(tmp_path / "store"))
    uploader = start(storage, "p", problem=lambda directory: "a bit has flipped")
    uploader.submit(checkpoint(tmp_path, 1))
    assert uploader.wait()
    assert storage.sizes() == {}


def test_a_bug_ends_the_uploads_and_is_raised_to_who_asks(start, tmp_path):
    wrapped = Wrapped(open_storage(str(tmp_path / "store")), failing(1, ZeroDivisionError("bug")))
    uploader = start(wrapped, "p")
    uploader.submit(checkpoint(tmp_path, 1))
    assert not uploader.wait()
    with pytest.raises(ZeroDivisionError):
        uploader.check()


def test_a_checkpoint_that_vanishes_is_told_and_the_next_one_goes(start, tmp_path):
    storage, events = open_storage(str(tmp_path / "store")), []
    wrapped = Wrapped(storage, lambda key: (tmp_path / "step-00000001" / "model.index").unlink() if key.endswith("1/model.index") else None)
    uploader = start(wrapped, "p", on_event=lambda kind, **facts: events.append(kind))
    for step in (1, 2):
        uploader.submit(checkpoint(tmp_path, step))
    assert uploader.wait()
    assert events == ["failed", "uploaded"]
    assert remote_names(storage, "p") == ["step-00000002"]


def test_a_listener_that_raises_does_not_cost_the_upload(start, tmp_path):
    def listener(kind, **facts):
        raise RuntimeError("listener")

    uploader = start(open_storage(str(tmp_path / "store")), "p", on_event=listener)
    for step in (1, 2):
        uploader.submit(checkpoint(tmp_path, step))
    assert uploader.wait()
    assert uploader.failed() == {}


def test_submit_returns_while_the_transfer_hangs(start, tmp_path):
    released = threading.Event()
    uploader = start(Wrapped(open_storage(str(tmp_path / "store")), lambda key: released.wait()), "p")
    for step in (1, 2):
        uploader.submit(checkpoint(tmp_path, step))  # would never come back if it waited for the transfer
    assert uploader.pending() == 2
    uploader.wait(timeout=0.01)
    assert uploader.pending() == 2
    released.set()
    assert uploader.wait()
    assert uploader.failed() == {}


def test_closing_ends_a_long_pause_and_the_next_trainer_sends_only_what_is_missing(start, tmp_path):
    paused, storage = threading.Event(), open_storage(str(tmp_path / "store"))
    wrapped = Wrapped(storage)
    wrapped.before_put = lambda key: (_ for _ in ()).throw(TransientError("down")) if key.endswith("state.json") else None
    uploader = start(wrapped, "p", on_event=lambda kind, **facts: paused.set(), pause=1000)
    paths = [checkpoint(tmp_path, step) for step in (1, 2)]
    for path in paths:
        uploader.submit(path)
    paused.wait()
    uploader.close()
    assert not uploader.wait(0)
    assert uploader.waiting() == ["step-00000001", "step-00000002"]

    wrapped = Wrapped(storage)
    assert start(wrapped, "p", present=paths).wait()
    assert [key.rpartition("/")[2] for key in wrapped.stored if "/step-00000001/" in key] == ["state.json", "MANIFEST.json"]
    assert remote_names(storage, "p") == ["step-00000001", "step-00000002"]


def test_a_file_that_was_sent_and_is_not_there_is_sent_again(start, tmp_path):
    storage, paused = open_storage(str(tmp_path / "store")), threading.Event()
    wrapped, path = Wrapped(storage), checkpoint(tmp_path, 1)
    wrapped.before_put = lambda key: (_ for _ in ()).throw(TransientError("down")) if key.endswith("state.json") else None
    uploader = start(wrapped, "p", on_event=lambda kind, **facts: paused.set(), pause=1000)
    uploader.submit(path)
    paused.wait()
    uploader.close()
    storage.write("p/checkpoints/step-00000001/model.index", b"half")
    assert start(storage, "p", present=[path]).wait()
    assert storage.read("p/checkpoints/step-00000001/model.index") == b"index"


def test_what_waits_but_is_gone_from_this_machine_is_forgotten_with_a_word(start, tmp_path, caplog):
    storage = open_storage(str(tmp_path / "store"))
    uploader = start(Wrapped(storage, failing(10**6, TransientError("down"))), "p", pause=1000)
    uploader.submit(checkpoint(tmp_path, 1))
    uploader.close()
    assert start(storage, "p").wait()
    assert "step-00000001 was not uploaded and is not on this machine any more" in caplog.text


def test_a_trainer_whose_lease_is_lost_writes_neither_manifest_nor_pointer(storage, start, tmp_path):
    old = lease(storage, "p", seconds=3600.0)
    old.seconds = 0.0  # asks before every write, as after a long sleep
    uploader = start(storage, "p", lease=old)
    uploader.submit(checkpoint(tmp_path, 1))
    assert uploader.wait()
    lease(storage, "p", gone={old.token}).close()
    before = storage.sizes("p/checkpoints")
    uploader.submit(checkpoint(tmp_path, 2))
    assert not uploader.wait()
    with pytest.raises(TakenOver):
        uploader.check()
    assert storage.sizes("p/checkpoints") == before
    assert json.loads(storage.read("p/latest.json").decode())["step"] == 1


def test_a_lease_that_is_lost_in_the_middle_of_a_file_ends_the_transfer(start, tmp_path):
    lost = []

    class Lost(Free):
        def confirm(self):
            if lost:
                raise TakenOver("somebody else")

    storage = open_storage(str(tmp_path / "store"))
    uploader = start(Wrapped(storage, lost.append), "p", lease=Lost())
    uploader.submit(checkpoint(tmp_path, 1))
    assert not uploader.wait()
    assert set(storage.sizes()) == {"p/checkpoints/step-00000001/MANIFEST.json"}  # the mark
    assert remote_names(storage, "p") == []


def test_a_pointer_of_a_later_trainer_is_not_overwritten_even_by_a_higher_step(storage, start, tmp_path):
    storage.write("p/latest.json", json.dumps({"step": 1, "fence": 7, "uri": "elsewhere"}).encode())
    uploader = start(storage, "p")
    uploader.submit(checkpoint(tmp_path, 9))
    assert not uploader.wait()
    with pytest.raises(TakenOver, match=r"latest\.json was written by a later trainer"):
        uploader.check()
    assert json.loads(storage.read("p/latest.json").decode())["fence"] == 7


def test_a_pointer_that_changes_between_look_and_write_is_looked_at_again(start, tmp_path):
    storage = open_storage(str(tmp_path / "store"))
    wrapped, write, raced = Wrapped(storage), storage.write, []

    def racing(key, data, expected=None):
        if key.endswith("latest.json") and not raced:
            raced.append(write(key, json.dumps({"step": 99, "fence": 5}).encode()))
        return write(key, data, expected=expected)

    wrapped.write = racing
    uploader = start(wrapped, "p")
    uploader.submit(checkpoint(tmp_path, 1))
    assert not uploader.wait()
    with pytest.raises(TakenOver):
        uploader.check()
    assert json.loads(storage.read("p/latest.json").decode())["step"] == 99


def test_what_a_killed_trainer_left_half_sent_is_aborted(storage, start, tmp_path):
    leave_half(storage, "p/checkpoints/step-00000001/model.data")
    assert start(storage, "p").wait()
    assert storage.abort_uploads("p") == 0


def test_the_storage_keeps_what_its_retention_says_and_does_not_get_the_rest_back(storage, start, tmp_path):
    events, paths = [], [checkpoint(tmp_path, step) for step in (1, 2, 3, 4)]

    def keep(steps):
        return superfluous(steps, 2, keep={1})

    uploader = start(storage, "p", keep=keep, on_event=lambda kind, **facts: events.append((kind, facts.get("step"))))
    for path in paths:
        uploader.submit(path)
    assert uploader.wait()
    uploader.close()
    assert remote_names(storage, "p") == ["step-00000001", "step-00000003", "step-00000004"]
    assert ("removed", 2) in events
    assert start(storage, "p", keep=keep, present=paths).wait()
    assert remote_names(storage, "p") == ["step-00000001", "step-00000003", "step-00000004"]


def test_what_the_retention_lets_go_is_gone_before_the_end_of_the_uploads_is_told(storage, start, tmp_path):
    class Slow(Wrapped):
        def delete(self, key):
            asked.set()
            assert released.wait(30)
            self.storage.delete(key)

    asked, released = threading.Event(), threading.Event()
    uploader = start(Slow(storage), "run", keep=lambda steps: superfluous(steps, 1, 0))
    for step in (2, 4):
        uploader.submit(checkpoint(tmp_path, step))
    assert asked.wait(30)
    assert not uploader.waiting()
    assert not uploader.wait(0.05)
    released.set()
    assert uploader.wait(30)
    assert remote_names(storage, "run") == ["step-00000004"]


def test_a_retention_that_is_not_allowed_to_remove_costs_no_upload(start, tmp_path, caplog):
    class Kept(Wrapped):
        def delete(self, key):
            raise UserError("no right to remove {}".format(key))

    storage = open_storage(str(tmp_path / "store"))
    uploader = start(Kept(storage), "run", keep=lambda steps: superfluous(steps, 1, 0))
    for step in (2, 4, 6):
        uploader.submit(checkpoint(tmp_path, step))
    assert uploader.wait(30)
    uploader.check()
    assert remote_names(storage, "run") == ["step-00000002", "step-00000004", "step-00000006"]
    assert uploader.failed() == {}
    assert "no right to remove" in caplog.text


def test_the_journal_is_sent_along(storage, start, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"{}\n")
    extras = {"metrics.jsonl": str(tmp_path / "metrics.jsonl"), "not_there": str(tmp_path / "nothing")}
    uploader = start(storage, "p", extras=extras)
    uploader.submit(checkpoint(tmp_path, 1))
    assert uploader.wait()
    assert storage.read("p/metrics.jsonl") == b"{}\n"


def leave_half(storage, key):
    """Begin an upload and do not end it, as a process that is killed."""
    if hasattr(storage, "root"):
        path = os.path.join(storage.root, os.path.dirname(key), ".model.data.x1.tmp")
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as f:
            f.write(b"half")
    else:
        storage._client.create_multipart_upload(Bucket=storage.bucket, Key=storage._name(key))


def test_a_prefix_belongs_to_the_run_that_claimed_it(storage):
    claim_prefix(storage, "runs/demo", "uid-1")
    claim_prefix(storage, "runs/demo", "uid-1")
    with pytest.raises(UserError, match="belongs to another run .*uid-1.*uid-2"):
        claim_prefix(storage, "runs/demo", "uid-2")
    assert json.loads(storage.read("runs/demo/run.json").decode())["uid"] == "uid-1"


def test_of_two_runs_that_claim_at_once_one_wins(tmp_path):
    storage, claimed = open_storage(str(tmp_path / "store")), []
    write = storage.write

    def racing(key, data, expected=None):
        storage.write = write
        claim_prefix(storage, "p", "uid-1")
        return write(key, data, expected=expected)

    storage.write = racing
    with pytest.raises(UserError, match="belongs to another run"):
        claimed.append(claim_prefix(storage, "p", "uid-2"))
    assert claimed == []
    with pytest.raises(Conflict):
        storage.write("p/run.json", b"{}", expected="")
