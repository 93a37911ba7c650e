"""`python -m tasks.checkpoints list|verify|fetch|prune`: what a run has saved, here and in its storage, without TensorFlow.

`list` and `verify` only look: they work while the run is training, and change nothing in the storage. `fetch` and `prune` change the run directory,
so they hold the run's lock, and `prune` of the storage the lease on the run's place in it, too: a trainer keeps them out, wherever it runs, and they
keep it out. What is removed is decided before anything is: a refusal leaves all as it was.
"""

import argparse
import contextlib
import functools
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import textwrap
import time
from typing import Any, Callable, Dict, NamedTuple

from mtc import files
from mtc import lock as locks
from mtc.errors import RunFailed, UserError
from mtc.storage import Storage, TransientError, open_storage, retention, uploader
from mtc.storage import lease as leases
from mtc.storage.upload_queue import FAILED, REMOVED, UPLOADED, WAITING, UploadQueue
from mtc.training import checkpoints, remote
from mtc.training.state import RunState
from tasks import step

log = logging.getLogger("mtc")

WIDTH = 120
"""Columns of what is printed."""

GOOD_SIZE, DAMAGED_LOOKING = "good size", "damaged-looking"
PRESENT, INCOMPLETE = "present", "incomplete"
NOTHING, UNKNOWN = "-", "?"


def main(argv=None):
    """Run the step that the first argument names; return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in STEPS:
        return step.main(STEPS[argv[0]], argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m tasks.checkpoints",
        description="See to the checkpoints of a run. `python -m tasks.checkpoints VERB --help` lists the options of each.",
    )
    parser.add_argument(
        "verb",
        choices=sorted(STEPS),
        help="list: what there is, here and in the storage. verify: read every byte. fetch: bring one from the storage. "
        "prune: remove what is superfluous",
    )
    parser.parse_args(argv[:1])  # exits: with the help, or with what is wrong
    raise AssertionError(argv)


class Place(NamedTuple):
    """A run's place in the storage."""

    store: Storage
    prefix: str

    def key(self, *parts):
        """Return the key of something in it."""
        return "/".join(part for part in (self.prefix,) + parts if part)

    def url(self, *parts):
        """Return its URI, for people."""
        return self.store.url(self.key(*parts))

    def checkpoints(self) -> Dict[int, Dict[str, int]]:
        """Return {step: {file: bytes}} of all checkpoints there, whole or not, by one listing."""
        folder = self.key(uploader.FOLDER) + "/"
        found: Dict[int, Dict[str, int]] = {}
        for key, size in self.store.sizes(folder[:-1]).items():
            name, _, part = key[len(folder) :].partition("/")
            number = uploader.step_of(name)
            if part and name == checkpoints.name_of(number):
                found.setdefault(number, {})[part] = size
        return found

    def read(self, number, part):
        """Return the bytes of a checkpoint's small file, or None."""
        return self.store.read(self.key(uploader.FOLDER, checkpoints.name_of(number), part))

    def queue(self, run_dir):
        """Return the run directory's record of its uploads to this place; looking at it changes nothing."""
        return UploadQueue(os.path.join(run_dir, "uploads.json"), self.url(uploader.FOLDER))


def _place(context):
    storage = context.config.storage
    return Place(open_storage(storage.uri, storage.endpoint, storage.region), os.path.basename(os.path.abspath(context.run_dir)))


def _owner(run_dir, place):
    """Return the uid of the run that the directory and its place in the storage belong to, or None. Errors: UserError where that is not one run."""
    path = os.path.join(run_dir, "run.json")
    try:
        found = files.read_json(path)
        here = None if found is None else found["uid"]
    except (ValueError, KeyError, TypeError):
        raise UserError("{} is damaged: restore it, or choose another --run-dir".format(path)) from None
    there = uploader.run_of(place.store, place.prefix)
    if here and there and here != there:
        text = "{} belongs to another run (uid {}, that of {} is {}): choose another --run-dir or storage.uri"
        raise UserError(text.format(place.url(), there, run_dir, here))
    return here or there


def _here(run_dir):
    return {checkpoints.step_of(directory): directory for directory in checkpoints.listed(run_dir)}


def _whole(there):
    """Return the steps of those in the storage that have a manifest, newest first."""
    return sorted((number for number, parts in there.items() if checkpoints.MANIFEST in parts), reverse=True)


