"""Unpacks a zip or tar archive that is not trusted: all names are judged before the first byte is written, and folders appear whole.

Refused, never silently changed: absolute names, drive letters, backslashes, "..", NUL, links and devices, names twice, encrypted or huge
members, names that are not expected. Python's own extraction renames some of these and writes links as files. CRCs are checked by reading to the
end; the unpacked files are flushed to the disk with one sync (an fsync for each of 118,287 files takes minutes) before their folder gets its name.

What an interrupted extraction of the same zip has left is kept where size and CRC are right; a tar says too little of its files, and is begun again.
"""

import collections
import contextlib
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from typing import Callable, Dict, List, NamedTuple, Optional

from mtc import files
from mtc.errors import UserError
from mtc.fetch import NoRoom, size_text
from mtc.fetch import progress as show_progress

MOST_MEMBER_BYTES = 4 << 30
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")

_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError)


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str
    bytes: int
    open: Callable
    crc: Optional[int] = None
    """CRC-32 of its contents, where the archive says."""


def folders(archive, members_regex):
    """Return {top-level name: number of files in it} of what `extract` would unpack. Errors: as `extract`, without reading the contents."""
    with _opened(archive) as opened:
        return _folders(_judge(archive, opened, members_regex))


def extract(archive, target_dir, members_regex, progress=True):
    """Unpack an archive into `target_dir`, where each of its top-level folders appears at once, replacing the one that is there.

    Every file's name must match `members_regex` as a whole. Returns {top-level name: number of files}. Errors: UserError names archive and
    member. `<archive's name>.extracting` is left where it was interrupted or the disk was full: the next call goes on from there.
    """
    staging = os.path.join(target_dir, os.path.basename(archive) + ".extracting")
    with _staged(archive, staging, members_regex, progress) as found:
        for name in sorted(found):
            publish(os.path.join(staging, name), os.path.join(target_dir, name))
    return found


def unpack(archive, folder, members_regex, progress=True, only=None):
    """Unpack an archive so that `folder` appears at once and holds all of it, replacing the one that is there; otherwise as `extract`.

    only: function of a member's name, for those that are wanted (all are judged).
    """
    staging = folder + ".extracting"
    with _staged(archive, staging, members_regex, progress, only) as found:
        publish(staging, folder)
    return found


def publish(staged, target):
    """Give a finished folder (or file) its name; an old one of the same name is moved aside first and then removed."""
    old = target + ".old"
    _remove(old)
    if os.path.lexists(target):
        os.rename(target, old)
    os.rename(staged, target)
    files.fsync_dir(os.path.dirname(os.path.abspath(target)))
    _remove(old)


@contextlib.contextmanager
def _staged(archive, staging, members_regex, progress, only=None):
    """Unpack into the folder `staging`; yields what is in it, ready to be published; removes what is left of it at the end."""
    try:
        with _opened(archive) as opened:
            members = [member for member in _judge(archive, opened, members_regex) if only is None or only(member.name)]
            resumed = _take_up(archive, staging)
            _check_space(archive, staging, members, resumed)
            if not resumed:
                os.makedirs(staging)
                files.write_json(_note(staging), _identity(archive))
            _write(archive, opened, members, staging, resumed, progress)
        os.sync()
        yield _folders(members)
        _remove(staging)
        _remove(_note(staging))
    except NoRoom:
        raise
    except UserError:
        _remove(staging)
        _remove(_note(staging))
        raise
    except OSError as error:
        raise _failed(archive, error) from error


def _take_up(archive, staging):
    """Return whether what is in the staging folder is of this very archive; remove it where it is not."""
    try:
        if os.path.isdir(staging) and files.read_json(_note(staging)) == _identity(archive):
            return True
    except ValueError:
        pass
    _remove(_note(staging))
    _remove(staging)
    return False


def _identity(archive):
    found = os.stat(archive)
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def _note(staging):
    return staging + ".json"


@contextlib.contextmanager
def _opened(archive):
    """Open an archive and translate what the standard library says of broken ones."""
    try:
        if archive.endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                yield opened
        else:
            with tarfile.open(archive, "r:*") as opened:
                yield opened
    except _BROKEN as error:
        raise UserError("{} is not a whole archive ({}): delete it and get it again".format(archive, error)) from None
    except OSError as error:
        if error.errno is None:  # gzip's word for a wrong checksum
            raise UserError("{} is not a whole archive ({}): delete it and get it again".format(archive, error)) from None
        raise _failed(archive, error) from error


