"""Brings one file here and vouches for it: verified first, then moved to its name.

Bytes go to `<target>.part` and are hashed as they come; what an earlier run has left there is hashed once and gone on from, where the source can do
that. Size and SHA-256 are compared and the bytes flushed to the disk before they get their name, so that a file of the target's name is always a good
one. What is not as it must be is put aside as `<target>.bad` and asked for once more. `<target>.ok.json` remembers what was verified (as long as size
and mtime are the same), so that 18 GB are not hashed on each run.
"""

import contextlib
import hashlib
import logging
import os
import random
import shutil
import threading
from typing import NamedTuple

from mtc import files
from mtc.errors import UserError
from mtc.fetch import NoRoom, size_text
from mtc.fetch import progress as show_progress
from mtc.fetch.sources import UNKNOWN, Busy, open_source
from mtc.storage import TransientError

log = logging.getLogger("mtc.fetch")

TRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
LONGEST_ASKED_PAUSE = 600.0
"""Seconds that a server's Retry-After is followed at most."""
FLUSH_EVERY = 256 << 20
"""Bytes after which what has arrived is flushed to the disk: a power failure takes no more."""


class Verified(NamedTuple):
    """A file whose content is known."""

    path: str
    bytes: int
    sha256: str


class Abandoned(Exception):
    """The transfer was told to stop; what has arrived is kept."""


class _Mismatch(Exception):
    """What arrived is not what was expected."""


def fetch(source, target, bytes=None, sha256=None, progress=True, endpoint="", region="", mirrors=(), stop=None):
    """Bring a URL or path to the file `target` and return it as `Verified`; nothing is asked of the source where a good target is there.

    `bytes` and `sha256` are what it must be (None: not checked). `endpoint` and `region` belong to s3:// sources. `mirrors` are asked in their order
    where the source fails for good. `stop`: threading.Event that ends the transfer, with Abandoned. Errors: UserError names file, expected and
    found; TransientError where no source could be read after several tries: what has arrived is kept in `<target>.part` and the next call goes on
    from there.
    """
    known = _known(target, target + ".ok.json")
    if os.path.exists(target) and (sha256 or known is None or known.get("source") == source):
        try:
            return verify(target, bytes, sha256, progress=progress, source=source)
        except UserError as error:
            log.warning("%s; fetching it again", error)
    part = _Part(target + ".part", bytes, sha256, progress, stop or threading.Event())
    errors = []
    for place in (source,) + tuple(mirrors):
        log.info("fetching %s to %s", place, target)
        try:
            _bring(place, part, endpoint, region)
            break
        except NoRoom:
            raise
        except (UserError, TransientError) as error:
            errors.append(error)
            if len(errors) <= len(mirrors):
                log.warning("%s; going on to the mirror %s", error, mirrors[len(errors) - 1])
        except OSError as error:
            raise UserError("{} cannot be written: {}".format(error.filename or part.path, error.strerror or error)) from error
    else:
        raise next((error for error in errors if isinstance(error, TransientError)), errors[0])
    os.replace(part.path, target)
    files.fsync_dir(os.path.dirname(os.path.abspath(target)))
    _forget(part.record, target + ".bad")
    return _remember(target, target + ".ok.json", part.sha256, source)


def verify(path, bytes=None, sha256=None, record=None, progress=True, source=""):
    """Check a file that is there and return it as `Verified`.

    `record` (default: `<path>.ok.json`) remembers the result as long as the file does not change. Errors: UserError names file, expected and found.
    """
    record = record or path + ".ok.json"
    try:
        size = os.stat(path).st_size
        if bytes is not None and size != bytes:
            raise UserError("{} has {} bytes, expected {}: it is not whole, or another file".format(path, size, bytes))
        known = _known(path, record)
        if known is None:
            known = {"sha256": _hash(path, size, progress)}
    except OSError as error:
        raise UserError("{} cannot be read: {}".format(path, error.strerror or error)) from None
    if sha256 and known["sha256"] != sha256.lower():
        raise UserError("{} has SHA-256 {}, expected {}: it is damaged, or another file; get it again".format(path, known["sha256"], sha256))
    return _remember(path, record, known["sha256"], known.get("source", source))


