"""A run's checkpoints on both sides: the run directory and the run's place in the storage, seen without TensorFlow."""

import json
import logging
import os
from typing import Dict, NamedTuple

from mtc import files
from mtc.errors import UserError
from mtc.storage import Storage, join_key, open_storage, uploader
from mtc.storage.upload_queue import UploadQueue
from mtc.training import checkpoints
from mtc.training.state import RunState

log = logging.getLogger("mtc.checkpoints")


class Place(NamedTuple):
    """A run's place in the storage."""

    store: Storage
    prefix: str

    def key(self, *parts):
        """Return the key of something in it."""
        return join_key(self.prefix, *parts)

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
                parts = found.setdefault(number, {})
                if part != checkpoints.MANIFEST or uploader.vouches(size):
                    parts[part] = size
        return found

    def read(self, number, part):
        """Return the bytes of a checkpoint's small file, or None."""
        return self.store.read(self.key(uploader.FOLDER, checkpoints.name_of(number), part))

    def queue(self, run_dir):
        """Return the run directory's record of its uploads to this place; looking at it changes nothing."""
        return UploadQueue(os.path.join(run_dir, "uploads.json"), self.url(uploader.FOLDER))


def place_of(context):
    """Return the `Place` of a step's context: where its run's checkpoints go."""
    storage = context.config.storage
    return Place(open_storage(storage.uri, storage.endpoint, storage.region), os.path.basename(os.path.abspath(context.run_dir)))


def owner(run_dir, place):
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


def here_in(run_dir):
    """Return {step: directory} of all checkpoints in a run directory, good or not."""
    return {checkpoints.step_of(directory): directory for directory in checkpoints.listed(run_dir)}


def whole(there):
    """Return the steps of those in the storage that have a manifest, newest first."""
    return sorted((number for number, parts in there.items() if checkpoints.MANIFEST in parts), reverse=True)


def leftovers(run_dir):
    """Return the temporary directories that killed saves and fetches have left, or that one which is under way uses."""
    folder = checkpoints.folder(run_dir)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in sorted(names) if name.startswith(".step-")]


def best(count, here, place, there):
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