def _leftovers(run_dir):
    """Return the temporary directories that killed saves and fetches have left, or that one which is under way uses."""
    folder = checkpoints.folder(run_dir)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in sorted(names) if name.startswith(".step-")]


def _best(count, here, place, there):
    """Return the steps of the best `count` evaluations, by the newest state.json of {step: directory} `here` and of the steps `there`."""
    for number in sorted(set(here) | set(there), reverse=True) if count else ():
        try:
            if number in here:
                found = checkpoints.state(here[number])
            else:
                found = json.loads((place.read(number, checkpoints.STATE) or b"").decode("utf-8"))
            return RunState(number, 0, evaluations=found.get("evaluations", [])).best(count)
        except (OSError, ValueError, TypeError, AttributeError, IndexError) as error:
            log.warning("the evaluations in %s of %s cannot be read: %s", checkpoints.STATE, checkpoints.name_of(number), error)
    return []


def _plural(count, what):
    return "{} {}{}".format(count, what, "" if count == 1 else "s")


def _say(text):
    print(text, flush=True)


def _say_wrapped(text, indent=""):
    _say(textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False, break_on_hyphens=False))


def _line(side, what, words=""):
    """Return what all verbs call a checkpoint on one of the two sides."""
    return "{:6}  {}{}".format(side, what, words)


# ---- list


def _list(context):
    seen = _survey(context)
    if context.arguments.json:
        _say(files.json_bytes(seen).decode("utf-8").rstrip())
    else:
        _print_survey(seen)
    counts = {"checkpoints": len(seen["checkpoints"]), "storage_problem": seen["storage_problem"]}
    return step.Result(outputs=[], figures=dict(counts, unfinished=seen["unfinished"]))


def _survey(context):
    """Return the JSON-able answer of `list`: the run directory by sizes, the storage by one listing and its two small records."""
    run_dir, place = context.run_dir, _place(context)
    seen: Dict[str, Any] = {"v": 1, "run_dir": os.path.abspath(run_dir), "storage": place.url(), "storage_problem": None}
    seen.update(lease=None, latest=None)
    there = None
    try:
        seen["lease"] = _lease_facts(leases.read(place.store, place.prefix))
        seen["latest"] = uploader.json_object(place.store.read(place.key(uploader.LATEST))) or None
        there = place.checkpoints()
        _owner(run_dir, place)
    except (TransientError, UserError) as error:
        seen["storage_problem"] = str(error)
    seen["storage_listed"] = there is not None
    seen["lock"] = _lock_facts(os.path.join(run_dir, step.RUN_LOCK))
    here = _here(run_dir)
    sizes = {number: _looks(directory) for number, directory in here.items()}
    sizes = {number: looks for number, looks in sizes.items() if os.path.isdir(here[number])}  # a trainer's retention may have been at it
    good = {number: directory for number, directory in here.items() if number in sizes and not sizes[number][1]}
    best = []
    with contextlib.suppress(TransientError, UserError):  # the storage went away in between: this much less is known
        best = _best(max(1, context.config.checkpoint.keep_best), good, place, _whole(there or {}))
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
    leftovers = [os.path.basename(directory) for directory in _leftovers(run_dir)]
    incomplete = [row["name"] for row in seen["checkpoints"] if row["remote"] == INCOMPLETE]
    seen["unfinished"] = {"local": leftovers, "remote": incomplete}
    return seen


def _looks(directory):
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
    holder = locks._read(path)  # the lock itself is not touched: a trainer that starts at this moment must not find it held
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


def _print_survey(seen):
    form = "{:>9}  {:15}  {:10}  {:8}  {:>15}  {}"
    if seen["checkpoints"]:
        _say(form.format("step", "local", "remote", "upload", "bytes", "note"))
    for row in seen["checkpoints"]:
        line = form.format(row["step"], row["local"], row["remote"], row["upload"], "{:,}".format(row["bytes"]), ", ".join(row["notes"]))
        _say(line.rstrip())
        if row["problem"]:
            _say_wrapped("local: " + row["problem"], indent=" " * 11)
        if row["upload"] == FAILED:
            _say_wrapped("upload failed: " + row["reason"], indent=" " * 11)
    if not seen["checkpoints"]:
        _say_wrapped("no checkpoints in {}{}".format(seen["run_dir"], " or {}".format(seen["storage"]) if seen["storage_listed"] else ""))
    _say("")
    _say_wrapped("lock         {}".format(_lock_words(seen["lock"])))
    if seen["storage_problem"]:
        words = "" if seen["storage_listed"] else "{} cannot be read now: ".format(seen["storage"])
        _say_wrapped("storage      {}{}".format(words, seen["storage_problem"]))
    if seen["storage_listed"]:
        _say_wrapped("lease        {}".format(_lease_words(seen["lease"])))
        _say_wrapped("latest.json  {}".format("points to {}".format(seen["latest"].get("checkpoint")) if seen["latest"] else "there is none"))
    unfinished = ["{} here".format(name) for name in seen["unfinished"]["local"]]
    unfinished += ["{} in the storage".format(name) for name in seen["unfinished"]["remote"]]
    _say_wrapped("unfinished   {}".format(", ".join(unfinished) or "nothing"))