class _Part:
    """`<target>.part`: the bytes that have arrived, and their digest. `<target>.part.json` says of which source they are."""

    def __init__(self, path, expected_size, expected_sha256, progress, stop):
        self.path, self.record = path, path + ".json"
        self.expected_size, self.expected_sha256 = expected_size, expected_sha256 and expected_sha256.lower()
        self.size, self.version, self._source, self._digest = 0, "", None, hashlib.sha256()
        self._progress, self.stop = progress, stop

    @property
    def sha256(self):
        """Hexadecimal, of all bytes."""
        return self._digest.hexdigest()

    def prepare(self, source):
        """Go on from what is there, as far as it can be of this source; the digest tells in the end where it was not."""
        if self._source is None:
            self._take_up(source)
        elif self._source != source:
            self.version = ""
            if not self.expected_sha256:
                self.restart()
        self._source = source

    def write(self, stream, source):
        """Append what an open source gives; start again where it does not go on from here."""
        if stream.start != self.size:
            self.restart()
        self.version, flushed = stream.version, self.size
        self._note(source, flushed)
        name = os.path.basename(self.path)[: -len(".part")]
        with open(self.path, "r+b" if self.size else "wb") as f, show_progress(name, stream.total, self.size, self._progress) as advance:
            f.truncate(self.size)
            f.seek(self.size)
            for block in stream.blocks:
                if self.stop.is_set():
                    raise Abandoned(self.path)
                f.write(block)
                self._digest.update(block)
                self.size += len(block)
                advance(len(block))
                if self.size - flushed >= FLUSH_EVERY:
                    flushed = self.size
                    _flush(f)
                    self._note(source, flushed)
            _flush(f)

    def check(self):
        """Raise _Mismatch, and put the file aside, where it is not what it must be."""
        size, sha256 = self.expected_size, self.expected_sha256
        if size in (None, self.size) and sha256 in (None, "", self.sha256):
            return
        bad = self.path[: -len(".part")] + ".bad"
        os.replace(self.path, bad)
        text = "expected {} bytes with SHA-256 {}, found {} bytes with SHA-256 {} (kept as {})".format(
            "any number of" if size is None else size, sha256 or "(any)", self.size, self.sha256, bad
        )
        self.restart()
        raise _Mismatch(text)

    def restart(self):
        """Forget all bytes."""
        _forget(self.path, self.record)
        self.size, self.version, self._digest = 0, "", hashlib.sha256()

    def _take_up(self, source):
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        have, left = _size(self.path), _left(self.record)
        same = left.get("source", source) == source
        if left.get("boot", _boot()) != _boot():  # the machine went down: what was not flushed may be zeros
            have = min(have, left.get("flushed", 0))
        if not (self.expected_sha256 or (same and left.get("version"))) or (self.expected_size is not None and have > self.expected_size):
            have = 0
        if not have:
            return
        self.version = left.get("version", "") if same else ""
        with open(self.path, "rb") as f, show_progress("sha256 of " + os.path.basename(self.path), have, enabled=self._progress) as advance:
            while self.size < have:
                block = f.read(min(files.BLOCK, have - self.size))
                if not block:
                    break
                self._digest.update(block)
                self.size += len(block)
                advance(len(block))

    def _note(self, source, flushed):
        files.write_json(self.record, {"source": source, "version": self.version, "flushed": flushed, "boot": _boot()})


def _bring(source, part, endpoint, region):
    """Bring all of a source into `part`, once more where what arrived was something else."""
    part.prepare(source)
    try:
        for last in (False, True):
            try:
                _transfer(source, part, endpoint, region)
                part.check()
                return
            except _Mismatch as mismatch:
                if last:
                    raise
                log.warning("%s: %s; fetching it once more", source, mismatch)
    except _Mismatch as mismatch:
        raise UserError("{}: {}: check the source, or the manifest if it is yours".format(source, mismatch)) from None


def _transfer(source, part, endpoint, region):
    """Bring all of a source into `part`, with retries."""
    failures = 0
    while True:
        before = part.size
        try:
            _transfer_once(source, part, endpoint, region)
            return
        except TransientError as error:
            failures = 1 if part.size > before else failures + 1  # a source that gives something is not given up
            if failures >= TRIES:
                raise TransientError(
                    "{} tries without a byte, the last one with: {}; run again to go on from {}".format(TRIES, error, size_text(part.size))
                ) from error
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures) * random.uniform(0.5, 1)
            if isinstance(error, Busy) and error.pause is not None:
                pause = min(LONGEST_ASKED_PAUSE, error.pause)
            log.warning("%s; next try in %.0f s", error, pause)
            if part.stop.wait(pause):
                raise Abandoned(part.path) from None


def _transfer_once(source, part, endpoint, region):
    """Append to `part` what is missing of the source, or start again where that is not possible."""
    start, size = part.size, part.expected_size
    if size is not None and start == size:
        return
    with open_source(source, start, part.version, endpoint=endpoint, region=region) as stream:
        if size is not None and stream.total not in (None, UNKNOWN, size):
            raise UserError("{}: it has {} bytes, expected {}: check the source, or the manifest if it is yours".format(source, stream.total, size))
        if stream.start not in (0, start) or stream.total == UNKNOWN or (stream.total is not None and stream.start > stream.total):
            part.restart()
            raise TransientError("{} cannot go on from byte {}".format(source, start))
        _check_space(part.path, (stream.total or size or 0) - stream.start)
        part.write(stream, source)
    if stream.total is not None and part.size < stream.total:
        raise TransientError("{}: the connection ended after {} of {} bytes".format(source, part.size, stream.total))


def _flush(f):
    f.flush()
    os.fsync(f.fileno())


def _left(record):
    """Return what an earlier run noted of its part."""
    try:
        left = files.read_json(record)
    except ValueError:
        left = None
    return left if isinstance(left, dict) else {}


def _boot():
    """What tells this start of the machine from others, or "" where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as f:
            return f.read().strip()
    except OSError:
        return ""


def _check_space(path, needed):
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
    if needed > free:
        raise NoRoom("{} needs {}, the disk has {} free: make room or choose another folder".format(path, size_text(needed), size_text(free)))


def _hash(path, size, progress):
    digest = hashlib.sha256()
    with open(path, "rb") as f, show_progress("sha256 of " + os.path.basename(path), size, enabled=progress and size > (1 << 28)) as advance:
        for block in iter(lambda: f.read(files.BLOCK), b""):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def _known(path, record):
    """Return what an earlier run verified of this very file, or None."""
    try:
        known, found = files.read_json(record), os.stat(path)
    except (ValueError, OSError):
        return None
    if not isinstance(known, dict) or (known.get("bytes"), known.get("mtime_ns")) != (found.st_size, found.st_mtime_ns) or not known.get("sha256"):
        return None
    return known


def _remember(path, record, sha256, source):
    found = os.stat(path)
    value = {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": sha256, "source": source}
    if _known(path, record) != value:
        files.write_json(record, value)
    return Verified(path, found.st_size, sha256)


def _size(path):
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _forget(*paths):
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
