"""Named points inside saving, uploading and changing pointers, at which a trainer can be killed: hooks for a child process, none in the product.

A point lies just before or just after a call: of a file system operation on a certain name, or of the storage's operation on a certain key. The n-th
time that it is reached, the process sends itself SIGKILL, so nothing after it happens, not even in other threads.
"""

import os
import re
import signal
from typing import Any, Callable, NamedTuple

from mtc import files, lock
from mtc.storage import lease, local, s3, upload_queue
from mtc.training import bundle, checkpoints, remote


class Point(NamedTuple):
    """A call at which to die."""

    owner: Any
    call: str
    wanted: Callable[..., bool]
    """Of the call's arguments."""
    when: str
    """before or after."""


def _path(pattern, position=0):
    return lambda *arguments, **_: bool(re.search(pattern, str(arguments[position])))


def _both(name, owner, call, wanted):
    return {"{} {}".format(when, name): Point(owner, call, wanted, when) for when in ("before", "after")}


def _stored(name, call, pattern):
    """Points at an operation of whatever storage there is."""
    made = {}
    for kind, owner in (("folder", local.LocalStorage), ("S3", s3.S3Storage)):
        made.update(_both("{} ({})".format(name, kind), owner, call, _path(pattern, 2 if call == "put" else 1)))
    return made


POINTS = {}
POINTS.update(_both("writing the bundle", bundle.BundleWriter, "write", lambda *a, **k: True))
POINTS.update(_both("flushing a file of the checkpoint", checkpoints, "_describe", lambda *a, **k: True))
POINTS.update(_both("writing state.json", files, "write_json", _path(r"state\.json$")))
POINTS.update(_both("writing the local manifest", files, "write_json", _path(r"MANIFEST\.json$")))
POINTS.update(_both("renaming the checkpoint", os, "rename", _path(r"checkpoints/step-\d+$", 1)))
POINTS.update(_both("removing a checkpoint by retention", checkpoints, "remove", lambda *a, **k: True))
POINTS.update(_both("changing the queue of uploads", upload_queue.UploadQueue, "_write", lambda *a, **k: True))
POINTS.update(_both("taking the lock", lock.Lock, "_take", lambda *a, **k: True))
POINTS.update(_both("writing the lease", lease, "_replace", lambda *a, **k: True))
POINTS.update(_both("fetching a checkpoint", remote, "fetch", lambda *a, **k: True))
for _name, _call, _pattern in (
    ("sending a file", "put", r"/step-\d+/"),
    ("writing the remote manifest", "write", r"MANIFEST\.json$"),
    ("writing latest.json", "write", r"latest\.json$"),
    ("sending the journal", "put", r"metrics\.jsonl$"),
):
    POINTS.update(_stored(_name, _call, _pattern))


def die_at(name, count, touch):
    """Arm the point: the process dies the count-th time that it is reached, after writing its name to the file `touch`."""
    point, reached = POINTS[name], []
    original = getattr(point.owner, point.call)

    def die():
        with open(touch, "w", encoding="utf-8") as f:
            f.write(name)
        os.kill(os.getpid(), signal.SIGKILL)

    def hooked(*arguments, **options):
        if not point.wanted(*arguments, **options):
            return original(*arguments, **options)
        reached.append(1)
        if len(reached) == count and point.when == "before":
            die()
        result = original(*arguments, **options)
        if len(reached) == count:
            die()
        return result

    setattr(point.owner, point.call, hooked)
