"""`python -m tasks.checkpoints`: what it shows, what it refuses, and that it removes what it says and nothing else."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid

import pytest

from mtc import config as configuration
from mtc import files
from mtc import lock as locks
from mtc.storage import lease as leases
from mtc.storage import open_storage, uploader
from mtc.storage.upload_queue import FAILED, REMOVED, UPLOADED, WAITING, UploadQueue
from mtc.training import checkpoints
from tasks import checkpoints as command
from tasks import step
from test.storage.holders import holder, lease
from test.storage.test_storage import leave_unfinished

pytestmark = pytest.mark.last

UID = "0123456789abcdef"
DATA = ".data-00000-of-00001"


class Free:
    """A lease that is never lost."""

    fence = 1

    def check(self):
        pass

    confirm = check


class Run:
    """A run directory and its place in the storage, without the training."""

    def __init__(self, path, uri, endpoint):
        self.path, self.sets = path, ("storage.uri={}".format(uri), "storage.endpoint={}".format(endpoint))
        self.store, self.prefix = open_storage(uri, endpoint), path.name
        self.queue_path = str(path / "uploads.json")
        self.config = configuration.load("demo", self.sets)

    def arguments(self, verb, *words, sets=()):
        overrides = [word for override in self.sets + tuple(sets) for word in ("--set", override)]
        return [verb, "--config", "demo", "--run-dir", str(self.path)] + overrides + [str(word) for word in words]

    def __call__(self, verb, *words, sets=()):
        return command.main(self.arguments(verb, *words, sets=sets))

    def claim(self, uid=UID):
        self.path.mkdir(exist_ok=True)
        files.write_json(str(self.path / "run.json"), {"v": 1, "uid": uid})

    def save(self, *steps, **state):
        for number in steps:

            def write_bundle(prefix):
                for suffix in (".index", DATA):
                    files.write_bytes(prefix + suffix, "weights {} {}".format(number, suffix).encode())  # noqa: B023

            facts = {"uid": UID, "config": configuration.identity(self.config), "evaluations": []}
            checkpoints.save(str(self.path), number, write_bundle, dict(facts, **state))

    def upload(self, *steps):
        """Upload these, or all, as a trainer does, one after the other."""
        uploader.claim_prefix(self.store, self.prefix, UID)
        directories = [self.directory(number) for number in steps or self.here()]
        present = [str(directory) for directory in directories]
        made = uploader.Uploader(self.store, self.prefix, self.queue_path, lease=Free(), present=present)
        made.start()
        assert made.wait(60)
        made.close()

    def saved_and_uploaded(self, *steps, **state):
        self.claim()
        self.save(*steps, **state)
        self.upload()
        return self

    def directory(self, number):
        return self.path / "checkpoints" / checkpoints.name_of(number)

    def key(self, number, part):
        return "{}/checkpoints/{}/{}".format(self.prefix, checkpoints.name_of(number), part)

    def here(self):
        return sorted(checkpoints.step_of(directory) for directory in checkpoints.listed(str(self.path)))

    def there(self):
        return [uploader.step_of(name) for name in uploader.remote_names(self.store, self.prefix)]

    def queue(self):
        return UploadQueue(self.queue_path, self.store.url(self.prefix + "/checkpoints"))

    def damage(self, number, side):
        """Turn one bit of the weights, here or in the storage."""
        part = "model-{}{}".format(number, DATA)
        if side == "local":
            path = self.directory(number) / part
            path.write_bytes(flipped(path.read_bytes()))
        else:
            self.store.write(self.key(number, part), flipped(self.store.read(self.key(number, part))))

    def record(self, verb):
        return json.loads((self.path / "steps" / "checkpoints_{}.json".format(verb)).read_text())

    def everything(self):
        """All that matters, byte for byte: but for what the step contract itself writes."""
        own = {".lock", ".lock.history", "config.json"}
        here = {
            str(path): path.read_bytes() for path in self.path.rglob("*") if path.is_file() and path.name not in own and path.parent.name != "steps"
        }
        return here, {key: self.store.read(key) for key in self.store.sizes(self.prefix)}


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.fixture(autouse=True)
def same_signals(monkeypatch):
    """A step sets its own handlers, and waits for whoever holds the run; neither is for here."""
    monkeypatch.setattr(step, "RUN_LOCK_PATIENCE", 0.0)
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.fixture
def folder_run(tmp_path):
    return Run(tmp_path / "run", str(tmp_path / "storage"), "")


@pytest.fixture(params=["file", "s3"])
def run(request, tmp_path):
    if request.param == "file":
        return request.getfixturevalue("folder_run")
    return Run(tmp_path / "run", "s3://bucket/" + uuid.uuid4().hex, request.getfixturevalue("s3_proxy").url)


def rows(run, capsys, **options):
    """Return what `list --json` says of the checkpoints, by step, and of all else."""
    capsys.readouterr()
    assert run("list", "--json", **options) == 0
    found = json.loads(capsys.readouterr().out)
    return {row["step"]: row for row in found["checkpoints"]}, found


# ---- list


def test_the_list_shows_each_checkpoint_here_and_in_the_storage_newest_first(run, capsys):
    run.saved_and_uploaded(4, 8, evaluations=[[4, 0.9], [8, 0.5]])
    run.save(12, evaluations=[[4, 0.9], [8, 0.5], [12, 0.6]])
    run.queue().add("step-00000012", "digest")
    run.store.write(run.key(6, "state.json"), b"{}")
    shutil.rmtree(str(run.directory(4)))
    (run.directory(8) / "state.json").write_bytes(b"short")
    found, everything = rows(run, capsys)
    assert list(found) == [12, 8, 6, 4]
    assert [(row["local"], row["remote"], row["upload"]) for row in found.values()] == [
        ("good size", "-", "waiting"), ("damaged-looking", "present", "uploaded"), ("-", "incomplete", "-"), ("-", "present", "uploaded")
    ]  # fmt: skip
    assert found[8]["problem"].startswith("state.json has 5 bytes, its manifest says ")
    assert (found[8]["notes"], found[4]["notes"]) == (["latest.json points here"], ["best by evaluation"])
    assert found[12]["bytes"] == sum(path.stat().st_size for path in run.directory(12).iterdir())
    assert everything["unfinished"] == {"local": [], "remote": ["step-00000006"]}
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[:9].strip().isdigit()] == ["12", "8", "6", "4"]
    assert max(len(line) for line in lines) <= 120


def test_the_list_tells_why_an_upload_failed_and_what_retention_has_removed(folder_run, capsys):
    folder_run.saved_and_uploaded(4, 8)
    queue = folder_run.queue()
    queue.finish("step-00000004", REMOVED)
    queue.finish("step-00000008", FAILED, "access denied " * 20)
    found, _ = rows(folder_run, capsys)
    assert (found[4]["upload"], found[8]["upload"]) == ("removed", "failed")
    assert folder_run("list") == 0
    out = capsys.readouterr().out
    assert "upload failed: access denied" in out
    assert max(len(line) for line in out.splitlines()) <= 120


def test_the_list_changes_nothing_and_writes_nothing_to_the_storage(run, request, capsys):
    run.saved_and_uploaded(4, 8)
    before = run.everything()
    proxy = request.getfixturevalue("s3_proxy") if run.store.url("").startswith("s3") else None
    first = len(proxy.log) if proxy else 0
    assert run("list") == 0
    assert not proxy or {method for method, _, _ in proxy.log[first:]} <= {"GET", "HEAD"}
    assert run.everything() == before
    assert run.record("list")["status"] == "success"


def test_the_list_and_verification_work_beside_a_trainer_and_name_it(folder_run, capsys):
    folder_run.saved_and_uploaded(4)
    held = lease(folder_run.store, "run", holder=holder(host="otherhost"))
    with locks.exclusive(str(folder_run.path / ".lock"), "python -m tasks.train"):
        assert folder_run("verify") == 0
        capsys.readouterr()
        assert folder_run("list") == 0
    held.close()
    out = capsys.readouterr().out
    assert "held by python -m tasks.train (process {}".format(os.getpid()) in out
    assert "held by trainer (process 4711 on otherhost" in out
    assert "points to step-00000004" in out


def test_a_holder_that_was_killed_or_is_elsewhere_is_told_from_one_that_lives(folder_run, capsys):
    folder_run.saved_and_uploaded(4)
    child = subprocess.Popen(["true"])
    child.wait()
    for host, pid, alive in ((socket.gethostname(), child.pid, False), ("otherhost", 1, None)):
        found = holder(host=host)._replace(pid=pid, since=time.time())
        files.write_json(str(folder_run.path / ".lock"), found._asdict())
        assert rows(folder_run, capsys)[1]["lock"]["alive"] is alive


def test_the_list_shows_what_a_killed_save_has_left(folder_run, capsys):
    folder_run.saved_and_uploaded(4)
    (folder_run.path / "checkpoints" / ".step-00000008").mkdir()
    assert rows(folder_run, capsys)[1]["unfinished"]["local"] == [".step-00000008"]


def test_the_list_of_a_storage_that_is_away_shows_what_is_here_and_says_so(tmp_path, s3, closed_port, capsys):
    away = Run(tmp_path / "run", "s3://bucket/away", "http://127.0.0.1:{}".format(closed_port))
    away.claim()
    away.save(4, 8)
    found, everything = rows(away, capsys)
    assert [(row["local"], row["remote"]) for row in found.values()] == [("good size", "?")] * 2
    assert str(closed_port) in everything["storage_problem"]
    assert away("list") == 0
    assert "s3://bucket/away/run cannot be read now: " in capsys.readouterr().out


def test_the_list_says_that_the_storage_has_another_run(folder_run, capsys):
    folder_run.saved_and_uploaded(4)
    folder_run.claim("another")
    assert "belongs to another run (uid {}".format(UID) in rows(folder_run, capsys)[1]["storage_problem"]


def test_an_empty_run_is_listed_as_such(folder_run, capsys):
    assert folder_run("list") == 0
    assert "no checkpoints in " in capsys.readouterr().out


def test_no_tensorflow_is_needed(folder_run):
    folder_run.saved_and_uploaded(4)
    code = "import sys; from tasks import checkpoints as c; assert c.main(sys.argv[1:]) == 0; assert 'tensorflow' not in sys.modules"
    for verb in ("list", "verify", "fetch", "prune"):
        subprocess.run([sys.executable, "-c", code] + folder_run.arguments(verb), check=True)


# ---- verify


def test_what_is_good_is_verified_on_both_sides(run, capsys):
    run.saved_and_uploaded(4, 8)
    assert run("verify") == 0
    assert capsys.readouterr().out.splitlines() == [
        "local   step-00000008  ok", "local   step-00000004  ok", "remote  step-00000008  ok", "remote  step-00000004  ok",
        "4 checkpoints read, all good",
    ]  # fmt: skip


@pytest.mark.parametrize("side", ["local", "remote"])
def test_one_bit_is_found_where_it_was_turned(run, side, capsys):
    run.saved_and_uploaded(4, 8)
    run.damage(4, side)
    assert run("verify") == 1
    assert capsys.readouterr().err == "checkpoints_verify failed: 1 of 4 checkpoints damaged: {} step-00000004\n".format(side)
    assert run.record("verify")["status"] == "failed"
    other = {"local": "--remote", "remote": "--local"}[side]
    assert run("verify", other) == 0
    assert run("verify", 8) == 0
    assert run("verify", "--" + side, 4) == 1


def test_an_upload_that_has_not_ended_is_not_damage_but_a_lost_manifest_is(run, capsys):
    run.saved_and_uploaded(4, 8)
    run.store.write(run.key(12, "state.json"), b"{}")
    assert run("verify", "--remote") == 0
    assert "remote  step-00000012  incomplete" in capsys.readouterr().out
    run.store.delete(run.key(4, "MANIFEST.json"))
    assert run("verify", "--remote") == 1
    assert "1 of 2 checkpoints damaged: remote step-00000004" in capsys.readouterr().err


def test_a_step_that_is_nowhere_cannot_be_verified(folder_run, capsys):
    folder_run.saved_and_uploaded(4)
    assert folder_run("verify", 5) == 2
    assert "error: no checkpoint of step 5 in " in capsys.readouterr().err


def test_damage_here_is_told_though_the_storage_is_away(tmp_path, s3, closed_port, capsys):
    away = Run(tmp_path / "run", "s3://bucket/away", "http://127.0.0.1:{}".format(closed_port))
    away.claim()
    away.save(4)
    assert away("verify") == 1
    assert "another try may succeed" in capsys.readouterr().err
    assert away("verify", "--local") == 0
    away.damage(4, "local")
    assert away("verify") == 1
    assert "damaged: local step-00000004; the storage could not be read to the end" in capsys.readouterr().err


def test_what_retention_removes_meanwhile_is_not_damaged(folder_run, monkeypatch, capsys):
    folder_run.saved_and_uploaded(4, 8)

    def slow(directory):
        checkpoints.remove(directory)
        return "FileNotFoundError"

    monkeypatch.setattr(checkpoints, "problem", slow)
    assert folder_run("verify", "--local") == 0
    assert "local   step-00000004  removed meanwhile" in capsys.readouterr().out


# ---- fetch


def moved(run):
    """Let the run directory be lost, as on another machine."""
    run.store.write("run/metrics.jsonl", b'{"kind": "start"}\n')
    shutil.rmtree(str(run.path))


def test_an_empty_directory_gets_the_newest_good_checkpoint_and_the_runs_identity(run, capsys):
    moved(run.saved_and_uploaded(4, 8))
    assert run("fetch") == 0
    assert capsys.readouterr().out == "{}\n".format(run.directory(8))
    assert run.here() == [8]
    assert checkpoints.problem(str(run.directory(8))) is None
    assert (run.path / "metrics.jsonl").read_text() == '{"kind": "start"}\n'
    assert (run.path / "run.json").read_bytes() == files.json_bytes({"v": 1, "uid": UID})
    assert run.record("fetch")["figures"]["step"] == 8


def test_training_goes_on_from_what_was_fetched(trained, small, tmp_path, capsys):
    shutil.rmtree(str(trained("train.steps=2")))
    assert command.main(["fetch"] + small("train.steps=2")) == 0
    trained("train.steps=3", "storage.resume=false")
    assert "resuming after step 2" in capsys.readouterr().err


def test_a_step_is_fetched_by_its_number_once(run, capsys):
    moved(run.saved_and_uploaded(4, 8))
    assert run("fetch", 4) == 0
    assert run.here() == [4]
    assert "is here already" not in capsys.readouterr().err
    assert run("fetch", 4) == 0
    assert "{} is here already, and good".format(run.directory(4)) in capsys.readouterr().err


def test_a_damaged_one_is_replaced_by_a_good_one_of_the_storage(folder_run):
    folder_run.saved_and_uploaded(4).damage(4, "local")
    assert folder_run("fetch", 4) == 0
    assert checkpoints.problem(str(folder_run.directory(4))) is None


def test_of_a_damaged_newest_the_one_before_is_fetched_and_a_damaged_step_is_refused(run, capsys):
    moved(run.saved_and_uploaded(4, 8))
    run.damage(8, "remote")
    assert run("fetch", 8) == 1
    assert "nothing was fetched: step-00000008 in {} is damaged".format(run.store.url("run")) in capsys.readouterr().err
    assert run("fetch") == 0
    assert run.here() == [4]
    assert "step-00000008 is passed over" in capsys.readouterr().err


def test_what_is_not_whole_or_nowhere_in_the_storage_cannot_be_fetched(folder_run, capsys):
    assert folder_run("fetch") == 2
    assert "holds no checkpoint: check storage.uri" in capsys.readouterr().err
    folder_run.saved_and_uploaded(4)
    folder_run.store.write(folder_run.key(8, "state.json"), b"{}")
    assert folder_run("fetch", 8) == 2
    assert "no checkpoint of step 8 in " in capsys.readouterr().err


def test_the_place_of_another_run_is_refused(folder_run, capsys):
    folder_run.saved_and_uploaded(4)
    shutil.rmtree(str(folder_run.path))
    folder_run.claim("another")
    for verb in ("fetch", "prune"):
        assert folder_run(verb) == 2
        assert "belongs to another run (uid {}".format(UID) in capsys.readouterr().err
    assert folder_run.here() == []


def test_another_configuration_is_refused_before_anything_is_fetched_unless_asked_for(folder_run, capsys):
    moved(folder_run.saved_and_uploaded(4))
    assert folder_run("fetch", sets=("train.seed=3",)) == 2
    err = capsys.readouterr().err
    assert "{} is of another configuration: train.seed was 0, is 3".format(folder_run.store.url("run/checkpoints/step-00000004")) in err
    assert folder_run.here() == []
    assert not (folder_run.path / "run.json").exists()
    assert folder_run("fetch", sets=("train.seed=3", "checkpoint.foreign=accept")) == 0
    assert folder_run.here() == [4]


@pytest.mark.parametrize("words", [("fetch",), ("prune",), ("prune", "--local"), ("prune", "--remote", 4)])
def test_beside_a_trainer_nothing_is_fetched_or_removed(folder_run, words, capsys):
    folder_run.saved_and_uploaded(4, 8)
    before = folder_run.everything()
    with locks.exclusive(str(folder_run.path / ".lock"), "python -m tasks.train"):
        assert folder_run(*words, sets=("checkpoint.keep_last=1", "storage.keep_last=1")) == 2
    assert "is held by another python -m tasks.train (process {}".format(os.getpid()) in capsys.readouterr().err
    assert folder_run.everything() == before


# ---- prune

KEEP = ("checkpoint.keep_last=2", "checkpoint.keep_every=8", "checkpoint.keep_best=1", "storage.keep_last=1", "storage.keep_every=12")


def test_pruning_keeps_the_last_the_regular_and_the_best_on_both_sides(run, capsys):
    run.saved_and_uploaded(4, 6, 8, 10, 12, 14, 16, evaluations=[[4, 0.2], [6, 0.9], [8, 0.1]])
    assert run("prune", sets=KEEP) == 0
    assert run.here() == [6, 8, 14, 16]
    assert run.there() == [6, 12, 16]
    assert run.queue().names(REMOVED) == [checkpoints.name_of(number) for number in (4, 8, 10, 14)]
    assert run.queue().names(UPLOADED) == [checkpoints.name_of(number) for number in (6, 12, 16)]
    out = capsys.readouterr().out
    assert "removed local   step-00000010\n" in out
    assert "removed remote  step-00000014\n" in out
    assert len(run.record("prune")["figures"]["removed"]) == 7
    assert leases.read(run.store, "run")["state"] == "released"
    assert run("verify") == 0


def test_a_dry_run_says_the_same_and_changes_nothing(run, capsys):
    run.saved_and_uploaded(4, 6, 8, 10)
    run.store.write(run.key(5, "state.json"), b"{}")
    (run.path / "checkpoints" / ".step-00000012").mkdir()
    before = run.everything()
    assert run("prune", "--dry-run", sets=KEEP) == 0
    said = capsys.readouterr().out.splitlines()
    assert said
    assert all(line.startswith("would remove ") for line in said)
    assert run.everything() == before
    assert (run.path / "checkpoints" / ".step-00000012").is_dir()
    assert run("prune", sets=KEEP) == 0
    assert [line.replace("removed", "would remove", 1) for line in capsys.readouterr().out.splitlines()] == said


@pytest.mark.parametrize(("option", "here", "there"), [("--local", [8], [4, 8]), ("--remote", [4, 8], [8])])
def test_one_side_alone_is_pruned(run, option, here, there):
    run.saved_and_uploaded(4, 8)
    assert run("prune", option, sets=("checkpoint.keep_last=1", "storage.keep_last=1", "checkpoint.keep_every=0")) == 0
    assert (run.here(), run.there()) == (here, there)


def test_with_keep_last_0_all_stay_and_it_says_so(folder_run, capsys):
    folder_run.saved_and_uploaded(4, 8)
    assert folder_run("prune", sets=("checkpoint.keep_last=0",)) == 0
    out = capsys.readouterr().out
    assert "checkpoint.keep_last=0: all local checkpoints stay" in out
    assert "storage.keep_last=0: all remote checkpoints stay" in out
    assert "nothing to remove" in out
    assert (folder_run.here(), folder_run.there()) == ([4, 8], [4, 8])


ONE = ("checkpoint.keep_last=1", "checkpoint.keep_every=0", "storage.keep_last=1")


def test_what_is_not_in_the_storage_yet_stays_here(run, capsys):
    run.saved_and_uploaded(2, 4, 6, 8, 10)
    queue = run.queue()
    for number, state in ((2, WAITING), (4, FAILED)):
        queue.finish(checkpoints.name_of(number), state, "access denied")
    uploader.remove(run.store, "run", checkpoints.name_of(6))  # by somebody's hand
    assert run("prune", "--local", sets=ONE) == 0
    assert run.here() == [2, 4, 6, 10]
    out = capsys.readouterr().out
    assert [words in out for words in ("waits for its upload", "its upload failed: access denied", "it is not in the storage")] == [True] * 3


def test_what_the_storages_retention_has_removed_was_there(folder_run):
    folder_run.saved_and_uploaded(4, 8)
    assert folder_run("prune", "--remote", sets=ONE) == 0
    assert folder_run("prune", "--local", sets=ONE) == 0
    assert (folder_run.here(), folder_run.there()) == ([8], [8])


def test_another_checkpoint_of_the_same_step_in_the_storage_is_no_copy(folder_run):
    folder_run.saved_and_uploaded(4, 8)
    shutil.rmtree(str(folder_run.directory(4)))
    folder_run.save(4, seconds=2)
    assert folder_run("prune", "--local", sets=ONE) == 0
    assert folder_run.here() == [4, 8]


def test_with_the_storage_away_only_what_was_uploaded_for_certain_goes(tmp_path, s3_proxy, capsys):
    run = Run(tmp_path / "run", "s3://bucket/" + uuid.uuid4().hex, s3_proxy.url)
    run.saved_and_uploaded(4, 8)
    run.save(6)
    s3_proxy.plan(["drop"], rate=1.0)
    assert run("prune", sets=ONE) == 1
    assert run.here() == [4, 6, 8]
    assert run("prune", "--local", sets=ONE) == 0
    assert run.here() == [6, 8]
    assert "going by uploads.json" in capsys.readouterr().err


def test_a_damaged_newest_does_not_push_out_good_ones(run):
    run.saved_and_uploaded(4, 8, 12)
    for side in ("local", "remote"):
        run.damage(12, side)
    assert run("prune", sets=ONE) == 0
    assert (run.here(), run.there()) == ([8, 12], [8, 12])


def test_older_damaged_ones_do_not_push_out_good_ones_and_go_in_their_turn(folder_run):
    folder_run.saved_and_uploaded(2, 4, 6, 8)
    for number in (2, 6):
        (folder_run.directory(number) / "state.json").write_bytes(b"short")
    assert folder_run("prune", "--local", sets=("checkpoint.keep_last=2",)) == 0
    assert folder_run.here() == [4, 6, 8]


def test_the_best_by_the_evaluations_of_another_machine_stay(folder_run):
    folder_run.saved_and_uploaded(4, 8, 12, 16, evaluations=[[4, 0.1], [8, 0.9], [12, 0.2], [16, 0.3]])
    shutil.rmtree(str(folder_run.path))
    folder_run.claim()
    folder_run.save(2, evaluations=[])
    assert folder_run("prune", sets=ONE) == 0
    assert (folder_run.here(), folder_run.there()) == ([2], [8, 16])


def test_what_killed_saves_and_uploads_have_left_goes_and_what_is_under_way_stays(run):
    run.saved_and_uploaded(4, 8)
    (run.path / "checkpoints" / ".step-00000012").mkdir()
    run.save(2)
    run.queue().add("step-00000002", "digest")
    for number in (2, 6, 12):  # whose upload goes on with the next trainer; older than the newest; newer than the newest
        run.store.write(run.key(number, "state.json"), b"{}")
    assert run("prune") == 0
    assert sorted(os.listdir(str(run.path / "checkpoints"))) == [checkpoints.name_of(number) for number in (2, 4, 8)]
    assert sorted({uploader.step_of(key.split("/")[2]) for key in run.store.sizes("run/checkpoints")}) == [2, 4, 8, 12]


def test_unfinished_uploads_are_ended(run, capsys):
    run.saved_and_uploaded(4)
    leave_unfinished(run.store, run.key(8, "state.json"))
    assert run("prune", "--dry-run") == 0
    assert "unfinished upload" not in capsys.readouterr().out
    assert run("prune") == 0
    assert "removed remote  1 unfinished upload\n" in capsys.readouterr().out
    assert run.store.abort_uploads("run") == 0


def test_exactly_the_named_steps_are_removed(run):
    run.saved_and_uploaded(4, 6, 8, 10)
    assert run("prune", "--remote", 4, sets=ONE) == 0
    assert (run.here(), run.there()) == ([4, 6, 8, 10], [6, 8, 10])
    assert run("prune", 6, sets=ONE) == 0
    assert (run.here(), run.there()) == ([4, 8, 10], [8, 10])


@pytest.mark.parametrize(("words", "sentence"), [((8,), "step 8 is the newest good checkpoint in "), ((4, 5), "no checkpoint of step 5 in ")])
def test_the_newest_good_one_and_unknown_steps_are_refused_and_nothing_is_removed(run, words, sentence, capsys):
    run.saved_and_uploaded(4, 8)
    before = run.everything()
    for sides in ((), ("--local",), ("--remote",), ("--even-if-not-uploaded",)):
        assert run("prune", *(sides + words)) == 2
        assert sentence in capsys.readouterr().err
    assert {key: data for key, data in run.everything()[1].items() if key != "run/lease.json"} == before[1]
    assert run.everything()[0] == before[0]


def test_a_named_one_that_is_nowhere_else_goes_only_if_that_is_meant(folder_run, capsys):
    folder_run.saved_and_uploaded(8)
    folder_run.save(4)
    folder_run.queue().add("step-00000004", "digest")
    assert folder_run("prune", 4) == 2
    assert "waits for its upload; add --even-if-not-uploaded" in capsys.readouterr().err
    assert folder_run.here() == [4, 8]
    assert folder_run("prune", 4, "--even-if-not-uploaded") == 0
    assert folder_run.here() == [8]
    assert folder_run.queue().names(WAITING) == []
    assert folder_run("prune", "--even-if-not-uploaded") == 2


def test_a_pointer_to_a_damaged_checkpoint_goes_with_it(folder_run):
    folder_run.saved_and_uploaded(4, 8).damage(8, "remote")
    assert folder_run("prune", "--remote", 8) == 0
    assert folder_run.there() == [4]
    assert folder_run.store.read("run/latest.json") is None


def test_what_was_removed_in_the_storage_is_not_uploaded_again_from_a_fetched_copy(folder_run):
    folder_run.saved_and_uploaded(4, 8)
    os.unlink(folder_run.queue_path)  # as on another machine
    assert folder_run("prune", "--remote", 4) == 0
    folder_run.upload()
    assert folder_run.there() == [8]


def test_the_storage_is_not_pruned_while_another_machine_trains(run, capsys):
    run.saved_and_uploaded(4, 8)
    held = lease(run.store, "run", holder=holder(host="otherhost"))
    before = run.everything()
    assert run("prune", sets=ONE) == 2
    assert "is held by another trainer (process 4711 on otherhost, since 2023-" in capsys.readouterr().err
    assert run.everything() == before
    held.confirm()
    assert run("prune", "--local", sets=ONE) == 0
    assert (run.here(), run.there()) == ([8], [4, 8])
    held.close()


def test_the_lease_of_a_trainer_that_was_killed_here_is_no_obstacle(folder_run):
    folder_run.saved_and_uploaded(4, 8)
    path = str(folder_run.path / ".lock")
    with locks.exclusive(path, "python -m tasks.train", keep_history=True) as lock:
        lease(folder_run.store, "run", holder=lock.holder)
    assert folder_run("prune", sets=ONE) == 0
    assert folder_run.there() == [8]


def test_a_lease_that_has_run_out_is_taken_over_where_that_is_asked_for(folder_run, capsys):
    folder_run.saved_and_uploaded(4, 8)
    lease(folder_run.store, "run", holder=holder(host="otherhost"))
    folder_run.store.write("run/lease.json", files.json_bytes(dict(leases.read(folder_run.store, "run"), expires=0)))
    assert folder_run("prune", sets=ONE) == 2
    assert "its lease has run out: add --take-over" in capsys.readouterr().err
    assert rows(folder_run, capsys)[1]["lease"]["has_run_out"] is True
    assert folder_run("prune", "--take-over", sets=ONE) == 0
    assert folder_run.there() == [8]


def test_a_place_without_a_run_is_left_untouched(folder_run, tmp_path):
    assert folder_run("prune") == 0
    assert not (tmp_path / "storage").exists()


# ---- the command


def test_an_unknown_verb_is_refused_and_each_verb_has_help(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["remove"])
    for verb in ("list", "verify", "fetch", "prune"):
        with pytest.raises(SystemExit, match="0"):
            command.main([verb, "--help"])
