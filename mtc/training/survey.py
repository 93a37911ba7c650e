"""What a run has saved, at a glance: each checkpoint here and in the storage, its upload, and who works on the run. Looking changes nothing.

Local checkpoints are judged by the sizes in their manifests, remote ones by one listing; `mtc.training.checkpoints.problem` reads every byte.
"""

import contextlib
import os
import socket
import time
from typing import Any, Dict

from mtc import files
from mtc import lock as locks
from mtc.errors import UserError
from mtc.storage import TransientError, uploader
from mtc.storage import lease as leases
from mtc.storage.upload_queue import FAILED, REMOVED, UPLOADED, WAITING
from mtc.training import checkpoints
from mtc.training import place as places

GOOD_SIZE, DAMAGED_LOOKING = "good size", "damaged-looking"
PRESENT, INCOMPLETE = "present", "incomplete"
NOTHING, UNKNOWN = "-", "?"


def survey(context, lock_path):
    """Return the JSON-able answer of `list`: the run directory by sizes, the storage by one listing and its two small records."""
    run_dir, place = context.run_dir, places.place_of(context)
    seen: Dict[str, Any] = {"v": 1, "run_dir": os.path.abspath(run_dir), "storage": place.url(), "storage_problem": None}
    seen.update(lease=None, latest=None)
    there = None
    try:
        seen["lease"] = _lease_facts(leases.read(place.store, place.prefix))
        seen["latest"] = uploader.json_object(place.store.read(place.key(uploader.LATEST))) or None
        there = place.checkpoints()
        places.owner(run_dir, place)
    except (TransientError, UserError) as error:
        seen["storage_problem"] = str(error)
    seen["storage_listed"] = there is not None
    seen["lock"] = _lock_facts(lock_path)
    here = places.here_in(run_dir)
    sizes = {number: looks(directory) for number, directory in here.items()}
    sizes = {number: found for number, found in sizes.items() if os.path.isdir(here[number])}  # a trainer's retention may have been at it
    good = {number: directory for number, directory in here.items() if number in sizes and not sizes[number][1]}
    best = []
    with contextlib.suppress(TransientError, UserError):  # the storage went away in between: this much less is known
        best = places.best(max(1, context.config.checkpoint.keep_best), good, place, places.whole(there or {}))
    queue = place.queue(run_dir)
    uploads = {uploader.step_of(name): state for state in (WAITING, UPLOADED, FAILED, REMOVED) for name in queue.names(state)}
    seen["checkpoints"] = []
    for number in sorted(set(sizes) | set(there or {}), reverse=True):
        name = checkpoints.name_of(number)
        row = {"step": number, "name": name, "local": NOTHING, "remote": UNKNOWN if there is None else NOTHING, "problem": ""}
        row.update(upload=uploads.get(number, NOTHING), reason=queue.reason(name), bytes=sum((there or {}).get(number, {}).values()))
        if number in sizes:
            row["bytes"], row["problem"] = sizes[number]
            row["local"] = DAMAGED_LOOKING if row["problem"] else GOOD_SIZE
        if there and number in there:
            row["remote"] = PRESENT if checkpoints.MANIFEST in there[number] else INCOMPLETE
        row["notes"] = _notes(row, best, seen)
        seen["checkpoints"].append(row)
    leftovers = [os.path.basename(directory) for directory in places.leftovers(run_dir)]
    incomplete = [row["name"] for row in seen["checkpoints"] if row["remote"] == INCOMPLETE]
    seen["unfinished"] = {"local": leftovers, "remote": incomplete}
    return seen


def looks(directory):
    """Return (bytes, why it looks damaged or ""): each file's size against the manifest, whose own digest is checked."""
    size = 0
    try:
        size = sum(entry.stat().st_size for entry in os.scandir(directory))
        with open(os.path.join(directory, checkpoints.MANIFEST), "rb") as f:
            manifest = uploader.json_object(f.read())
        if files.digest({key: value for key, value in manifest.items() if key != "digest"}) != manifest.get("digest"):
            return size, "{} is damaged".format(checkpoints.MANIFEST)
        for name, expected in manifest["files"].items():
            found = os.path.getsize(os.path.join(directory, name))
            if found != expected["bytes"]:
                return size, "{} has {} bytes, its manifest says {}".format(name, found, expected["bytes"])
    except FileNotFoundError as error:
        return size, "{} is missing".format(os.path.basename(str(error.filename)))
    except (OSError, KeyError, TypeError, AttributeError) as error:
        return size, "{}: {}".format(type(error).__name__, error)
    return size, ""


def _notes(row, best, seen):
    notes = []
    if row["step"] in best:
        notes.append("best by evaluation")
    if seen["latest"] and seen["latest"].get("checkpoint") == row["name"]:
        notes.append("latest.json points here")
    if row["remote"] == INCOMPLETE and seen["lease"] and seen["lease"]["held"]:
        notes.append("under way: the lease is held")
    return notes


def _lock_facts(path):
    """Return what the run's lock file says of its holder, and whether that is alive: None where it cannot be known from here; or None for no file."""
    holder = locks.read(path)  # the lock itself is not touched: a trainer that starts at this moment must not find it held
    if holder is None:
        return None
    alive = None
    if holder.host == socket.gethostname():
        try:
            os.kill(holder.pid, 0)
            alive = True
        except ProcessLookupError:
            alive = False
        except PermissionError:  # somebody else's process
            alive = True
    return dict(holder._asdict(), name=str(holder), alive=alive)


def _lease_facts(record):
    if record is None:
        return None
    run_out = record.get("state") != "released" and time.time() > float(record.get("expires", 0))
    return dict(record, name=leases.describe(record), held=record.get("state") != "released" and not run_out, has_run_out=run_out)
