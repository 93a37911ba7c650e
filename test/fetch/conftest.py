"""A web server that can be told to misbehave, and archives of the official layout with a few bytes in them."""

import hashlib
import http.server
import json
import re
import socket
import struct
import threading
import zipfile

import pytest

from mtc.fetch import download, manifest


class Site:
    """Files that the server gives, what it was asked, and what it shall do wrong."""

    def __init__(self, url):
        self.url, self.files, self.requests = url, {}, []
        self.answers = []
        """For the next requests: a status to fail with, or (status, Retry-After); ("cut", n), ("reset", n) or ("stall", n) after n bytes of the body;
        ("range", n) to give the bytes from n on as if they had been asked for; ("total", n) to say that there are n; "whole" to ignore Range."""
        self.before = lambda path: None
        """Called before each answer."""
        self.released = threading.Event()
        """Set: who stalls hangs up."""


@pytest.fixture
def site():
    """A running `Site` on 127.0.0.1."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            _answer(self, made)

        def log_message(self, *arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            pass  # clients hang up as soon as they have seen enough

    server = Server(("127.0.0.1", 0), Handler)
    made = Site("http://127.0.0.1:{}".format(server.server_address[1]))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _answer(handler, site):
    asked = handler.headers.get("Range")
    site.requests.append((handler.path, asked))
    site.before(handler.path)
    order = site.answers.pop(0) if site.answers else None
    data = site.files.get(handler.path.lstrip("/"))
    status, after = order if isinstance(order, tuple) and isinstance(order[0], int) else (order, None)
    if isinstance(status, int) or data is None or (isinstance(data, str)):
        handler.send_response(status if isinstance(status, int) else 404 if data is None else 302)
        if isinstance(data, str):
            handler.send_header("Location", data)
        if after is not None:
            handler.send_header("Retry-After", after)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    etag = '"{}"'.format(hashlib.md5(data).hexdigest())
    start = 0
    fresh = handler.headers.get("If-Range", etag) == etag
    if asked and order != "whole" and fresh:
        start = int(re.match(r"bytes=(\d+)-$", asked).group(1))
        if order and order[0] == "range":
            start = order[1]
        if start >= len(data):
            handler.send_response(416)
            handler.send_header("Content-Range", "bytes */{}".format(len(data)))
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206)
        total = order[1] if order and order[0] == "total" else len(data)
        handler.send_header("Content-Range", "bytes {}-{}/{}".format(start, len(data) - 1, total))
    else:
        handler.send_response(200)
    handler.send_header("ETag", etag)
    handler.send_header("Content-Length", str(len(data) - start))
    handler.end_headers()
    body = data[start:]
    kind, count = order if isinstance(order, tuple) else ("", len(body))
    handler.wfile.write(body[:count] if kind in ("cut", "reset", "stall") else body)
    if kind == "reset":  # not a polite end of the connection
        handler.wfile.flush()
        site.released.wait(0.3)  # what the client has not read by then is lost
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
    if kind == "stall":
        handler.wfile.flush()
        site.released.wait(20)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Retries follow at once."""
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(download, "LONGEST_PAUSE", 0.0)


@pytest.fixture
def make_zip(tmp_path):
    """Return a function that writes {member name: bytes} as a zip and returns its path."""

    def make(name, members):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(str(path), "w", zipfile.ZIP_DEFLATED) as z:
            for member, data in members.items():
                z.writestr(member, data)
        return str(path)

    return make


COCO_MEMBERS = {
    "zips/train2017.zip": {"train2017/{:012d}.jpg".format(i): b"train%d" % i for i in range(1, 4)},
    "zips/val2017.zip": {"val2017/{:012d}.jpg".format(i): b"val%d" % i for i in range(1, 3)},
    "annotations/annotations_trainval2017.zip": {
        "annotations/person_keypoints_{}2017.json".format(split): json.dumps({"images": [split]}).encode() for split in ("train", "val")
    },
}


@pytest.fixture
def archives(make_zip, tmp_path):
    """A folder with the three archives in the official layout and a manifest.json that describes them."""
    entries = []
    members = {archive.path: archive.members for archive in manifest.load("official")}
    for path, contents in COCO_MEMBERS.items():
        with open(make_zip("official/" + path, contents), "rb") as f:
            data = f.read()
        entries.append({"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "members": members[path]})
    (tmp_path / "official" / "manifest.json").write_text(json.dumps({"v": 1, "archives": entries}))
    return tmp_path / "official"


@pytest.fixture
def coco_site(site, archives):
    """The server with the three archives."""
    for path in COCO_MEMBERS:
        site.files[path] = (archives / path).read_bytes()
    return site
