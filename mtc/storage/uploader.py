"""Uploads checkpoints beside the training loop: one thread, one queue on disk, no step ever waits.

A checkpoint goes to `<prefix>/checkpoints/<name>/`, its MANIFEST.json last, so that a remote checkpoint with a manifest is a whole one, and then
`<prefix>/latest.json` points at it. Before anything else a mark takes the manifest's place: it says whose files these will be, and that nobody may
write a manifest who has not seen it. They, and what is not a weight, are written on the condition that nobody else has since they were looked at, and
only while the lease on the prefix is held: a trainer that was taken over while it slept, even in the middle of a request, cannot turn back what its
successor has written. (A file of weights that it was sending may still arrive; in deterministic mode it has the same bytes.) The queue
(`mtc.storage.upload_queue`) survives the process, so an upload goes on where a killed one was; what the killed one left half sent in the storage is
aborted. Errors that may pass are retried for as long as the trainer runs; what only a person can mend fails at once, is told, and is tried again by
the next trainer of the run. Nothing here is raised into the training loop but `TakenOver`.
"""

import json
import logging
import os
import threading
import time

from mtc import files
from mtc.errors import TakenOver, UserError
from mtc.storage import Conflict, TransientError, backoff, join_key, retention
from mtc.storage.upload_queue import FAILED, REMOVED, UPLOADED, WAITING, UploadQueue, step_of

log = logging.getLogger("mtc.storage")

_LOOKS = 5
"""Tries to see what is in the storage already: without it, what is sent is found there or not."""

MANIFEST, LATEST, FOLDER = "MANIFEST.json", "latest.json", "checkpoints"

_WEIGHTS = "model"
"""Beginning of the names of a bundle's files."""
_SMALL = 1 << 22
"""Bytes up to which a file is written in one conditional request."""

_MARK_BYTES = 160
"""More than any mark has that stands in the place of a manifest, and less than any manifest."""


class _Damaged(Exception):
    """The local checkpoint is not what its manifest says: no try will mend it."""