def _lock_words(lock):
    if lock is None or lock["state"] == "released":
        return "free: nobody works on this run directory"
    if lock["alive"] is False:
        return "free: {} has ended without giving it back".format(lock["name"])
    words = "held by {}".format(lock["name"]) + (", which is leaving" if lock["state"] == "leaving" else "")
    return words + (", on another machine: whether it is alive is not known here" if lock["alive"] is None else "")


def _lease_words(lease):
    if lease is None or lease.get("state") == "released":
        return "free: nobody trains in this place of the storage"
    return "held by {}{}".format(lease["name"], ", but it has run out" if lease["has_run_out"] else "")


# ---- verify


def _verify(context):
    run_dir, (local, far) = context.run_dir, _sides(context.arguments)
    wanted, place = set(context.arguments.steps), _place(context)
    here, damaged, counted = _here(run_dir) if local else {}, [], 0
    there, trouble = {}, None
    try:
        if far:
            _owner(run_dir, place)
            there = place.checkpoints()
        _refuse_unknown(wanted, [here, there], run_dir, place, (local, far))
    except TransientError as error:
        log.warning("%s cannot be read: %s", place.url(), error)
        trouble = error
    for number in sorted(set(here) & (wanted or set(here)), reverse=True):
        why = _problem_here(here[number])
        counted += _verdict("local", number, why, damaged)
    queue = place.queue(run_dir)
    try:
        for number in sorted(set(there) & (wanted or set(there)), reverse=True):
            counted += _verdict("remote", number, _problem_there(place, number, there[number], queue), damaged)
    except TransientError as error:
        trouble = error
    if damaged:
        unread = "; the storage could not be read to the end: {}".format(trouble) if trouble else ""
        raise RunFailed("{} of {} damaged: {}{}".format(len(damaged), _plural(counted, "checkpoint"), ", ".join(damaged), unread))
    if trouble:
        raise trouble
    _say("{} read, all good".format(_plural(counted, "checkpoint")) if counted else "no checkpoints to verify")
    return step.Result(outputs=[], figures={"verified": counted})


_GONE, _NOT_YET = "removed meanwhile", "incomplete: its upload has not ended"
"""What is not there is not damaged."""


def _problem_here(directory):
    path = os.path.join(directory, checkpoints.MANIFEST)
    was_whole = os.path.exists(path)
    why = checkpoints.problem(directory)
    return _GONE if why and was_whole and not os.path.exists(path) else why  # by the retention of a trainer, its manifest first


def _problem_there(place, number, parts, queue):
    name = checkpoints.name_of(number)
    if checkpoints.MANIFEST not in parts:
        return "{} is missing, and yet it was uploaded".format(checkpoints.MANIFEST) if name in queue.names(UPLOADED) else _NOT_YET
    why = remote.problem(place.store, place.prefix, name)
    return _GONE if why and place.read(number, checkpoints.MANIFEST) is None else why


def _verdict(side, number, why, damaged):
    """Print one line; return 1 where it counts as verified."""
    _say(_line(side, checkpoints.name_of(number), "  " + (why or "ok")))
    if why in (_GONE, _NOT_YET):
        return 0
    if why:
        damaged.append("{} {}".format(side, checkpoints.name_of(number)))
    return 1


def _sides(arguments):
    """Return whether the run directory and the storage are meant; without either option, both are."""
    return arguments.local or not arguments.remote, arguments.remote or not arguments.local


def _refuse_unknown(wanted, known, run_dir, place, sides):
    """Refuse steps of which there is no checkpoint on any of the sides that are meant."""
    unknown = sorted(wanted - set().union(*known))
    if unknown:
        where = [where for where, meant in zip((checkpoints.folder(run_dir), place.url(uploader.FOLDER)), sides) if meant]
        have = ", ".join(str(number) for number in sorted(set().union(*known), reverse=True)[:5]) or "none"
        raise UserError("no checkpoint of step {} in {}: there are {}".format(", ".join(str(number) for number in unknown), " or ".join(where), have))


