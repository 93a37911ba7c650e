"""Object storage behind one interface: a folder (`file://`) or a bucket (`s3://`).

A store holds whole objects under keys ("runs/demo/latest.json": parts joined by "/", never leaving the root). An object appears whole or
not at all, so a reader never sees half a checkpoint file; files go in both directions in blocks, whatever their size. A small object has a version,
and a write may be made on the condition that the version is still the one that its writer has read: of several writers one wins
(`Storage.write`), so a lease or a pointer can change hands. Credentials are never part of a URI or of a message.

Errors carry the decision that a caller has to take: `UserError` for what only a person can mend (no credentials, no such bucket, not allowed),
`TransientError` for what may pass by itself or when it is done again (unreachable, timed out, overloaded, disk full, damaged on the way, a clock that
is wrong), `Conflict` for an object that somebody else has written, `FileNotFoundError` for an object or a local file that is not there.
"""

import abc
import contextlib
import logging
import re
import urllib.parse
import uuid
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from mtc.errors import UserError

log = logging.getLogger("mtc.storage")

CREDENTIALS_ELSEWHERE = "credentials do not belong into a URL: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class TransientError(Exception):
    """Trying again later may succeed: the server is unreachable, slow or overloaded, or the disk is full."""


class Conflict(Exception):
    """A conditional write found another version of the object than the caller expected: somebody else wrote it. The message is the object's URI."""