def _judge(archive, opened, members_regex) -> List[Member]:
    """Return the files of an archive if all of its entries are harmless and expected; UserError names the first one that is not."""
    members, seen, allowed = [], set(), re.compile(members_regex)
    entries = _zip_entries(archive, opened) if isinstance(opened, zipfile.ZipFile) else _tar_entries(archive, opened)
    for name, is_folder, member in entries:
        plain = name.rstrip("/") if is_folder else name
        parts = plain.split("/")
        if is_folder and plain == ".":  # how tar writes the folder that it was made in
            continue
        if "\\" in plain or "\0" in plain or re.match("[A-Za-z]:", plain) or any(part in ("", ".", "..") for part in parts):
            raise _refused(archive, name, "is not a plain relative name")
        if plain in seen:
            raise _refused(archive, name, "is there twice")
        seen.add(plain)
        if is_folder:
            continue
        if not allowed.fullmatch(plain):
            raise _refused(archive, name, "is not expected here (allowed: {})".format(members_regex))
        if member.bytes > MOST_MEMBER_BYTES:
            raise _refused(archive, name, "has {}, more than {}".format(size_text(member.bytes), size_text(MOST_MEMBER_BYTES)))
        members.append(member)
    if not members:
        raise UserError("{} holds no files: it is not the expected archive".format(archive))
    return members


def _zip_entries(archive, opened):
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.flag_bits & 1:
            raise _refused(archive, info.orig_filename, "is encrypted")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(archive, info.orig_filename, "is a link or a special file")
        # orig_filename, because zipfile cuts its `filename` at a NUL.
        yield info.orig_filename, info.orig_filename.endswith("/"), _zip_member(opened, info)


def _zip_member(opened, info):
    return Member(info.orig_filename, info.file_size, lambda: opened.open(info), info.CRC)


def _tar_entries(archive, opened):
    for info in opened:
        if not (info.isreg() or info.isdir()):
            raise _refused(archive, info.name, "is a link or a special file")
        name = info.name[2:] if info.name.startswith("./") else info.name
        yield name, info.isdir(), Member(name, info.size, lambda info=info: opened.extractfile(info))


def _write(archive, opened, members, staging, resumed, progress):
    with show_progress("unpacking " + os.path.basename(archive), sum(m.bytes for m in members), enabled=progress) as advance:
        for member in members:
            path = os.path.join(staging, *member.name.split("/"))
            if resumed and _holds(path, member):
                advance(member.bytes)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with _opened_member(archive, member) as source, open(path, "wb" if resumed else "xb") as target:
                shutil.copyfileobj(source, target, files.BLOCK)
                if target.tell() != member.bytes:
                    raise _refused(archive, member.name, "ends after {} of {} bytes".format(target.tell(), member.bytes))
            advance(member.bytes)
    if isinstance(opened, tarfile.TarFile):
        while opened.fileobj.read(files.BLOCK):  # gzip checks its sum at its end, which tarfile does not read to
            pass


def _holds(path, member):
    """Whether a file is the member already."""
    try:
        if member.crc is None or os.lstat(path).st_size != member.bytes:
            return False
    except FileNotFoundError:
        return False
    crc = 0
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(files.BLOCK), b""):
            crc = zlib.crc32(block, crc)
    return crc == member.crc


@contextlib.contextmanager
def _opened_member(archive, member):
    try:
        with member.open() as source:
            yield source
    except RuntimeError as error:  # zipfile's word for a password
        raise _refused(archive, member.name, "cannot be read: {}".format(error)) from None


def _folders(members) -> Dict[str, int]:
    return dict(collections.Counter(member.name.partition("/")[0] for member in members))


def _check_space(archive, staging, members, resumed):
    folder = os.path.dirname(os.path.abspath(staging))
    os.makedirs(folder, exist_ok=True)
    needed, free = sum(member.bytes for member in members), shutil.disk_usage(folder).free
    if resumed:
        needed -= sum(os.lstat(os.path.join(path, name)).st_size for path, _, names in os.walk(staging) for name in names)
    if needed > free:
        raise NoRoom("{}: unpacking needs {}, the disk of {} has {} free: make room".format(archive, size_text(needed), folder, size_text(free)))


def _remove(path):
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)


def _failed(archive, error):
    where = "" if error.filename in (None, archive) else " {}:".format(error.filename)
    return UserError("{} cannot be unpacked:{} {}".format(archive, where, error.strerror or error))


def _refused(archive, name, why):
    return UserError("{}: member {!r} {}: the archive is not extracted; use the original one".format(archive, name, why))
