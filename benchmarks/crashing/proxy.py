"""A faulty network in front of an S3 server: an HTTP proxy that drops, delays, cuts and refuses requests as it is told to.

The client's request goes on as it came, Host header included, so its signature (SigV4) stays valid. The proxy also adds what `rclone serve s3` lacks:
conditional writes, with the answers of the Amazon S3 User Guide ("Add preconditions to S3 operations with conditional requests"). Faults are either
scripted, each used once, or drawn from a seeded generator; which requests get the drawn ones depends on the order in which they arrive.

    drop      nothing reaches the server, the connection is closed without an answer
    reset     nothing reaches the server, the connection is reset (RST) in the middle of the request's body
    lost      the server does what it was asked, the connection is closed without an answer
    truncate  the server does what it was asked, half of the answer's body arrives; an answer without a body is lost
    delay     the answer is late by `Proxy.delay` seconds
    500, 503  the answer is InternalError, SlowDown
    skew      the answer is RequestTimeTooSkewed, from a server whose clock is an hour ahead
    garbage   the answer is "200 OK" with a body that is no XML
"""

import collections
import contextlib
import email.utils
import http.client
import http.server
import random
import socket
import struct
import tempfile
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

import botocore.auth
import botocore.awsrequest
import botocore.credentials

KINDS = ("drop", "reset", "lost", "truncate", "delay", "500", "503", "skew", "garbage")

_BLOCK = 1 << 16
_SPOOL = 1 << 20
"""Bytes of a request's body that stay in memory."""
_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "expect", "content-length")
_GARBAGE = b"<html>captive portal <br> no XML"
_ERRORS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "skew": (403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
}


class Proxy:
    """A proxy on a free port of 127.0.0.1 while the `with` block lasts; its address is `url`.

    conditional: evaluate If-Match and If-None-Match on writes here; the server is asked for ETags with the credentials `key_id` and `secret`. All
    attributes below may be changed at any time.
    """

    def __init__(self, target_url, seed=0, key_id="", secret="", conditional=True):
        self.target = urllib.parse.urlsplit(target_url)
        self.conditional = conditional
        self.rate, self.kinds, self.match = 0.0, (), None
        """Share of requests that get one of `kinds`; match(method, path), where given, says which requests may get one."""
        self.script = []
        """(method, part of the path, kind) of faults that come once each: a request gets the first that fits. A method of "*" fits all."""
        self.delay = 0.05
        """Seconds of a "delay"."""
        self.log = []
        """(method, path, status or kind of fault) of all requests, in the order in which they ended."""
        self._credentials = botocore.credentials.Credentials(key_id, secret)
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._key_locks = collections.defaultdict(threading.Lock)
        self._connections = set()
        self._closing = threading.Event()

    def __enter__(self):
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="s3-proxy", daemon=True)
        self._thread.start()
        self.url = "http://127.0.0.1:{}".format(self._server.server_address[1])
        return self

    def __exit__(self, *_):
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._lock:
            for connection in self._connections:  # idle ones would keep their threads
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def plan(self, faults=(), rate=0.0, script=(), match=None):
        """Replace all plans for faults: random ones of the kinds `faults` at `rate`, and scripted ones; see the attributes."""
        with self._lock:
            self.kinds, self.rate, self.script, self.match = tuple(faults), rate, list(script), match

    def stop_faults(self):
        """Let all further requests through."""
        self.plan()

    def _fault(self, method, path):
        """Return the kind of fault that a request gets, or None."""
        with self._lock:
            for entry in self.script:
                if entry[0] in (method, "*") and entry[1] in path:
                    self.script.remove(entry)
                    return entry[2]
            if not self.kinds or (self.match is not None and not self.match(method, path)):
                return None
            return self._random.choice(self.kinds) if self._random.random() < self.rate else None

    def _note(self, method, path, outcome):
        with self._lock:
            self.log.append((method, path, outcome))

    @contextlib.contextmanager
    def _forward(self, method, path, headers, body=None):
        """Send a request to the server and yield its answer."""
        server = http.client.HTTPConnection(self.target.hostname, self.target.port, timeout=60)
        try:
            server.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                server.putheader(name, value)
            server.endheaders(body)
            yield server.getresponse()
        finally:
            server.close()

    @contextlib.contextmanager
    def _exclusively(self, method, path):
        """Let nobody else change an object meanwhile."""
        name, _, query = path.partition("?")
        if not self.conditional or not _changes_object(method, query):
            yield
            return
        with self._lock:
            key_lock = self._key_locks[name]
        with key_lock:
            yield

    def _refusal(self, method, path, headers):
        """Return (status, code, message) of the answer to a write whose condition does not hold, or None."""
        name, _, query = path.partition("?")
        expected, unexpected = headers.get("If-Match"), headers.get("If-None-Match")
        if not self.conditional or method == "DELETE" or not _changes_object(method, query) or not (expected or unexpected):
            return None
        version = self._version(name)
        if expected and version is None:
            return 404, "NoSuchKey", "The specified key does not exist."
        if (unexpected and version is not None) or (expected and expected.strip('"') not in ("*", version)):
            return 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold"
        return None

    def _version(self, name):
        """Return the ETag of the object at a path, without quotes, or None."""
        request = botocore.awsrequest.AWSRequest("HEAD", "{0.scheme}://{0.netloc}{1}".format(self.target, name))
        request.headers["Host"] = self.target.netloc
        botocore.auth.S3SigV4Auth(self._credentials, "s3", "us-east-1").add_auth(request)
        with self._forward("HEAD", name, request.headers.items()) as answer:
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise http.client.HTTPException("HEAD {}: status {}: are the proxy's credentials right?".format(name, answer.status))
            return answer.headers["ETag"].strip('"')


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """Say nothing: clients go away in the middle, that is what this is for."""


