"""Which checkpoints of a run can go, on each side, and how each goes: decided first, done after, so that a refusal leaves all as it was.

A checkpoint that is nowhere else stays, and so does the newest good one, which the run goes on from.
"""

import contextlib
import functools
import os
import shutil
from typing import Any, Callable, NamedTuple

from mtc import files
from mtc.errors import UserError
from mtc.storage import retention, uploader
from mtc.storage.upload_queue import FAILED, REMOVED, UPLOADED, WAITING
from mtc.training import checkpoints, remote, survey
from mtc.training import place as places


def line(side, what, words=""):
    """Return what all verbs call a checkpoint on one of the two sides."""
    return "{:6}  {}{}".format(side, what, words)


class Removal(NamedTuple):
    """Something that is to go."""

    what: str
    action: Callable[[], Any]


def local_removals(context, place, here, there, newest, best, queue, say):
    """Return what goes from the run directory; newest: step of the newest good checkpoint there, or None."""
    rule, wanted, arguments = context.config.checkpoint, set(context.arguments.steps), context.arguments
    if wanted:
        _refuse_newest(wanted, newest, checkpoints.folder(context.run_dir))
        goes = sorted(wanted & set(here))
    else:
        # A damaged one neither pushes out a good one nor stays where a good one would not; what is newer than the newest good one, a person judges.
        steps = [number for number in here if newest is not None and number <= newest]
        good = [number for number in steps if not survey.looks(here[number])[1]]
        start = context.config.train.start_step
        pushed_out = retention.superfluous(good, rule.keep_last, rule.keep_every, start, best)
        goes = retention.superfluous(steps, rule.keep_last, rule.keep_every, start, best)
        goes = [number for number in goes if number in pushed_out or number not in good]
        if not rule.keep_last:
            say("checkpoint.keep_last=0: all local checkpoints stay")
    removals = []
    for number in goes:
        name, why = checkpoints.name_of(number), _not_uploaded(here[number], place, there, queue)
        if why and wanted and not arguments.even_if_not_uploaded:
            raise UserError("{} is not removed: {}; add --even-if-not-uploaded to give it up".format(here[number], why))
        if why and not (wanted and arguments.even_if_not_uploaded):
            say("stays " + line("local", name, ": " + why))
            continue
        removals.append(Removal(line("local", name), functools.partial(_remove_here, here[number], queue if why else None)))
    if not wanted:
        for path in places.leftovers(context.run_dir):
            removals.append(Removal(line("local", os.path.basename(path), " (left by a killed save)"), functools.partial(shutil.rmtree, path)))
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


def remote_removals(context, place, here, there, best, queue, lease, say):
    """Return what goes from the storage: checkpoints, the manifest first, unfinished ones, and a pointer to what is gone."""
    config, wanted, whole = context.config, set(context.arguments.steps), places.whole(there)
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
            say("storage.keep_last=0: all remote checkpoints stay")
        for number in sorted(set(there) - set(whole)):
            if whole and number < whole[0] and checkpoints.name_of(number) in queue.names(WAITING, FAILED) and number in here:
                say("stays " + line("remote", checkpoints.name_of(number), " (incomplete): the next trainer finishes its upload"))
            elif whole and number < whole[0]:
                goes.append(number)

    removals = []
    latest = uploader.json_object(place.store.read(place.key(uploader.LATEST)))
    if latest.get("step") in goes:  # first, so that it never points to nothing; the next upload writes it again
        removals.append(Removal(line("remote", uploader.LATEST), functools.partial(_delete, place, uploader.LATEST, lease)))
    for number in sorted(goes):
        name = checkpoints.name_of(number)
        what = line("remote", name, "" if number in whole else " (incomplete)")
        removals.append(Removal(what, functools.partial(_remove_there, place, name, here.get(number), queue, lease)))
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