# ---- fetch


def _fetch(context):
    run_dir, place, accept = context.run_dir, _place(context), context.config.checkpoint.foreign == "accept"
    uid = _owner(run_dir, place)
    steps, wanted = _whole(place.checkpoints()), context.arguments.step
    if not steps:
        raise UserError("{} holds no checkpoint: check storage.uri, and --run-dir, whose name is that of the run there".format(place.url()))
    if wanted is not None:
        _refuse_unknown({wanted}, [steps], run_dir, place, (False, True))
        steps = [wanted]
    for number in steps:
        target = os.path.join(checkpoints.folder(run_dir), checkpoints.name_of(number))
        was_here = checkpoints.problem(target) is None
        if not was_here and not accept:
            _refuse_foreign(place, number, uid, context.config)
        directory = remote.fetch(place.store, place.prefix, checkpoints.name_of(number), run_dir)
        if directory:
            break
    else:
        raise RunFailed(
            "nothing was fetched: {} in {} damaged; `verify --remote` says what is wrong".format(
                checkpoints.name_of(steps[0]) if wanted is not None else "all of the {}".format(_plural(len(steps), "checkpoint")),
                place.url() + (" is" if wanted is not None else " are"),
            )
        )
    checkpoints.check_is_of(directory, uid, context.config, accept=accept)
    remote.fetch_journal(place.store, place.prefix, run_dir)
    if uid and not os.path.exists(os.path.join(run_dir, "run.json")):
        files.write_json(os.path.join(run_dir, "run.json"), {"v": 1, "uid": uid})
    if was_here:
        log.info("%s is here already, and good", directory)
    _say(os.path.abspath(directory))
    manifest = os.path.join(directory, checkpoints.MANIFEST)  # the digests of all other files are in it
    return step.Result(outputs=[manifest], figures={"step": checkpoints.step_of(directory), "fetched": not was_here, "from": place.url()})


def _refuse_foreign(place, number, uid, config):
    """Refuse a checkpoint in the storage of another run or configuration before gigabytes of it are here."""
    name = checkpoints.name_of(number)
    with tempfile.TemporaryDirectory() as folder:
        directory = os.path.join(folder, name)
        os.mkdir(directory)
        try:
            place.store.get(place.key(uploader.FOLDER, name, checkpoints.STATE), os.path.join(directory, checkpoints.STATE))
            checkpoints.check_is_of(directory, uid, config)
        except UserError as error:
            raise UserError(str(error).replace(directory, place.url(uploader.FOLDER, name))) from None
        except (FileNotFoundError, ValueError, AttributeError):  # damaged, which is for the fetch to find and to name
            return


# ---- prune


class _Removal(NamedTuple):
    """Something that is to go."""

    what: str
    action: Callable[[], Any]


def _prune(context):
    arguments, run_dir, (local, far) = context.arguments, context.run_dir, _sides(context.arguments)
    place, dry = _place(context), context.arguments.dry_run
    if arguments.even_if_not_uploaded and not arguments.steps:
        raise UserError("--even-if-not-uploaded: name the steps that are to go")
    with contextlib.ExitStack() as stack:
        lease = there = None
        try:
            uid, there = _owner(run_dir, place), place.checkpoints()
            if far and not dry and (uid or there):
                lease = leases.acquire(
                    place.store,
                    place.prefix,
                    uid,
                    context.lock.holder,
                    context.config.storage.lease_seconds,
                    gone=locks.gone_tokens(context.lock),
                    take_over=arguments.take_over,
                )
                stack.callback(lease.close)
                there = place.checkpoints()  # nobody else writes there from now on
        except (TransientError, UserError) as error:
            if far:
                raise
            log.warning("%s cannot be read (%s): going by uploads.json", place.url(), error)
        wanted, here = set(arguments.steps), _here(run_dir)
        _refuse_unknown(wanted, [here] * local + [there or {}] * far, run_dir, place, (local, far))
        newest = checkpoints.newest_good(run_dir)
        good = {} if newest is None else {checkpoints.step_of(newest): newest}
        best = _best(context.config.checkpoint.keep_best, good, place, _whole(there or {}))
        queue, removals = place.queue(run_dir), []
        if local:
            removals += _local_removals(context, place, here, there, max(good, default=None), best, queue)
        if far:
            removals += _remote_removals(context, place, here, there, best, queue, lease)
        for removal in removals:
            if not dry:
                removal.action()
            _say("{} {}".format("would remove" if dry else "removed", removal.what))
        aborted = 0
        if lease and not wanted:
            lease.confirm()
            aborted = place.store.abort_uploads(place.prefix)
        if aborted:
            _say("removed " + _line("remote", _plural(aborted, "unfinished upload")))
        if not removals and not aborted:
            _say("nothing to remove")
    return step.Result(outputs=[], figures={"dry_run": dry, "removed": [] if dry else [removal.what for removal in removals]})


