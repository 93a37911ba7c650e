"""Uploads checkpoints beside the training loop: one thread, one queue, no step ever waits.

A checkpoint goes to `<prefix>/checkpoints/<name>/`, its MANIFEST.json last, so that a remote checkpoint with a manifest is a whole one, and then
`<prefix>/latest.json` points at it. What is there already, with the same manifest, is not sent again, so a resumed run submits all it has.
Errors that may pass are retried with growing, jittered pauses; what only a person can mend fails at once and is reported, never raised.
"""

import json
import logging
import os
import queue
import random
import threading
import time

from mtc.errors import UserError
from mtc.storage import TransientError

log = logging.getLogger("mtc.storage")

MANIFEST = "MANIFEST.json"
LONGEST_PAUSE = 60.0


class _Damaged(Exception):
    """The local checkpoint is not what its manifest says: no try will mend it."""


class Uploader:
    """Sends checkpoint directories to a `Storage` from a daemon thread.

    `on_event(kind, **facts)` is called from that thread: "uploaded" (checkpoint, step, uri, bytes, seconds, skipped), "retry" (checkpoint,
    attempt, pause in seconds, reason) and "failed" (checkpoint, reason). `tries` is how often a checkpoint is tried; the pause after try n is at
    most `pause` * 2^n seconds. `problem(directory)`, a sentence or None, is asked before a checkpoint is sent: one that was damaged on this
    machine is told and left out.
    """

    def __init__(self, storage, prefix, on_event=None, tries=8, pause=1.0, problem=None):
        self._storage, self._prefix = storage, prefix.strip("/")
        self._on_event, self._tries, self._pause = on_event, tries, pause
        self._problem = problem or (lambda directory: None)
        self._queue = queue.Queue()
        self._changed = threading.Condition()
        self._pending, self._failed = 0, []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="uploader", daemon=True)
        self._thread.start()

    def submit(self, directory):
        """Queue a finished checkpoint directory and return at once."""
        if self._closing.is_set():
            raise RuntimeError("the uploader is closed")
        with self._changed:
            self._pending += 1
        self._queue.put(os.path.abspath(str(directory)))

    def pending(self):
        """Number of checkpoints that are queued or under way."""
        with self._changed:
            return self._pending

    def wait(self, timeout=None):
        """Wait until nothing is pending, at most `timeout` seconds; return the names of the checkpoints that failed for good so far."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, timeout)
            return list(self._failed)

    def close(self, timeout=10.0):
        """Stop: end a pause at once, give a running transfer `timeout` seconds; what has not been sent by then counts as failed."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout)

    def _work(self):
        for directory in iter(self._queue.get, None):
            name = os.path.basename(directory)
            try:
                reason = self._upload_patiently(directory, name)
            except Exception as error:  # a bug or a broken checkpoint must not end the uploads that follow
                log.exception("upload of checkpoint %s failed", name)
                reason = "{}: {}".format(type(error).__name__, error)
            if reason:
                log.error("checkpoint %s is not uploaded: %s", name, reason)
                self._tell("failed", checkpoint=name, reason=reason)
            with self._changed:
                self._failed = [other for other in self._failed if other != name] + ([name] if reason else [])
                self._pending -= 1
                self._changed.notify_all()

    def _upload_patiently(self, directory, name):
        """Upload with retries; return "" or the reason why it failed for good."""
        sent = set()
        for attempt in range(1, self._tries + 1):
            if self._closing.is_set():
                return "the run ended before it was sent"
            started = time.monotonic()
            try:
                facts = self._upload(directory, name, sent)
            except _Damaged as error:
                log.warning("checkpoint %s is damaged and not uploaded: %s", name, error)
                self._tell("failed", checkpoint=name, reason="damaged: {}".format(error))
                return ""
            except UserError as error:
                return str(error)
            except FileNotFoundError as error:
                return "a file is missing: {}".format(error.filename or error)
            except TransientError as error:
                reason = str(error)
            else:
                self._tell("uploaded", checkpoint=name, seconds=round(time.monotonic() - started, 3), **facts)
                return ""
            if attempt < self._tries:
                pause = min(LONGEST_PAUSE, self._pause * 2**attempt) * random.uniform(0.5, 1)
                log.warning("upload of checkpoint %s: %s; next try in %.0f s (%d of %d)", name, reason, pause, attempt + 1, self._tries)
                self._tell("retry", checkpoint=name, attempt=attempt, pause=round(pause, 3), reason=reason)
                self._closing.wait(pause)
        return "{} tries failed, the last one with: {}".format(self._tries, reason)

    def _upload(self, directory, name, sent):
        """Bring the remote checkpoint to the state of the local one; `sent` holds what earlier tries have sent. Return the facts of the event."""
        manifest, step, sizes = _read_checkpoint(directory)
        folder = self._key("checkpoints", name)
        remote = self._storage.read(folder + "/" + MANIFEST)
        if remote != manifest:
            problem = self._problem(directory)
            if problem:
                raise _Damaged(problem)
            if remote is not None:
                # The manifest of another checkpoint of this name must not vouch for a mixture of old and new files.
                self._storage.delete(folder + "/" + MANIFEST)
            for file_name in sorted(set(sizes) - sent):
                self._storage.put(os.path.join(directory, file_name), folder + "/" + file_name)
                sent.add(file_name)
            self._check_arrival(folder, sizes, sent)
            self._storage.write(folder + "/" + MANIFEST, manifest)
        self._point_latest(name, step, folder)
        return {"step": step, "uri": self._storage.url(folder), "bytes": sum(sizes.values()), "skipped": remote == manifest}

    def _check_arrival(self, folder, sizes, sent):
        """Compare what has arrived with what was sent; leftovers of an older checkpoint of this name go."""
        there = self._storage.sizes(folder)
        for key in there:
            if key[len(folder) + 1 :] not in sizes:
                self._storage.delete(key)
        for file_name, size in sizes.items():
            if there.get(folder + "/" + file_name) != size:
                sent.discard(file_name)
                raise TransientError(
                    "{} arrived with {} of {} bytes".format(self._storage.url(folder + "/" + file_name), there.get(folder + "/" + file_name, 0), size)
                )

    def _point_latest(self, name, step, folder):
        """Let latest.json name the checkpoint of the highest step; a late upload of an old one does not turn it back."""
        key = self._key("latest.json")
        latest = _json_object(self._storage.read(key))
        uri = self._storage.url(folder)
        if latest.get("step", -1) > step or (latest.get("step"), latest.get("uri")) == (step, uri):
            return
        pointer = {"step": step, "checkpoint": name, "uri": uri, "time": round(time.time(), 3)}
        self._storage.write(key, (json.dumps(pointer, sort_keys=True) + "\n").encode("utf-8"))

    def _key(self, *parts):
        return "/".join(part for part in (self._prefix,) + parts if part)

    def _tell(self, kind, **facts):
        if self._on_event is None:
            return
        try:
            self._on_event(kind, **facts)
        except Exception:  # the listener's mistake must not cost the upload
            log.exception("listener of upload events failed on '%s'", kind)