class Storage(abc.ABC):
    """What every kind of storage does. Keys are relative, "/"-separated; see `check_key`."""

    @abc.abstractmethod
    def put(self, path: str, key: str, on_bytes: Optional[Callable[[int], None]] = None) -> None:
        """Store a local file under a key, replacing what was there; the object appears whole or not at all.

        on_bytes(count) is called before bytes go out, from several threads at once; bytes that are sent again count again. What it raises ends the
        transfer and is raised here: no object has appeared then, and what was sent is removed, as far as the storage can be reached.
        """

    @abc.abstractmethod
    def get(self, key: str, path: str) -> None:
        """Store an object as a local file, whole or not at all; FileNotFoundError where there is no such object."""

    @abc.abstractmethod
    def read_versioned(self, key: str) -> Tuple[Optional[bytes], str]:
        """Return a small object's bytes and their version, or (None, "") where there is no such object."""

    def read(self, key: str) -> Optional[bytes]:
        """Return a small object's bytes, or None where there is no such object."""
        return self.read_versioned(key)[0]

    @abc.abstractmethod
    def write(self, key: str, data: bytes, expected: Optional[str] = None) -> str:
        """Store bytes under a key, replacing what was there, and return their version.

        expected: the version that must be there now, "" for none at all, or None for whatever it is. Errors: `Conflict` where another one is there,
        and then nothing is changed; whether the storage keeps that promise is for `honours_conditions` to say.
        """

    @abc.abstractmethod
    def honours_conditions(self) -> bool:
        """Whether `write` heeds `expected`. Not every server does: it is tried once, with an object that is removed again. Errors as in `write`."""

    @abc.abstractmethod
    def stream(self, key: str, start: int = 0) -> Tuple[Iterator[bytes], int]:
        """Return an object's bytes from offset `start` on, in blocks, and the size of the whole object; FileNotFoundError as in `get`."""

    @abc.abstractmethod
    def sizes(self, prefix: str = "") -> Dict[str, int]:
        """Return {key: bytes} of all objects in the folder `prefix` and below it; "" means the whole store."""

    @abc.abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; no error where there is none."""

    @abc.abstractmethod
    def abort_uploads(self, prefix: str = "") -> int:
        """Remove what unfinished `put`s left in the folder `prefix` and below it ("" means the whole store), and return how many there were.

        It ends those that are still under way too: they are for the caller to exclude.
        """

    @abc.abstractmethod
    def url(self, key: str) -> str:
        """Return the full URI of a key, for people and for `open_storage`."""

    def probe(self) -> None:
        """Write, read and delete a small object; UserError with one sentence where that is not possible."""
        key, data = probe_key(), b"mtc storage probe\n"
        try:
            self.write(key, data)
            found = self.read(key)
            self.delete(key)
        except (TransientError, OSError) as error:
            raise UserError(
                "storage {} cannot be used now: {}; check storage.uri, storage.endpoint and the network".format(self.url(""), error)
            ) from None
        if found != data:
            raise UserError("storage {} does not return what was written to it: use another storage.uri".format(self.url("")))


def open_storage(uri: str, endpoint: str = "", region: str = "") -> Storage:
    """Return the `Storage` at a folder (relative or absolute), file:///… or s3://bucket/prefix.

    `endpoint` (URL of an S3-compatible server; empty: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, then AWS) and `region` belong to s3 alone.
    Nothing is contacted or made yet: that is `Storage.probe`. Errors: UserError names the URI and what is wrong with it.
    """
    kind, rest = split_uri(uri)
    if kind == "s3":
        from mtc.storage.s3 import S3Storage  # boto3 is slow to import and not needed for a folder

        bucket, _, prefix = rest.partition("/")
        return S3Storage(bucket, prefix.strip("/"), endpoint=endpoint, region=region)
    if kind != "file":
        raise UserError("storage '{}': only a folder, file:///… and s3://bucket/prefix can be written to".format(without_credentials(uri)))
    if endpoint or region:
        log.warning("storage %s is a folder: storage.endpoint and storage.region are for s3:// and not used", uri)
    from mtc.storage.local import LocalStorage

    return LocalStorage(rest)


def split_uri(uri: str) -> Tuple[str, str]:
    """Return ("file", path), ("s3", "bucket/key"), ("http", uri) or ("https", uri); a plain path is a file.

    Errors: UserError for an empty text, other schemes, malformed URIs and credentials in an s3 URI.
    """
    shown = without_credentials(uri)
    if not uri.strip():
        raise UserError("'{}' is neither a path nor a URI: give a folder, file:///…, s3://bucket/prefix or a URL".format(shown))
    match = re.match(r"(?i)([a-z][a-z0-9+.-]*)://(.*)$", uri, re.DOTALL)
    if not match:
        if re.match(r"(?i)(s3|file|https?):", uri):
            raise UserError("'{}': two slashes are missing after the colon".format(shown))
        return "file", uri
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise UserError("'{}': a file URI has three slashes and an absolute path, file:///folder".format(shown))
        return "file", "/" + urllib.parse.unquote(path)
    if scheme == "s3":
        if shown != uri:
            raise UserError("'{}': {}".format(shown, CREDENTIALS_ELSEWHERE))
        bucket = rest.partition("/")[0]
        if not re.match(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}$", bucket):
            raise UserError("'{}': '{}' is not a bucket's name; expected s3://bucket/prefix".format(shown, bucket))
        return "s3", rest
    if scheme in ("http", "https"):
        if not urllib.parse.urlsplit(uri).hostname:
            raise UserError("'{}': the URL has no host".format(shown))
        return scheme, uri
    raise UserError("'{}': scheme '{}' is not known; use a folder, file:///…, s3://bucket/prefix or http(s)://".format(shown, scheme))


def without_credentials(uri: str) -> str:
    """Return a URI with the user info before the host, where it has one, replaced by "***": what a message may show.

    A secret that holds a "/" (those of AWS may) and was not escaped hides the "@" from the usual grammar (RFC 3986, 3.2), so where a colon without a
    port follows the first name, the last "@" counts.
    """
    match = re.match(r"(?is)([a-z][a-z0-9+.-]*://|(?:s3|https?):/?)(.*)$", uri)
    if not match:
        return uri
    head, rest = match.groups()
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    has_port = not head.lower().startswith("s3:") and re.search(r":\d*$", authority)
    end = (rest if ":" in authority and not has_port else authority).rfind("@")
    return uri if end < 0 else "{}***{}".format(head, rest[end:])


def check_key(key: str) -> str:
    """Return the key, or raise UserError where it is empty, absolute, has empty, "." or ".." parts, or is named like a temporary file."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key or is_temporary(parts[-1]):
        raise UserError("'{}' cannot be the key of an object: it must be relative, without empty, '.' or '..' parts".format(key))
    return key


def join_key(*parts: str) -> str:
    """Return the key of something below a prefix; parts that are empty, and slashes around them, do not count."""
    return "/".join(part for part in (part.strip("/") for part in parts) if part)


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of an unfinished `mtc.files.atomic_file`."""
    return name.startswith(".") and name.endswith(".tmp")


def probe_key() -> str:
    """Return a new key for an object that is written to try something, and removed."""
    return ".mtc-probe-" + uuid.uuid4().hex


@contextlib.contextmanager
def abandonable(on_bytes: Optional[Callable[[int], None]]) -> Iterator[Callable[[int], None]]:
    """Give a transfer in the block the function to call with counts of bytes: `on_bytes`, or one that does nothing.

    What `on_bytes` raises comes out of the block as it is, whatever the libraries in between make of it; it is called no more after that, so that
    all threads of a transfer end, and a library's own next try too.
    """
    raised: List[Exception] = []

    def count(number):
        if raised:
            raise raised[0]
        if on_bytes is not None and number > 0:
            try:
                on_bytes(number)
            except Exception as error:
                raised.append(error)
                raise

    try:
        yield count
    except Exception:
        if not raised:
            raise
    if raised:
        raise raised[0]
