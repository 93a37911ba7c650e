"""What must hold after every kill, and at the end of a run: read from the disk and the storage, by other code than that which wrote it."""

import hashlib
import json
import os
import re

from mtc import lock
from mtc.storage import uploader
from mtc.training import checkpoints, remote


class Broken(AssertionError):
    """A promise that does not hold."""


def require(holds, text, *values):
    """Raise Broken with the text where something does not hold."""
    if not holds:
        raise Broken(text.format(*values))


def local_checkpoints(run_dir, seen, keeps_all, spoiled=()):
    """Check the run directory's checkpoints and return {step: digest of the manifest} of those there.

    seen: what the check before returned. No directory that looks like a checkpoint is damaged, but for the steps that were spoiled on purpose; none
    that was finished is lost, but for retention.
    """
    found = {}
    for directory in checkpoints.listed(run_dir):
        if not os.path.exists(os.path.join(directory, checkpoints.MANIFEST)):
            continue  # being removed by retention, whose first act is to take the manifest away; without it there is no checkpoint
        why = checkpoints.problem(directory)
        if why and checkpoints.step_of(directory) in spoiled:
            continue
        require(why is None, "{} is damaged: {}", directory, why)
        found[checkpoints.step_of(directory)] = _digest(os.path.join(directory, checkpoints.MANIFEST))
    if seen:
        require(found and max(found) >= max(seen), "the newest finished checkpoint, of step {}, is lost", max(seen))
        for step in seen if keeps_all else ():
            require(step in found, "the finished checkpoint of step {} is lost", step)
    return found


def remote_checkpoints(store, prefix, pointed):
    """Check the storage's checkpoints and the pointer; return the step that the pointer names, or -1. pointed: what the check before returned."""
    names = uploader.remote_names(store, prefix)
    for name in names:
        why = remote.problem(store, prefix, name)
        require(why is None, "{} in the storage is damaged: {}", name, why)
    latest = uploader.json_object(store.read(prefix + "/latest.json"))
    if not latest:
        require(pointed < 0, "latest.json is lost")
        return -1
    require(latest["step"] >= pointed, "latest.json was turned back from step {} to {}", pointed, latest["step"])
    require(latest["checkpoint"] in names, "latest.json points at {}, which is not whole", latest["checkpoint"])
    return latest["step"]


def journal(run_dir, straight):
    """Check metrics.jsonl against the straight run's {step: (first sample, ids, loss)}: no step missing, out of order, or different when repeated."""
    path = os.path.join(run_dir, "metrics.jsonl")
    if not os.path.exists(path):
        return
    expected = None
    with open(path, "rb") as f:
        lines = f.read().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError:
            raise Broken("{}: line {} is torn in the middle of the file".format(path, number)) from None
        if record["kind"] == "start":
            expected = record["step"] + 1
        elif record["kind"] == "train":
            require(record["step"] == expected, "{}: step {} where {} was expected: two writers, or a lost line", path, record["step"], expected)
            expected += 1
            found = record["sample"], record["ids"], record["loss"]
            require(found == straight[record["step"]], "{}: step {} is {}, straight {}", path, record["step"], found, straight[record["step"]])


def changed_by_the_replaced(before, after):
    """Check what a replaced trainer did to the storage when it woke up, and return the keys that changed. before, after: {key: bytes}.

    The one operation that it was in the middle of may come to its end, as no storage takes back what is under way: a file of a checkpoint appears or
    goes, or the copy of the journal is an older one. The pointer and what a manifest vouches for are never changed, nor is there a second operation.
    """
    changed = sorted(key for key in set(before) | set(after) if before.get(key) != after.get(key))
    require(len(changed) <= 1, "a trainer that was replaced changed {}", ", ".join(changed))
    for key in changed:
        require(not key.endswith("/latest.json"), "a trainer that was replaced turned {} back", key)
        manifest = "/".join(key.split("/")[:-1]) + "/MANIFEST.json"
        stands = "/checkpoints/" in key and all(uploader.vouches(len(there.get(manifest, b""))) for there in (before, after))
        require(not stands, "a trainer that was replaced changed {}, which a manifest vouches for", key)
    return changed


def locks(run_dir, deaths, others):
    """Check the lock's history: each holder came after the one before had released it or was dead.

    deaths: {pid: [Unix seconds at which a process with it was seen dead]}; others: pids that must never have held it.
    """
    before, fence = None, 0
    for line in lock.history(os.path.join(run_dir, ".lock")):
        require(line["pid"] not in others, "process {} held the lock though it was refused", line["pid"])
        if line["event"] == "taken":
            require(line["fence"] > fence, "fence {} after {}", line["fence"], fence)
            fence = line["fence"]
            if before is not None:
                ended = [died for died in deaths.get(before["pid"], ()) if died >= before["time"] - 0.1]
                require(ended, "process {} took the lock while process {} held it", line["pid"], before["pid"])
                require(min(ended) <= line["time"] + 0.1, "process {} took the lock before process {} had died", line["pid"], before["pid"])
            before = line
        else:
            require(before is not None and before["token"] == line["token"], "a lock was released that was not held")
            before = None


def final(run_dir, store, prefix, last, straight_bundle, expected_remote):
    """Check the end: the weights of the last step to the last bit, and the storage's set of checkpoints."""
    directory = os.path.join(run_dir, "checkpoints", checkpoints.name_of(last))
    require(checkpoints.problem(directory) is None, "the run has no good checkpoint of its last step")
    require(bundle(directory) == straight_bundle, "the weights after step {} differ from those of the straight run", last)
    names = uploader.remote_names(store, prefix)
    require(set(expected_remote) <= {uploader.step_of(name) for name in names}, "the storage has {}, expected {}", names, expected_remote)
    require(uploader.json_object(store.read(prefix + "/latest.json")).get("step") == last, "latest.json does not point at the last step")
    with open(os.path.join(run_dir, "uploads.json"), encoding="utf-8") as f:
        waiting = [name for name, entry in json.load(f)["checkpoints"].items() if entry["state"] not in ("uploaded", "removed")]
    require(not waiting, "uploads are left: {}", waiting)


def bundle(directory):
    """Return the digests of a checkpoint's bundle: equal variables have equal bytes."""
    return {name: _digest(os.path.join(directory, name)) for name in sorted(os.listdir(directory)) if re.match(r"model-\d+\.", name)}


def steps_of(run_dir):
    """Return {step: (first sample, ids, loss)} of a run's journal."""
    with open(os.path.join(run_dir, "metrics.jsonl"), encoding="utf-8") as f:
        records = [json.loads(line) for line in f]
    return {record["step"]: (record["sample"], record["ids"], record["loss"]) for record in records if record["kind"] == "train"}


def _digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()