class Uploader:
    """Sends checkpoint directories to a `Storage` from a daemon thread."""

    def __init__(self, storage, prefix, queue_path, *, lease, present=(), keep=None, extras=None, on_event=None, problem=None, pause=1.0):
        """Go on with what the queue at `queue_path` holds.

        present: the checkpoint directories that are on this machine: what of them is not in the storage is sent first. lease:
        `mtc.storage.lease.Lease` on the prefix. keep: function of {step} that returns those that the storage's retention lets go, or None. extras:
        {name: path} of files that are sent along with each checkpoint, replacing what was there. on_event(kind, **facts) is called from the thread:
        "uploaded" (checkpoint, step, uri, bytes, seconds, skipped), "retry" (checkpoint, attempt, pause in seconds, reason), "failed" (checkpoint,
        reason), "removed" (checkpoint, step). problem(directory), a sentence or None, is asked before a checkpoint is sent: one that was damaged on
        this machine is told and left out. pause: seconds after a first failed try.
        """
        self._storage, self._prefix, self._lease = storage, prefix.strip("/"), lease
        self._keep, self._extras, self._on_event = keep, extras or {}, on_event
        self._problem, self._pause = problem or (lambda directory: None), pause
        self._queue = UploadQueue(queue_path, storage.url(self._key(FOLDER)))
        self._directories = {}
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._ready, self._busy, self._error = False, False, None
        present = [os.path.abspath(str(directory)) for directory in present]
        for name in set(self._queue.names(WAITING, FAILED)) - {os.path.basename(directory) for directory in present}:
            log.warning("checkpoint %s was not uploaded and is not on this machine any more", name)
            self._queue.forget(name)
        for directory in present:
            self.submit(directory)
        self._present = present
        self._thread = threading.Thread(target=self._work, name="uploader", daemon=True)

    def start(self):
        """Begin; from now on events come."""
        self._thread.start()

    def submit(self, directory, anew=False):
        """Queue a finished checkpoint directory, durably, and return; one that is uploaded already is left alone, unless `anew` is asked for."""
        directory = os.path.abspath(str(directory))
        name = os.path.basename(directory)
        try:
            digest = files.sha256(os.path.join(directory, MANIFEST))
        except OSError as error:
            log.warning("checkpoint %s cannot be uploaded: %s", directory, error)
            return
        with self._changed:
            if self._queue.add(name, digest, anew):
                self._directories[name] = directory
                self._changed.notify_all()

    def check(self):
        """Raise what ended the uploads for good: TakenOver, or a bug."""
        if self._error:
            raise self._error

    def pending(self):
        """Number of checkpoints that wait or are under way."""
        with self._changed:
            return len(self._pending())

    def waiting(self):
        """Return the names of the checkpoints that wait or are under way."""
        with self._changed:
            return self._pending()

    def failed(self):
        """Return {name: reason} of the checkpoints that are on this machine only and that no further try will upload."""
        return {name: self._queue.reason(name) for name in self._queue.names(FAILED)}

    def needed(self):
        """Return the steps of the checkpoints that have to stay on this machine: those that are not in the storage yet."""
        return {step_of(name) for name in self._queue.names(WAITING, FAILED)}

    def wait(self, timeout=None):
        """Wait until nothing is left to send or to remove, or the thread has ended, at most `timeout` seconds. Returns whether nothing is."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle() or self._error, timeout)
            return self._idle()

    def close(self, timeout=10.0):
        """Stop: end a pause at once, give a running transfer `timeout` seconds. What is not sent waits in the queue for the run's next trainer."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout)
        self._queue.flush()

    def _idle(self):
        return self._ready and not self._busy and not self._pending()

    def _pending(self):
        return [name for name in self._queue.names(WAITING) if name in self._directories]

    def _work(self):
        try:
            self._until_it_works("what is there", self._look, tries=_LOOKS)
            with self._changed:
                self._ready = True
                self._changed.notify_all()
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._pending() or self._closing.is_set())
                    if self._closing.is_set():
                        return
                    name, self._busy = self._pending()[0], True
                self._upload_patiently(name)
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
        except TakenOver as error:
            self._end(error)
        except Exception as error:
            log.exception("uploads have ended")
            self._end(error)

    def _end(self, error):
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _upload_patiently(self, name):
        """Upload a checkpoint, however long it takes, unless only a person can help."""
        directory, started = self._directories[name], time.monotonic()
        try:
            facts = self._until_it_works(name, lambda: self._upload(directory, name))
        except _Damaged as error:
            self._give_up(name, "it is damaged: {}".format(error), forget=True)
        except UserError as error:
            self._give_up(name, str(error))
        except FileNotFoundError as error:
            self._give_up(name, "a file is missing: {}".format(error.filename or error), forget=True)
        else:
            if facts is not None:
                self._tell("uploaded", checkpoint=name, seconds=round(time.monotonic() - started, 3), **facts)
                try:
                    self._until_it_works("retention", lambda: self._remove_superfluous(facts["step"]))
                except UserError as error:  # who may write may not always remove; no upload is lost by what stays
                    log.warning("%s: it stays in the storage beyond storage.keep_last", error)

    def _until_it_works(self, what, action, tries=None):
        """Return what action() returns; None where the uploader was closed before it worked, or it did not in so many tries."""
        attempt = 0
        while not self._closing.is_set() and (tries is None or attempt < tries):
            try:
                return action()
            except Conflict as error:  # on the pointer or a manifest: look again, and find out who wrote
                reason = "somebody else wrote {}".format(error)
            except TransientError as error:
                reason = str(error)
            attempt += 1
            pause = backoff.pause(attempt, self._pause)
            log.warning("upload of %s: %s; next try in %.1f s", what, reason, pause)
            self._tell("retry", checkpoint=what, attempt=attempt, pause=round(pause, 3), reason=reason)
            self._closing.wait(pause)
        return None

    def _give_up(self, name, reason, forget=False):
        log.error("checkpoint %s is not uploaded: %s", name, reason)
        if forget:
            self._queue.forget(name)
        else:
            self._queue.finish(name, FAILED, reason)
        self._tell("failed", checkpoint=name, reason=reason)

    def _upload(self, directory, name):
        """Bring the remote checkpoint to the state of the local one. Return the facts of the event."""
        manifest, step, sizes = _read_checkpoint(directory)
        folder = self._key(FOLDER, name)
        self._lease.confirm()
        remote, version = self._storage.read_versioned(folder + "/" + MANIFEST)
        if remote != manifest:
            problem = self._problem(directory)
            if problem:
                raise _Damaged(problem)
            self._lease.confirm()  # this machine may have slept since, and have looked at what a successor has written
            # From here on neither does the manifest of another checkpoint of this name vouch for a mixture, nor can a trainer that was replaced while
            # it slept write the one that it had in hand.
            found, mark = json_object(remote), {"for": files.digest_of([manifest])[1], "fence": self._lease.fence}
            if found.get("for") != mark["for"]:
                self._queue.set_sent(name, ())  # somebody else may have written there since
            if found != mark:
                version = self._write(folder + "/" + MANIFEST, json.dumps(mark, sort_keys=True).encode("ascii"), version)
            sent = self._queue.sent(name)
            for file_name in sorted(set(sizes) - sent):
                send = self._put if file_name.startswith(_WEIGHTS) else self._send
                send(os.path.join(directory, file_name), folder + "/" + file_name)
                sent.add(file_name)
                self._queue.set_sent(name, sent)
            self._check_arrival(name, folder, sizes, sent)
            self._lease.confirm()
            self._write(folder + "/" + MANIFEST, manifest, version)
        self._point_latest(name, step, folder)
        self._queue.finish(name, UPLOADED)
        for extra, path in sorted(self._extras.items()):
            if os.path.isfile(path):
                self._send(path, self._key(extra))
        return {"step": step, "uri": self._storage.url(folder), "bytes": sum(sizes.values()), "skipped": remote == manifest}

    def _send(self, path, key):
        """Send a file: a small one on the condition that nobody else has, a large one until the lease is lost. Errors: Conflict."""
        if os.path.getsize(path) > _SMALL:
            return self._put(path, key)
        with open(path, "rb") as f:
            data = f.read()
        self._lease.confirm()
        there, version = self._storage.read_versioned(key)
        if there != data:
            self._lease.confirm()
            self._write(key, data, version)

    def _put(self, path, key):
        """Send a file, and abandon it where the lease is lost meanwhile, be it in a sleep of this machine."""

        def on_bytes(count):
            try:
                self._lease.confirm()
            except (TransientError, UserError) as error:  # of the lease alone: what is being sent may still arrive
                log.debug("the lease cannot be confirmed: %s", error)

        self._lease.confirm()
        self._storage.put(path, key, on_bytes=on_bytes)

    def _check_arrival(self, name, folder, sizes, sent):
        """Compare what has arrived with what was sent; leftovers of an older checkpoint of this name go."""
        there = self._storage.sizes(folder)
        for key in there:
            if key[len(folder) + 1 :] not in sizes and not key.endswith("/" + MANIFEST):
                self._storage.delete(key)
        for file_name, size in sizes.items():
            if there.get(folder + "/" + file_name) != size:
                self._queue.set_sent(name, sent - {file_name})
                raise TransientError(
                    "{} arrived with {} of {} bytes".format(self._storage.url(folder + "/" + file_name), there.get(folder + "/" + file_name, 0), size)
                )

    def _point_latest(self, name, step, folder):
        """Let latest.json name the checkpoint of the highest step; a late upload of an old one does not turn it back, nor does a stale trainer."""
        key = self._key(LATEST)
        self._lease.confirm()
        data, version = self._storage.read_versioned(key)
        latest = json_object(data)
        if latest.get("fence", 0) > self._lease.fence:
            raise TakenOver("{} was written by a later trainer of this run; this one stops".format(self._storage.url(key)))
        uri = self._storage.url(folder)
        if latest.get("step", -1) > step or (latest.get("step"), latest.get("uri")) == (step, uri):
            return
        pointer = {"v": 1, "step": step, "checkpoint": name, "uri": uri, "fence": self._lease.fence, "time": round(time.time(), 3)}
        self._write(key, (json.dumps(pointer, sort_keys=True) + "\n").encode("utf-8"), version)

    def _write(self, key, data, version):
        """Write where nobody else has written since `version` was read; return the new version. Errors: Conflict."""
        return self._storage.write(key, data, expected=version if self._storage.honours_conditions() else None)

    def _remove_superfluous(self, newest):
        """Apply the storage's retention to what is not newer than the step just sent: what is newer was passed over as damaged, and pushes out
        nothing.
        """
        if self._keep is None:
            return
        there = {step_of(name): name for name in remote_names(self._storage, self._prefix)}
        for step in self._keep({step for step in there if step <= newest}):
            remove(self._storage, self._prefix, there[step], self._lease.confirm)
            self._queue.finish(there[step], REMOVED)
            self._tell("removed", checkpoint=there[step], step=step)

    def _look(self):
        """Abort what an earlier trainer left half sent, and send again what somebody has removed from the storage."""
        self._lease.confirm()
        try:
            count = self._storage.abort_uploads(self._prefix)
            if count:
                log.info("%d unfinished upload%s of an earlier trainer aborted", count, "s" if count > 1 else "")
            there = set(remote_names(self._storage, self._prefix))
        except UserError as error:  # not allowed to list: what is sent will tell
            log.warning("%s", error)
            return
        for directory in self._present:
            name = os.path.basename(directory)
            if name in self._queue.names(UPLOADED) and name not in there:
                self.submit(directory, anew=True)

    def _key(self, *parts):
        return join_key(self._prefix, *parts)

    def _tell(self, kind, **facts):
        if self._on_event is None:
            return
        try:
            self._on_event(kind, **facts)
        except Exception:  # the listener's mistake must not cost the upload
            log.exception("listener of upload events failed on '%s'", kind)


