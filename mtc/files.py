"""Writes that are whole or absent, and digests: used wherever bytes must not be lost.

A file is written under a temporary name in its own folder, flushed to the disk, renamed over the target, and the folder is flushed, so that
after a crash at any instant the target is either the old one or the new one (POSIX rename(2), fsync(2)).
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile

BLOCK = 1 << 20


_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
"""Names that `atomic_file` gives."""


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


_FILE_MODE = 0o666 & ~_umask()
"""Temporary files are private; what they become has the usual rights. Read once, while there is one thread: asking for the umask means setting it."""


def fsync_dir(path):
    """Make renames and new names in a folder durable."""
    fd = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_file(path, mode="wb", durable=True):
    """Open a temporary file beside `path`; on a clean exit it becomes `path`, on an exception nothing is left behind.

    durable=False leaves the flush to the disk to the caller, who writes many files and flushes once.
    """
    folder = os.path.dirname(os.path.abspath(str(path)))
    os.makedirs(folder, exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix="." + os.path.basename(str(path)) + ".", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(fd, mode, encoding=None if "b" in mode else "utf-8") as f:
            yield f
            f.flush()
            if durable:
                os.fsync(f.fileno())
        os.chmod(temporary, _FILE_MODE)
        os.replace(temporary, str(path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        fsync_dir(folder)


def remove_leftovers(folder):
    """Remove the temporary files of `atomic_file` in a folder whose writers were killed; nobody else may be writing there."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if _TEMPORARY.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, name))


def write_bytes(path, data, durable=True):
    """Replace a file by `data` atomically; for `durable` see `atomic_file`."""
    with atomic_file(path, durable=durable) as f:
        f.write(data)


def json_bytes(value, indent=2):
    """Return a JSON document with sorted keys: the same value gives the same bytes."""
    return (json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")


def write_json(path, value, indent=2):
    """Replace a file by `json_bytes` of a value."""
    write_bytes(path, json_bytes(value, indent))


def read_json(path):
    """Return a JSON document, or None where the file does not exist."""
    try:
        with open(str(path), encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        return None


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    with open(str(path), "rb") as f:
        return digest_of(iter(lambda: f.read(BLOCK), b""))[1]


def digest_of(blocks):
    """Return (size, hexadecimal SHA-256) of what an iterator of bytes yields."""
    digest, size = hashlib.sha256(), 0
    for block in blocks:
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def digest(value):
    """Hexadecimal SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode("utf-8")).hexdigest()