def claim_prefix(storage, prefix, run_uid):
    """Mark `<prefix>` in the storage as this run's; UserError where it belongs to another run, so that no two runs mix their checkpoints."""
    key = "/".join(part for part in (prefix.strip("/"), "run.json") if part)
    if storage.read(key) is None:
        storage.write(key, (json.dumps({"uid": run_uid}) + "\n").encode("utf-8"))
    owner = _json_object(storage.read(key)).get("uid")  # read again: of two runs that start together one wins
    if owner != run_uid:
        raise UserError(
            "{} belongs to another run (uid {}, this one is {}): choose another name or storage.uri, or remove that folder".format(
                storage.url(key.rpartition("/")[0]), owner, run_uid
            )
        )


def _read_checkpoint(directory):
    """Return the manifest's bytes, the step, and {name: bytes} of the other files; UserError where they are not as it says."""
    path = os.path.join(directory, MANIFEST)
    with open(path, "rb") as f:
        raw = f.read()
    manifest = _json_object(raw)
    step, listed = manifest.get("step"), manifest.get("files")
    if not isinstance(step, int) or not isinstance(listed, dict) or not listed:
        raise UserError("{}: expected the keys 'step' and 'files'; the checkpoint is not whole".format(path))
    with os.scandir(directory) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file() and entry.name != MANIFEST}
    for name, facts in listed.items():
        size, path = facts["bytes"], os.path.join(directory, name)
        if sizes.get(name) != size:
            raise UserError("{} has {} bytes, its manifest says {}: the checkpoint is damaged".format(path, sizes.get(name, 0), size))
    return raw, step, sizes


def _json_object(data):
    """Return the JSON object in `data`, or {} where it is None or anything else."""
    try:
        value = json.loads(data.decode("utf-8")) if data is not None else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
