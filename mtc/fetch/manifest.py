"""Which archives make up a data set, and what each must be: path below the source, size, SHA-256, names of its members.

The form is {"v": 1, "archives": [{"path", "bytes", "sha256", "members", "mirrors"}]}; `members` is a regular expression that the whole name of every
file in the archive must match; `bytes` and `sha256` may be null (not checked); `mirrors` may be left out: URLs of the same file, asked where the
source fails. `official.json` holds the COCO 2017 archives as registered by TensorFlow Datasets. The official host serves plain http, so the SHA-256
is the only guarantee of what arrives; its mirror is the same bucket by https.
"""

import json
import os
import re
from typing import NamedTuple, Optional, Tuple

from mtc.errors import UserError
from mtc.fetch.sources import open_source
from mtc.storage import TransientError, check_key, split_uri

OFFICIAL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "official.json")


class Archive(NamedTuple):
    """One archive of a data set."""

    path: str
    """Below the source: "zips/train2017.zip"."""
    bytes: Optional[int]
    sha256: Optional[str]
    """Hexadecimal, lower case."""
    members: str
    """Regular expression of the allowed members' names."""
    mirrors: Tuple[str, ...] = ()
    """URLs of the same file."""


def load(source):
    """Return the list of `Archive`s of "official", "none" (official paths, nothing checked), a JSON file or an http(s) URL of one.

    Errors: UserError names the file and the field.
    """
    if source == "official":
        return parse(_read_file(OFFICIAL), OFFICIAL)
    if source == "none":
        return [archive._replace(bytes=None, sha256=None, mirrors=()) for archive in parse(_read_file(OFFICIAL), OFFICIAL)]
    kind, rest = split_uri(source)
    if kind == "s3":
        raise UserError("fetch.manifest={}: expected official, none, a JSON file or an http(s) URL".format(source))
    return parse(_read_file(rest) if kind == "file" else _read_url(source), source)


def parse(text, source):
    """Return the list of `Archive`s of a JSON text; `source` names it in errors."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UserError("manifest {} is not JSON: {}".format(source, error)) from None
    if not isinstance(document, dict) or document.get("v") != 1:
        raise UserError('manifest {}: expected {{"v": 1, "archives": [...]}}'.format(source))
    entries = document.get("archives")
    if not isinstance(entries, list) or not entries:
        raise UserError("manifest {}: field 'archives' must be a list with an entry for each archive".format(source))
    archives = [_archive(entry, "manifest {}: archives[{}]".format(source, i)) for i, entry in enumerate(entries)]
    paths = [archive.path for archive in archives]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError("manifest {}: '{}' is listed twice".format(source, path))
    return archives


def _archive(entry, where):
    if not isinstance(entry, dict):
        raise UserError("{}: expected an object with path, bytes, sha256, members and, perhaps, mirrors".format(where))
    unknown = sorted(set(entry) - set(Archive._fields))
    if unknown:
        raise UserError("{}: unknown field '{}'; known: {}".format(where, unknown[0], ", ".join(Archive._fields)))
    path, size, digest, members, mirrors = (entry.get(name) for name in Archive._fields)
    if not isinstance(path, str) or not path.endswith((".zip", ".tar", ".tar.gz", ".tgz")):
        raise UserError("{}: field 'path' is {!r}; expected the path of a .zip, .tar, .tar.gz or .tgz below the source".format(where, path))
    try:
        check_key(path)
    except UserError:
        raise UserError("{}: field 'path' is {!r}; expected a relative path without '..'".format(where, path)) from None
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size <= 0):
        raise UserError("{}: field 'bytes' is {!r}; expected a whole number above 0, or null".format(where, size))
    if digest is not None and not (isinstance(digest, str) and re.fullmatch("[0-9a-fA-F]{64}", digest)):
        raise UserError("{}: field 'sha256' is {!r}; expected 64 hexadecimal digits, or null".format(where, digest))
    try:
        re.compile(members)
    except (TypeError, re.error) as error:
        raise UserError("{}: field 'members' is {!r}; expected a regular expression: {}".format(where, members, error)) from None
    if mirrors is None:
        mirrors = []
    if not isinstance(mirrors, list) or not all(isinstance(url, str) and split_uri(url)[0] in ("http", "https", "s3") for url in mirrors):
        raise UserError("{}: field 'mirrors' is {!r}; expected a list of http(s):// and s3:// URLs".format(where, mirrors))
    if mirrors and not digest:
        raise UserError("{}: field 'mirrors': needs sha256, for nothing else tells that a mirror gives the same file".format(where))
    return Archive(path, size, digest.lower() if digest else None, members, tuple(mirrors))


def _read_file(path):
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("manifest {} cannot be read: {}".format(path, error)) from None


def _read_url(url):
    try:
        with open_source(url) as stream:
            return b"".join(stream.blocks).decode("utf-8")
    except (UserError, TransientError, UnicodeDecodeError) as error:
        raise UserError("manifest {} cannot be fetched: {}".format(url, error)) from None
