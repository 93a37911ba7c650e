"""The crash test's own checks see what they are there to see."""

import json
import os
import shutil

import pytest

from benchmarks.crashing import checks
from benchmarks.crashing.checks import Broken
from mtc import files
from mtc.storage import open_storage
from mtc.training import checkpoints

STRAIGHT = {step: (2 * step - 2, "{:08x}".format(step), 0.5 / step) for step in range(1, 10)}


def write_bundle(prefix):
    for suffix in (".index", ".data-00000-of-00001"):
        with open(prefix + suffix, "wb") as f:
            f.write(b"weights" + suffix.encode())


@pytest.fixture
def run(tmp_path):
    """A finished run of two checkpoints, in its directory and in the storage."""
    for step in (3, 6):
        directory = checkpoints.save(str(tmp_path / "run"), step, write_bundle, {})
        shutil.copytree(directory, str(tmp_path / "store" / "p" / "checkpoints" / os.path.basename(directory)))
    files.write_json(str(tmp_path / "store" / "p" / "latest.json"), {"step": 6, "checkpoint": "step-00000006"})
    entries = {"step-{:08d}".format(step): {"state": "uploaded"} for step in (3, 6)}
    files.write_json(str(tmp_path / "run" / "uploads.json"), {"checkpoints": entries})
    return tmp_path


def damage(path):
    path.write_bytes(path.read_bytes() + b"x")


def final(run, **changes):
    wanted = dict(last=6, straight_bundle=checks.bundle(str(run / "run" / "checkpoints" / "step-00000006")), expected_remote=[3, 6])
    checks.final(str(run / "run"), open_storage(str(run / "store")), "p", **dict(wanted, **changes))


def test_a_good_run_passes(run):
    seen = checks.local_checkpoints(str(run / "run"), {}, True)
    assert sorted(checks.local_checkpoints(str(run / "run"), seen, True)) == [3, 6]
    assert checks.remote_checkpoints(open_storage(str(run / "store")), "p", 3) == 6
    final(run)


def test_a_damaged_checkpoint_is_seen(run):
    damage(run / "run" / "checkpoints" / "step-00000003" / "model-3.index")
    with pytest.raises(Broken, match="damaged"):
        checks.local_checkpoints(str(run / "run"), {}, True)
    assert sorted(checks.local_checkpoints(str(run / "run"), {}, True, spoiled={3})) == [6]


@pytest.mark.parametrize(("lost", "keeps_all"), [(6, False), (6, True), (3, True)])
def test_a_lost_checkpoint_is_seen(run, lost, keeps_all):
    seen = checks.local_checkpoints(str(run / "run"), {}, True)
    shutil.rmtree(str(run / "run" / "checkpoints" / "step-{:08d}".format(lost)))
    with pytest.raises(Broken, match="step {}(,|) is lost".format(lost)):
        checks.local_checkpoints(str(run / "run"), seen, keeps_all)


def test_damage_loss_and_a_pointer_that_goes_back_are_seen_in_the_storage(run):
    store, place = open_storage(str(run / "store")), run / "store" / "p"
    with pytest.raises(Broken, match="turned back from step 9 to 6"):
        checks.remote_checkpoints(store, "p", 9)
    damage(place / "checkpoints" / "step-00000003" / "state.json")
    with pytest.raises(Broken, match="step-00000003 in the storage is damaged"):
        checks.remote_checkpoints(store, "p", 6)
    shutil.rmtree(str(place / "checkpoints" / "step-00000003"))
    shutil.rmtree(str(place / "checkpoints" / "step-00000006"))
    with pytest.raises(Broken, match="not whole"):
        checks.remote_checkpoints(store, "p", 6)
    os.unlink(str(place / "latest.json"))
    with pytest.raises(Broken, match=r"latest\.json is lost"):
        checks.remote_checkpoints(store, "p", 6)


def test_other_weights_missing_remote_checkpoints_and_waiting_uploads_are_seen_at_the_end(run):
    with pytest.raises(Broken, match="differ"):
        final(run, straight_bundle={"model-6.index": "other"})
    with pytest.raises(Broken, match="expected"):
        final(run, expected_remote=[3, 5, 6])
    with pytest.raises(Broken, match="no good checkpoint of its last step"):
        final(run, last=9)
    files.write_json(str(run / "run" / "uploads.json"), {"checkpoints": {"step-00000006": {"state": "waiting"}}})
    with pytest.raises(Broken, match="uploads are left"):
        final(run)


def journal(tmp_path, *lines):
    """Write a journal: ("start", step), ("train", step), or text as it is."""
    text = ""
    for line in lines:
        if isinstance(line, str):
            text += line
            continue
        kind, step = line
        sample, ids, loss = STRAIGHT.get(step, (0, "", 0))
        text += json.dumps({"kind": kind, "step": step, "sample": sample, "ids": ids, "loss": loss}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(text)
    checks.journal(str(tmp_path), STRAIGHT)


def test_a_journal_with_repeated_steps_and_a_torn_end_passes(tmp_path):
    journal(tmp_path, ("start", 0), ("train", 1), ("train", 2), ("start", 1), ("train", 2), ("train", 3), '{"kind": "tra')


@pytest.mark.parametrize(
    "lines",
    [
        [("start", 0), ("train", 1), ("train", 3)],
        [("start", 0), ("train", 1), ("train", 1)],
        [("start", 0), ("start", 1), ("train", 1)],
        [("start", 0), '{"torn\n', ("train", 1)],
        [("start", 0), json.dumps({"kind": "train", "step": 1, "sample": 0, "ids": "00000001", "loss": 0.4}) + "\n"],
        [("start", 0), json.dumps({"kind": "train", "step": 1, "sample": 2, "ids": "00000001", "loss": 0.5}) + "\n"],
        [("start", 0), json.dumps({"kind": "train", "step": 1, "sample": 0, "ids": "00000009", "loss": 0.5}) + "\n"],
    ],
)
def test_lost_doubled_interleaved_torn_and_different_steps_are_seen(tmp_path, lines):
    with pytest.raises(Broken):
        journal(tmp_path, *lines)


def locks(tmp_path, *lines, deaths=None, others=()):
    """Check a history of (event, pid, time, fence)."""
    with open(str(tmp_path / ".lock.history"), "w", encoding="utf-8") as f:
        for event, pid, time, fence in lines:
            f.write(json.dumps({"event": event, "pid": pid, "time": time, "fence": fence, "token": str(fence)}) + "\n")
    checks.locks(str(tmp_path), deaths or {}, set(others))


def test_locks_that_follow_each_other_pass(tmp_path):
    locks(tmp_path, ("taken", 1, 10, 1), ("released", 1, 20, 1), ("taken", 2, 30, 2), ("taken", 3, 50, 3), deaths={2: [40]})


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ([("taken", 1, 10, 1), ("taken", 2, 20, 2)], {}),
        ([("taken", 1, 10, 1), ("taken", 2, 20, 2)], {"deaths": {1: [30]}}),
        ([("taken", 1, 10, 1), ("released", 1, 15, 1), ("taken", 2, 20, 1)], {}),
        ([("taken", 1, 10, 1), ("released", 2, 15, 2)], {}),
        ([("taken", 1, 10, 1)], {"others": [1]}),
    ],
)
def test_two_holders_at_once_are_seen(tmp_path, lines, options):
    with pytest.raises(Broken):
        locks(tmp_path, *lines, **options)
