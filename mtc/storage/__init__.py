"""Object storage behind one interface: a folder (`file://`) or a bucket (`s3://`).

A store holds whole objects under keys ("runs/demo/latest.json": parts joined by "/", never leaving the root). An object appears whole or
not at all, so a reader never sees half a checkpoint file. Errors carry the decision that a caller has to take: `UserError` for what only a
person can mend (no credentials, no such bucket, not allowed), `TransientError` for what may pass by itself (unreachable, timed out, overloaded,
disk full), `FileNotFoundError` for an object or a local file that is not there.
"""

import abc
import logging
import re
import urllib.parse
import uuid
from typing import Dict, Iterator, Optional, Tuple

from mtc.errors import UserError

log = logging.getLogger("mtc.storage")


class TransientError(Exception):
    """Trying again later may succeed: the server is unreachable, slow or overloaded, or the disk is full."""


class Storage(abc.ABC):
    """What every kind of storage does. Keys are relative, "/"-separated; see `check_key`."""

    @abc.abstractmethod
    def put(self, path: str, key: str) -> None:
        """Store a local file under a key, replacing what was there; the object appears whole or not at all."""

    @abc.abstractmethod
    def get(self, key: str, path: str) -> None:
        """Store an object as a local file, whole or not at all; FileNotFoundError where there is no such object."""

    @abc.abstractmethod
    def read(self, key: str) -> Optional[bytes]:
        """Return a small object's bytes, or None where there is no such object."""

    @abc.abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Store bytes under a key, replacing what was there."""

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
    def url(self, key: str) -> str:
        """Return the full URI of a key, for people and for `open_storage`."""

    def probe(self) -> None:
        """Write, read and delete a small object; UserError with one sentence where that is not possible."""
        key, data = ".mtc-probe-" + uuid.uuid4().hex, b"mtc storage probe\n"
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
        raise UserError("storage '{}': only a folder, file:///… and s3://bucket/prefix can be written to".format(uri))
    if endpoint or region:
        log.warning("storage %s is a folder: storage.endpoint and storage.region are for s3:// and not used", uri)
    from mtc.storage.local import LocalStorage

    return LocalStorage(rest)


def split_uri(uri: str) -> Tuple[str, str]:
    """Return ("file", path), ("s3", "bucket/key"), ("http", uri) or ("https", uri); a plain path is a file.

    Errors: UserError for an empty text, other schemes and malformed URIs.
    """
    if not uri.strip():
        raise UserError("'{}' is neither a path nor a URI: give a folder, file:///…, s3://bucket/prefix or a URL".format(uri))
    match = re.match(r"(?i)([a-z][a-z0-9+.-]*)://(.*)$", uri, re.DOTALL)
    if not match:
        if re.match(r"(?i)(s3|file|https?):", uri):
            raise UserError("'{}': two slashes are missing after the colon".format(uri))
        return "file", uri
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise UserError("'{}': a file URI has three slashes and an absolute path, file:///folder".format(uri))
        return "file", "/" + urllib.parse.unquote(path)
    if scheme == "s3":
        bucket = rest.partition("/")[0]
        if not re.match(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}$", bucket):
            raise UserError("'{}': '{}' is not a bucket's name; expected s3://bucket/prefix".format(uri, bucket))
        return "s3", rest
    if scheme in ("http", "https"):
        if not urllib.parse.urlsplit(uri).hostname:
            raise UserError("'{}': the URL has no host".format(uri))
        return scheme, uri
    raise UserError("'{}': scheme '{}' is not known; use a folder, file:///…, s3://bucket/prefix or http(s)://".format(uri, scheme))


def check_key(key: str) -> str:
    """Return the key, or raise UserError where it is empty, absolute, has empty, "." or ".." parts, or is named like a temporary file."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key or is_temporary(parts[-1]):
        raise UserError("'{}' cannot be the key of an object: it must be relative, without empty, '.' or '..' parts".format(key))
    return key


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of an unfinished `mtc.files.atomic_file`."""
    return name.startswith(".") and name.endswith(".tmp")