def _local_removals(context, place, here, there, newest, best, queue):
    """Return what goes from the run directory; newest: step of the newest good checkpoint there, or None."""
    rule, wanted, arguments = context.config.checkpoint, set(context.arguments.steps), context.arguments
    if wanted:
        _refuse_newest(wanted, newest, checkpoints.folder(context.run_dir))
        goes = sorted(wanted & set(here))
    else:
        # A damaged one neither pushes out a good one nor stays where a good one would not; what is newer than the newest good one, a person judges.
        steps = [number for number in here if newest is not None and number <= newest]
        good = [number for number in steps if not _looks(here[number])[1]]
        start = context.config.train.start_step
        pushed_out = retention.superfluous(good, rule.keep_last, rule.keep_every, start, best)
        goes = retention.superfluous(steps, rule.keep_last, rule.keep_every, start, best)
        goes = [number for number in goes if number in pushed_out or number not in good]
        if not rule.keep_last:
            _say("checkpoint.keep_last=0: all local checkpoints stay")
    removals = []
    for number in goes:
        name, why = checkpoints.name_of(number), _not_uploaded(here[number], place, there, queue)
        if why and wanted and not arguments.even_if_not_uploaded:
            raise UserError("{} is not removed: {}; add --even-if-not-uploaded to give it up".format(here[number], why))
        if why and not (wanted and arguments.even_if_not_uploaded):
            _say("stays " + _line("local", name, ": " + why))
            continue
        removals.append(_Removal(_line("local", name), functools.partial(_remove_here, here[number], queue if why else None)))
    if not wanted:
        for path in _leftovers(context.run_dir):
            removals.append(_Removal(_line("local", os.path.basename(path), " (left by a killed save)"), functools.partial(shutil.rmtree, path)))
    return removals


def _remove_here(directory, queue):
    """Remove a local checkpoint; queue: where it has not been uploaded and is given up."""
    checkpoints.remove(directory)
    if queue:
        queue.forget(os.path.basename(directory))  # or the next trainer would miss it


def _not_uploaded(directory, place, there, queue):
    """Return why a local checkpoint is not known to be in the storage, or "". there: None where the storage cannot be read."""
    name = os.path.basename(directory)
    if name in queue.names(WAITING):
        return "it waits for its upload"
    if name in queue.names(FAILED):
        return "its upload failed: {}".format(queue.reason(name))
    if name in queue.names(REMOVED):
        return ""  # it was there, until the retention of the storage let it go
    if there is None:
        return "" if name in queue.names(UPLOADED) else "uploads.json does not say that it was uploaded"
    number = checkpoints.step_of(directory)
    if checkpoints.MANIFEST not in there.get(number, {}):
        return "it is not in the storage"
    with contextlib.suppress(FileNotFoundError), open(os.path.join(directory, checkpoints.MANIFEST), "rb") as f:
        if f.read() != place.read(number, checkpoints.MANIFEST) and checkpoints.problem(directory) is None:
            return "the storage has another checkpoint of this name"
    return ""


