"""Opens a file of a web server, a bucket or a disk as a stream of bytes from an offset: all that `download` needs to know of protocols.

HTTP: RFC 9110 section 14 (Range, Content-Range, If-Range). Redirects are followed one by one, because a change from https to http must not
happen unseen.
"""

import contextlib
import email.utils
import os
import re
import time
import urllib.parse
from typing import Iterator, NamedTuple, Optional

import requests

from mtc.errors import UserError
from mtc.storage import TransientError, open_storage, split_uri

CONNECT_SECONDS, READ_SECONDS, MOST_REDIRECTS = 10, 60, 10
_BUSY = (408, 425, 429)
_BLOCK = 1 << 16
"""Bytes of the network at a time: so many are lost when a connection breaks."""

UNKNOWN = -1
"""Total of a file whose server says that there is nothing from the start on, and not how much there is."""


class Busy(TransientError):
    """The server asks to come again later."""

    def __init__(self, message, pause):
        super().__init__(message)
        self.pause = pause
        """Seconds that the server asked for, or None."""


class Stream(NamedTuple):
    """An open source."""

    blocks: Iterator[bytes]
    start: int
    """Offset of the first byte; 0 where the source does not go on from where it was asked to."""
    total: Optional[int]
    """Size of the whole file, or None where the source does not say."""
    version: str
    """The server's strong validator of the file (ETag or Last-Modified), "" where there is none."""


@contextlib.contextmanager
def open_source(source, start=0, version="", endpoint="", region=""):
    """Open a URL or path from byte `start` on, if it is still of this version; yields a `Stream`.

    Errors: UserError where it is not there or not allowed; TransientError where trying again may help, while the blocks are read too.
    """
    kind, rest = split_uri(source)
    if kind in ("http", "https"):
        with requests.Session() as session, _http_errors(source):
            answer = _get(session, source, start, version)
            with contextlib.closing(answer):
                yield _http_stream(answer, source, start)
        return
    if kind == "s3":
        bucket, _, key = rest.partition("/")
        storage = open_storage("s3://" + bucket, endpoint=endpoint, region=region)
    else:
        folder, key = os.path.split(os.path.abspath(os.path.expanduser(rest)))
        storage = open_storage(folder)
    try:
        blocks, total = storage.stream(key, start)
    except FileNotFoundError:
        raise UserError("{} does not exist: correct the path or URI".format(source)) from None
    with contextlib.closing(blocks):
        yield Stream(blocks, start, total, "")


def redirect_target(url, location):
    """Return the absolute URL of a redirect; UserError where it leaves http(s) or goes from https to http."""
    target = urllib.parse.urljoin(url, location)
    old, new = urllib.parse.urlsplit(url).scheme.lower(), urllib.parse.urlsplit(target).scheme.lower()
    if new not in ("http", "https") or (old == "https" and new == "http"):
        raise UserError("{} redirects to {}: the change from {} to {} is refused; use a source that keeps its scheme".format(url, target, old, new))
    return target


def _get(session, url, start, version):
    """Send the request and follow redirects; returns an answer with status 200 or 206, or 416 where `start` lies at or behind the end."""
    headers = {"Accept-Encoding": "identity"}  # a compressed answer could not be resumed, nor its size compared
    if start:
        headers["Range"] = "bytes={}-".format(start)
        if version:
            headers["If-Range"] = version
    target = url
    for _ in range(MOST_REDIRECTS + 1):
        answer = session.get(target, headers=headers, stream=True, allow_redirects=False, timeout=(CONNECT_SECONDS, READ_SECONDS))
        if not answer.is_redirect:
            return _checked(answer, url)
        with contextlib.closing(answer):
            target = redirect_target(target, answer.headers["location"])
    raise UserError("{} redirects more than {} times: correct the URL".format(url, MOST_REDIRECTS))


def _checked(answer, url):
    """Return an answer that can be used; raise for all others."""
    status = answer.status_code
    if status in (200, 206, 416):
        return answer
    with contextlib.closing(answer):
        what = "{} answers {} {}".format(url, status, answer.reason)
        if status >= 500 or status in _BUSY:
            raise Busy(what, _retry_after(answer.headers.get("Retry-After", "").strip()))
        advice = "the file is not there: correct the URL" if status in (404, 410) else "the server does not give the file: check the URL"
        raise UserError("{}: {}".format(what, advice))


def _retry_after(text):
    """Return the seconds that a server asks for, as a number or as a date (RFC 9110, 10.2.3); None where it says nothing that can be read."""
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _http_stream(answer, url, start):
    """Return the `Stream` of an answer: whole (200), from `start` on (206), or nothing more (416)."""
    etag = answer.headers.get("ETag", "")
    version = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
    length = answer.headers.get("Content-Length", "")
    if answer.status_code == 200:
        encoded = answer.headers.get("Content-Encoding", "identity") != "identity"
        total = int(length) if length.isdigit() and not encoded else None
        return Stream(_http_blocks(answer, url), 0, total, version)
    span = answer.headers.get("Content-Range", "")
    if answer.status_code == 416:
        match = re.match(r"bytes \*/(\d+)$", span)
        return Stream(iter(()), start, int(match.group(1)) if match else UNKNOWN, version)
    match = re.match(r"bytes (\d+)-\d+/(\d+|\*)$", span)
    if not match:
        raise TransientError("{} answers with an unreadable Content-Range '{}'".format(url, span))
    total = int(match.group(2)) if match.group(2).isdigit() else None
    return Stream(_http_blocks(answer, url), int(match.group(1)), total, version)


def _http_blocks(answer, url):
    with _http_errors(url):
        yield from answer.iter_content(_BLOCK)


@contextlib.contextmanager
def _http_errors(url):
    """Sort the errors of requests: those of the URL or the server's certificate, and those of the network."""
    try:
        yield
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise UserError("{} cannot be reached: {}".format(url, " ".join(str(error).split()))) from None
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
        raise TransientError("{}: {}".format(url, _root_cause(error))) from error
    except requests.RequestException as error:
        raise UserError("{}: {}: correct the URL".format(url, " ".join(str(error).split()))) from None


def _root_cause(error):
    """The sentence at the bottom of urllib3's nested errors: "Failed to resolve 'host' ([Errno -2] Name or service not known)"."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    text = " ".join(str(reason or error).split())
    return re.sub(r"^<?[\w.]*(?:HTTPS?Connection)[^:]*: ", "", text)