def _handler_of(proxy):
    """Return a handler class for the requests to a proxy."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self):
            super().setup()
            with proxy._lock:
                proxy._connections.add(self.connection)

        def finish(self):
            with proxy._lock:
                proxy._connections.discard(self.connection)
            super().finish()

        def log_message(self, *_):
            """Keep quiet: `Proxy.log` has it."""

        def answer(self):
            kind = proxy._fault(self.command, self.path)
            outcome = kind or "gone"  # unless there is better to say
            self._begun = False
            try:
                with tempfile.SpooledTemporaryFile(_SPOOL) as body:
                    length = int(self.headers.get("Content-Length") or 0)
                    self._read(body, length // 2 if kind == "reset" else length)
                    if kind in ("drop", "reset"):
                        self._hang_up(reset=kind == "reset")
                    elif kind in _ERRORS:
                        self._send_error(*_ERRORS[kind], ahead=3600 if kind == "skew" else 0)
                    elif kind == "garbage":
                        self._send(200, [], [_GARBAGE], len(_GARBAGE))
                    else:
                        if kind == "delay":
                            proxy._closing.wait(proxy.delay)
                        body.seek(0)
                        status = self._pass_on(body, length, kind)
                        outcome = kind or status
            finally:
                proxy._note(self.command, self.path, outcome)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - names that http.server looks for

        def _pass_on(self, body, length, kind):
            """Let the server answer, and pass that on. Returns the status."""
            cut = kind in ("lost", "truncate")
            try:
                with proxy._exclusively(self.command, self.path):
                    refusal = proxy._refusal(self.command, self.path, self.headers)
                    if refusal is None:
                        headers = [(name, value) for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP]
                        if "Content-Length" in self.headers:
                            headers.append(("Content-Length", str(length)))
                        with proxy._forward(self.command, self.path, headers, body if length else None) as answer:
                            status = answer.status
                            self._relay(answer, kind)
            except (OSError, http.client.HTTPException) as error:  # the server has gone, or the client
                refusal = 502, "BadGateway", str(error)
                cut = cut or self._begun
            if refusal is not None:
                status = refusal[0]
                if not cut:
                    self._send_error(*refusal)
            if cut:
                self._hang_up()
            return status

        def _relay(self, answer, kind):
            """Send an answer of the server to the client, in blocks, as far as the kind of fault lets it."""
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
            length = int(answer.headers.get("Content-Length") or 0)
            blocks = iter(lambda: answer.read(_BLOCK), b"")
            if answer.headers.get("Content-Length") is None:
                text = answer.read()
                blocks, length = [text], len(text)
            has_body = self.command != "HEAD" and length > 0
            if kind == "lost" or (kind == "truncate" and not has_body):
                answer.read()
            else:
                self._send(answer.status, headers, _first(blocks, length // 2) if kind == "truncate" else blocks, length)

        def _read(self, body, length):
            if "Transfer-Encoding" in self.headers:
                raise NotImplementedError("a body without a length, which S3 clients send over TLS only")
            while length:
                block = self.rfile.read(min(length, _BLOCK))
                if not block:
                    raise ConnectionError("the client has gone")
                body.write(block)
                length -= len(block)

        def _send(self, status, headers, blocks, length):
            self._begun = True
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            for block in blocks if self.command != "HEAD" else ():
                self.wfile.write(block)

        def _send_error(self, status, code, message, ahead=0):
            document = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message></Error>'.format(code, escape(message))
            headers = [("Content-Type", "application/xml"), ("Date", email.utils.formatdate(time.time() + ahead, usegmt=True))]
            self._send(status, headers, [document.encode("utf-8")], len(document.encode("utf-8")))

        def _hang_up(self, reset=False):
            """Close the connection now, with a FIN or, after SO_LINGER 0, an RST (socket(7))."""
            self.close_connection = True
            if reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
            self.wfile.close()
            self.rfile.close()
            self.connection.close()

    return Handler


def _changes_object(method, query):
    """Whether a request puts an object in place or removes it: neither a part of an upload nor its beginning or end without an object."""
    names = urllib.parse.parse_qs(query, keep_blank_values=True)
    return (method in ("PUT", "DELETE") and "uploadId" not in names) or (method == "POST" and "uploadId" in names)


def _first(blocks, count):
    """Yield the first `count` bytes of blocks."""
    for block in blocks:
        yield block[:count]
        count -= len(block)
        if count <= 0:
            return