def _remote_removals(context, place, here, there, best, queue, lease):
    """Return what goes from the storage: checkpoints, the manifest first, unfinished ones, and a pointer to what is gone."""
    config, wanted, whole = context.config, set(context.arguments.steps), _whole(there)
    keep = uploader.retained_by(config.storage, config.train.start_step, lambda: best)
    newest = None
    if wanted & set(there) or (keep and not wanted):  # reads every byte of one checkpoint
        newest = next((n for n in whole if remote.problem(place.store, place.prefix, checkpoints.name_of(n)) is None), None)
    if wanted:
        _refuse_newest(wanted & set(there), newest, place.url(uploader.FOLDER))
        goes = sorted(wanted & set(there))
    else:
        goes = keep({number for number in whole if newest is not None and number <= newest}) if keep else []
        if not keep:
            _say("storage.keep_last=0: all remote checkpoints stay")
        for number in sorted(set(there) - set(whole)):
            if whole and number < whole[0] and checkpoints.name_of(number) in queue.names(WAITING, FAILED) and number in here:
                _say("stays " + _line("remote", checkpoints.name_of(number), " (incomplete): the next trainer finishes its upload"))
            elif whole and number < whole[0]:
                goes.append(number)

    removals = []
    latest = uploader.json_object(place.store.read(place.key(uploader.LATEST)))
    if latest.get("step") in goes:  # first, so that it never points to nothing; the next upload writes it again
        removals.append(_Removal(_line("remote", uploader.LATEST), functools.partial(_delete, place, uploader.LATEST, lease)))
    for number in sorted(goes):
        name = checkpoints.name_of(number)
        what = _line("remote", name, "" if number in whole else " (incomplete)")
        removals.append(_Removal(what, functools.partial(_remove_there, place, name, here.get(number), queue, lease)))
    return removals


def _remove_there(place, name, directory, queue, lease):
    lease.confirm()
    uploader.remove(place.store, place.prefix, name)
    if name in queue.names(WAITING, FAILED):
        queue.set_sent(name, ())  # nothing of it has arrived any more
        return
    if directory and name not in queue.names(UPLOADED, REMOVED):  # or the next trainer of this directory would upload it
        with contextlib.suppress(FileNotFoundError):
            queue.add(name, files.sha256(os.path.join(directory, checkpoints.MANIFEST)))
    queue.finish(name, REMOVED)


def _delete(place, name, lease):
    lease.confirm()
    place.store.delete(place.key(name))


def _refuse_newest(wanted, newest, where):
    if newest in wanted:
        raise UserError("step {} is the newest good checkpoint in {}: it is not removed, the run goes on from it".format(newest, where))


# ---- the commands


def _sides_arguments(parser, verb):
    parser.add_argument("--local", action="store_true", help="{} what is in the run directory; without --remote, only that".format(verb))
    parser.add_argument("--remote", action="store_true", help="{} what is in the storage; without --local, only that".format(verb))


def _list_arguments(parser):
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")


def _verify_arguments(parser):
    _sides_arguments(parser, "verify")
    parser.add_argument("steps", nargs="*", type=int, metavar="STEP", help="verify only the checkpoints of these steps; default: all")


def _fetch_arguments(parser):
    parser.add_argument("step", nargs="?", type=int, metavar="STEP", help="the step of the checkpoint to fetch; default: the newest good one")


def _prune_arguments(parser):
    _sides_arguments(parser, "prune")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    parser.add_argument("--even-if-not-uploaded", action="store_true", help="with STEP: remove it from the run directory although it is nowhere else")
    parser.add_argument("--take-over", action="store_true", help="replace a trainer on another machine that is gone: once its lease has run out")
    parser.add_argument("steps", nargs="*", type=int, metavar="STEP", help="remove the checkpoints of exactly these steps; default: by retention")


def _told(run):
    """Tell an error of the disk in a sentence instead of a traceback."""

    def told(context):
        try:
            return run(context)
        except OSError as error:
            raise RunFailed("{}: {}".format(error.filename or context.run_dir, error.strerror or error)) from error

    return told


def _step(verb, description, run, arguments, lock=""):
    return step.Step("checkpoints_" + verb, description, lambda context: {}, _told(run), arguments, lock=lock, always=True)


STEPS = {
    "list": _step(
        "list",
        "List the checkpoints of a run, here and in its storage, and who works on it. Changes neither; works while it trains.",
        _list,
        _list_arguments,
    ),
    "verify": _step(
        "verify",
        "Read every byte of the checkpoints and compare it with their manifests. Exits 1 where one is damaged; works while the run trains.",
        _verify,
        _verify_arguments,
    ),
    "fetch": _step(
        "fetch",
        "Bring a checkpoint from the storage to the run directory, verified, and print its directory.",
        _fetch,
        _fetch_arguments,
        lock=step.RUN_LOCK,
    ),
    "prune": _step(
        "prune",
        "Remove the checkpoints that the retention (checkpoint.keep_*, storage.keep_*) lets go, and what killed saves and uploads have left.",
        _prune,
        _prune_arguments,
        lock=step.RUN_LOCK,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
