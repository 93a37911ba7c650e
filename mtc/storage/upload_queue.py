"""What of a run is uploaded and what still waits, on disk: `<run_dir>/uploads.json`, replaced atomically at each change.

A trainer that is killed in the middle of an upload finds here what it had sent, so that its successor neither sends it again nor forgets it. Entries
are the checkpoints' names; an entry holds for the checkpoint with that MANIFEST.json only (a checkpoint that was damaged and is saved again is
another one) and for one place in the storage.
"""

import logging
import re
import threading

from mtc import files

log = logging.getLogger("mtc.storage")

WAITING, UPLOADED, FAILED, REMOVED = "waiting", "uploaded", "failed", "removed"
"""removed: by the storage's retention, after it had been uploaded."""


class UploadQueue:
    """The queue of a run; threads may use it side by side."""

    def __init__(self, path, place):
        """place: URI in the storage; entries of another place are forgotten."""
        self._path, self._place, self._told, self._unwritten = path, place, False, False
        self._lock = threading.Lock()
        try:
            found = files.read_json(path) or {}
            known = found["checkpoints"] if found.get("place") == place else {}
            self._entries = {name: dict(entry) for name, entry in known.items() if entry["state"] in (WAITING, UPLOADED, FAILED, REMOVED)}
        except (ValueError, KeyError, TypeError, AttributeError):  # damaged: what is there already is found in the storage
            self._entries = {}

    def add(self, name, manifest_sha256, anew=False):
        """Let a checkpoint wait for its upload, unless this very one was uploaded before and not `anew` is asked for. Returns whether it waits."""
        with self._lock:
            entry = self._entries.get(name)
            if anew:
                entry = None
            if entry and entry["manifest"] == manifest_sha256 and entry["state"] in (UPLOADED, REMOVED):
                return False
            sent = entry["sent"] if entry and entry["manifest"] == manifest_sha256 else []
            self._entries[name] = {"state": WAITING, "manifest": manifest_sha256, "sent": sent}
            self._write()
            return True

    def next(self):
        """Return the name of the oldest checkpoint that waits, or None."""
        return min(self.names(WAITING), key=step_of, default=None)

    def names(self, *states):
        """Return the names of the checkpoints in one of the states, in ascending order of steps."""
        with self._lock:
            return sorted((name for name, entry in self._entries.items() if entry["state"] in states), key=step_of)

    def sent(self, name):
        """Return the set of a checkpoint's files that have arrived."""
        with self._lock:
            return set(self._entries[name]["sent"])

    def set_sent(self, name, file_names):
        """Note which files of a checkpoint have arrived."""
        with self._lock:
            self._entries[name]["sent"] = sorted(file_names)
            self._write()

    def finish(self, name, state, reason=""):
        """Note how an upload ended, or that the storage's retention has removed the checkpoint."""
        with self._lock:
            if name in self._entries:
                self._entries[name].update(state=state, reason=reason)
                self._write()

    def forget(self, name):
        """Drop an entry: the checkpoint is there no more."""
        with self._lock:
            if self._entries.pop(name, None):
                self._write()

    def reason(self, name):
        """Return why an upload failed, or ""."""
        with self._lock:
            return self._entries.get(name, {}).get("reason", "")

    def flush(self):
        """Write what could not be written before."""
        with self._lock:
            if self._unwritten:
                self._write()

    def _write(self):
        self._unwritten = True
        try:
            files.write_json(self._path, {"v": 1, "place": self._place, "checkpoints": self._entries})
            self._unwritten = False
        except OSError as error:  # a full disk must not end the uploads: without the queue a successor asks the storage what is there
            if not self._told:
                log.warning("%s cannot be written: %s; a restart may send again what has arrived", self._path, error.strerror or error)
            self._told = True


def step_of(name):
    """Return the step in a checkpoint's name ("step-00000500"), or -1."""
    match = re.search(r"(\d+)$", name)
    return int(match.group(1)) if match else -1
