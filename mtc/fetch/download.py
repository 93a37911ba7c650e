"""Brings one file here and vouches for it: verified first, then moved to its name.

Bytes go to `<target>.part` and to the disk, are read back from there and compared in size and SHA-256, and only then get their name, so that
a file of the target's name is always a good one. `<target>.ok.json` remembers what was verified (as long as size and mtime are the same), so
that 18 GB are not hashed on each run. A broken transfer goes on from what is in `.part`, where the source can do that.
"""

import contextlib
import hashlib
import logging
import os
import random
import shutil
import time
from typing import NamedTuple

from mtc import files
from mtc.errors import UserError
from mtc.fetch import progress as show_progress
from mtc.fetch import size_text
from mtc.fetch.sources import Busy, open_source
from mtc.storage import TransientError

log = logging.getLogger("mtc.fetch")

TRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


class Verified(NamedTuple):
    """A file whose content is known."""

    path: str
    bytes: int
    sha256: str


class _Mismatch(Exception):
    """What arrived is not what was expected."""


def fetch(source, target, bytes=None, sha256=None, progress=True, endpoint="", region=""):
    """Bring a URL or path to the file `target` and return it as `Verified`; nothing is asked of the source where a good target is there.

    `bytes` and `sha256` are what it must be (None: not checked). `endpoint` and `region` belong to s3:// sources. Errors: UserError names file,
    expected and found; TransientError where the source could not be read after several tries: what has arrived is kept in `<target>.part` and
    the next call goes on from there.
    """
    known = _known(target, target + ".ok.json")
    if os.path.exists(target) and (sha256 or known is None or known.get("source") == source):
        try:
            return verify(target, bytes, sha256, progress=progress, source=source)
        except UserError as error:
            log.warning("%s; fetching it again", error)
    part = target + ".part"
    log.info("fetching %s to %s", source, target)
    try:
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        resumed = os.path.exists(part)
        try:
            found = _transfer(source, part, bytes, sha256, progress, endpoint, region)
        except _Mismatch:
            if not resumed:
                raise
            log.warning("%s: what an earlier run had left in %s did not fit; starting again", source, part)
            found = _transfer(source, part, bytes, sha256, progress, endpoint, region)
    except _Mismatch as mismatch:
        raise UserError("{}: {}; nothing was kept: check the source, or the manifest if it is yours".format(source, mismatch)) from None
    except OSError as error:
        raise UserError("{} cannot be written: {}".format(error.filename or part, error.strerror or error)) from error
    os.replace(part, target)
    files.fsync_dir(os.path.dirname(os.path.abspath(target)))
    _forget(part + ".json")
    return _remember(target, target + ".ok.json", found, source)


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


def _transfer(source, part, size, sha256, progress, endpoint, region):
    """Bring all of a source into `part`, with retries; return its SHA-256. On a mismatch `part` is removed and _Mismatch raised."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer_once(source, part, size, sha256, progress, endpoint, region)
            break
        except TransientError as error:
            failures = 1 if _size(part) > before else failures + 1  # a source that gives something is not given up
            if failures >= TRIES:
                raise TransientError(
                    "{} tries without a byte, the last one with: {}; run again to go on from {}".format(TRIES, error, size_text(_size(part)))
                ) from error
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures) * random.uniform(0.5, 1)
            if isinstance(error, Busy) and error.pause is not None:
                pause = min(LONGEST_PAUSE, error.pause)
            log.warning("%s; next try in %.0f s", error, pause)
            time.sleep(pause)
    found = _hash(part, _size(part), progress)
    if (size is not None and _size(part) != size) or (sha256 and found != sha256.lower()):
        text = "expected {} bytes with SHA-256 {}, found {} bytes with SHA-256 {}".format(
            "any number of" if size is None else size, sha256 or "(any)", _size(part), found
        )
        _forget(part, part + ".json")
        raise _Mismatch(text)
    return found


def _transfer_once(source, part, size, sha256, progress, endpoint, region):
    """Append to `part` what is missing of the source, or start again where that is not possible."""
    start, version = _resume_point(source, part, size, sha256)
    if size is not None and start == size:
        return
    with open_source(source, start, version, endpoint=endpoint, region=region) as stream:
        if stream.start not in (0, start) or (stream.start and stream.total is not None and stream.start > stream.total) or stream.total == -1:
            _forget(part)
            raise TransientError("{} cannot go on from byte {}".format(source, start))
        if size is not None and stream.total is not None and stream.total != size:
            raise _Mismatch("it has {} bytes, expected {}".format(stream.total, size))
        _check_space(part, (stream.total or size or 0) - stream.start)
        files.write_json(part + ".json", {"source": source, "version": stream.version})
        have = stream.start
        with open(part, "r+b" if have else "wb") as f, show_progress(os.path.basename(part)[:-5], stream.total, have, progress) as advance:
            f.seek(have)
            f.truncate()
            for block in stream.blocks:
                f.write(block)
                have += len(block)
                advance(len(block))
            f.flush()
            os.fsync(f.fileno())
    if stream.total is not None and have < stream.total:
        raise TransientError("{}: the connection ended after {} of {} bytes".format(source, have, stream.total))


def _resume_point(source, part, size, sha256):
    """Return (offset, version) to go on from: (0, "") where `part` is of another source, too long, or nothing could tell that it fits."""
    have = _size(part)
    try:
        left = files.read_json(part + ".json") or {}
    except ValueError:
        left = {}
    if left.get("source", source) != source or not (left.get("version") or sha256) or (size is not None and have > size):
        return 0, ""
    return have, left.get("version", "") if have else ""


def _check_space(path, needed):
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
    if needed > free:
        raise UserError("{} needs {}, the disk has {} free: make room or choose another folder".format(path, size_text(needed), size_text(free)))


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