def claim_prefix(storage, prefix, run_uid):
    """Mark `<prefix>` in the storage as this run's; UserError where it belongs to another run, so that no two runs mix their checkpoints."""
    key = join_key(prefix, "run.json")
    owner = run_of(storage, prefix)
    if owner is None:
        try:
            storage.write(key, files.json_bytes({"v": 1, "uid": run_uid}), expected="" if storage.honours_conditions() else None)
        except Conflict:
            log.debug("%s was claimed at the same time", storage.url(key))
        owner = run_of(storage, prefix)  # read again: of two runs that start together one wins
    if owner != run_uid:
        raise UserError(
            "{} belongs to another run (uid {}, this one is {}): choose another name or storage.uri, or remove that folder".format(
                storage.url(key.rpartition("/")[0]), owner, run_uid
            )
        )


def run_of(storage, prefix):
    """Return the uid of the run that a prefix in the storage belongs to, or None."""
    return json_object(storage.read(join_key(prefix, "run.json"))).get("uid")


def remote_names(storage, prefix):
    """Return the names of all checkpoints in the storage that have a manifest, in ascending order of steps."""
    folder = join_key(prefix, FOLDER)
    found = storage.sizes(folder).items()
    return sorted((key.split("/")[-2] for key, size in found if key.endswith("/" + MANIFEST) and vouches(size)), key=step_of)


