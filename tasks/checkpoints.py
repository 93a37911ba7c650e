"""`python -m tasks.checkpoints list|verify|fetch|prune`: what a run has saved, here and in its storage, without TensorFlow.

`list` and `verify` only look: they work while the run is training, and change nothing in the storage. `fetch` and `prune` change the run directory,
so they hold the run's lock, and `prune` of the storage the lease on the run's place in it, too: a trainer keeps them out, wherever it runs, and they
keep it out. What is removed is decided before anything is: a refusal leaves all as it was.
"""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import textwrap

from mtc import files
from mtc import lock as locks
from mtc.errors import RunFailed, UserError
from mtc.storage import TransientError, uploader
from mtc.storage import lease as leases
from mtc.storage.upload_queue import FAILED, UPLOADED
from mtc.training import checkpoints, remote, removal, survey
from mtc.training import place as places
from mtc.training.removal import line
from tasks import step

log = logging.getLogger("mtc")

WIDTH = 120
"""Columns of what is printed."""


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


def _plural(count, what):
    return "{} {}{}".format(count, what, "" if count == 1 else "s")


def _say(text):
    print(text, flush=True)


def _say_wrapped(text, indent=""):
    _say(textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False, break_on_hyphens=False))


# ---- list


def _list(context):
    seen = survey.survey(context, os.path.join(context.run_dir, step.RUN_LOCK))
    if context.arguments.json:
        _say(files.json_bytes(seen).decode("utf-8").rstrip())
    else:
        _print_survey(seen)
    counts = {"checkpoints": len(seen["checkpoints"]), "storage_problem": seen["storage_problem"]}
    return step.Result(outputs=[], figures=dict(counts, unfinished=seen["unfinished"]))


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
    wanted, place = set(context.arguments.steps), places.place_of(context)
    here, damaged, counted = places.here_in(run_dir) if local else {}, [], 0
    there, trouble = {}, None
    try:
        if far:
            places.owner(run_dir, place)
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
    _say(line(side, checkpoints.name_of(number), "  " + (why or "ok")))
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
    run_dir, place, accept = context.run_dir, places.place_of(context), context.config.checkpoint.foreign == "accept"
    uid = places.owner(run_dir, place)
    steps, wanted = places.whole(place.checkpoints()), context.arguments.step
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


def _prune(context):
    arguments, run_dir, (local, far) = context.arguments, context.run_dir, _sides(context.arguments)
    place, dry = places.place_of(context), context.arguments.dry_run
    if arguments.even_if_not_uploaded and not arguments.steps:
        raise UserError("--even-if-not-uploaded: name the steps that are to go")
    with contextlib.ExitStack() as stack:
        lease = there = None
        try:
            uid, there = places.owner(run_dir, place), place.checkpoints()
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
        wanted, here = set(arguments.steps), places.here_in(run_dir)
        _refuse_unknown(wanted, [here] * local + [there or {}] * far, run_dir, place, (local, far))
        newest = checkpoints.newest_good(run_dir)
        good = {} if newest is None else {checkpoints.step_of(newest): newest}
        best = places.best(context.config.checkpoint.keep_best, good, place, places.whole(there or {}))
        queue, removals = place.queue(run_dir), []
        if local:
            removals += removal.local_removals(context, place, here, there, max(good, default=None), best, queue, _say)
        if far:
            removals += removal.remote_removals(context, place, here, there, best, queue, lease, _say)
        for one in removals:
            if not dry:
                one.action()
            _say("{} {}".format("would remove" if dry else "removed", one.what))
        aborted = 0
        if lease and not wanted:
            lease.confirm()
            aborted = place.store.abort_uploads(place.prefix)
        if aborted:
            _say("removed " + line("remote", _plural(aborted, "unfinished upload")))
        if not removals and not aborted:
            _say("nothing to remove")
    return step.Result(outputs=[], figures={"dry_run": dry, "removed": [] if dry else [one.what for one in removals]})


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