def vouches(size):
    """Whether a remote MANIFEST.json of so many bytes is a manifest, and not the mark that holds its place."""
    return size > _MARK_BYTES


def remove(storage, prefix, name, confirm=lambda: None):
    """Remove a checkpoint from the storage, its manifest first; confirm() is called before each object and may raise."""
    folder = join_key(prefix, FOLDER, name)
    keys = storage.sizes(folder)
    for key in sorted(keys, key=lambda key: (not key.endswith("/" + MANIFEST), key)):
        confirm()
        storage.delete(key)


def _read_checkpoint(directory):
    """Return the manifest's bytes, the step, and {name: bytes} of the files that it lists; UserError where they are not as it says."""
    path = os.path.join(directory, MANIFEST)
    with open(path, "rb") as f:
        raw = f.read()
    manifest = json_object(raw)
    step, listed = manifest.get("step"), manifest.get("files")
    if not isinstance(step, int) or not isinstance(listed, dict) or not listed:
        raise _Damaged("{}: expected the keys 'step' and 'files'".format(path))
    sizes = {}
    for name, facts in listed.items():
        path = os.path.join(directory, name)
        sizes[name] = os.path.getsize(path)
        if sizes[name] != facts["bytes"]:
            raise _Damaged("{} has {} bytes, its manifest says {}".format(path, sizes[name], facts["bytes"]))
    return raw, step, sizes


def json_object(data):
    """Return the JSON object in `data`, or {} where it is None or anything else."""
    try:
        value = json.loads(data.decode("utf-8")) if data is not None else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def retained_by(config, start, best):
    """Return the function of {step} that gives the steps which `storage.keep_last` and `storage.keep_every` let go, or None where all stay.

    best: function that returns the steps of the best checkpoints, which stay.
    """
    if not config.keep_last:
        return None
    return lambda steps: retention.superfluous(steps, config.keep_last, config.keep_every, start, best())
