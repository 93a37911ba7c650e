"""Where ranks meet, and the connection between two of them: JSON objects, one a line, over TCP."""

import collections
import contextlib
import json
import os
import socket
import threading
import time

from mtc import files
from mtc.errors import UserError

_LINE = 4 * 2**20
"""Bytes of a line beyond which the other end is no rank."""


class Link:
    """A connection that takes and gives JSON objects, a line each."""

    def __init__(self, connection):
        self.socket, self.host, self.heard = connection, connection.getpeername()[0], time.monotonic()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lock, self._rest, self._lines = threading.Lock(), b"", collections.deque()

    def send(self, message):
        with self._lock:
            self.socket.sendall(json.dumps(message).encode("utf-8") + b"\n")

    def receive(self):
        """Return the next object. Errors: OSError at the connection's end, ValueError for what is none."""
        while not self._lines:
            data = self.socket.recv(65536)
            if not data:
                raise OSError("the connection has ended")
            self.heard = time.monotonic()
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > _LINE:
                raise ValueError("no line of {} bytes is expected".format(len(self._rest)))
            self._lines.extend(lines)
        message = json.loads(self._lines.popleft().decode("utf-8"))
        if not isinstance(message, dict):
            raise ValueError("expected an object")
        return message

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@contextlib.contextmanager
def door(world):
    """Yield (socket that listens where the ranks of a world meet, (host, port) of it)."""
    host, port = world.meeting
    made = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0] if host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        if made is not None:
            made.close()
        text = "rank 0 cannot wait for the others at {}:{}: {}; MASTER_ADDR must be an address of its machine, MASTER_PORT free"
        raise UserError(text.format(host, port, error.strerror or error)) from None
    with contextlib.closing(made):
        made.listen(128)
        if not world.meeting_file:
            yield made, (host, port)
            return
        meeting = own_address(), made.getsockname()[1]
        try:
            os.makedirs(os.path.dirname(os.path.abspath(world.meeting_file)), exist_ok=True)
            files.write_json(world.meeting_file, {"v": 1, "host": meeting[0], "port": meeting[1]})
        except OSError as error:
            raise UserError("{} cannot be written: {}; the ranks meet by it".format(world.meeting_file, error.strerror or error)) from None
        try:
            yield made, meeting
        finally:
            with contextlib.suppress(OSError):  # later ranks wait for the next try's
                os.unlink(world.meeting_file)


def read_meeting(path):
    """Return (host, port) of a meeting file. Errors: OSError, ValueError or KeyError where there is none yet."""
    found = files.read_json(path)
    if found is None:
        raise OSError("it is not there yet")
    return found["host"], found["port"]


def own_address():
    """Return this machine's address in its network, 127.0.0.1 where it has none; MTC_HOST says otherwise."""
    if os.environ.get("MTC_HOST"):
        return os.environ["MTC_HOST"]
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asked, contextlib.suppress(OSError):
        asked.connect(("192.0.2.1", 9))  # nothing is sent: the kernel tells by which address it would
        return asked.getsockname()[0]
    return "127.0.0.1"


def free_port():
    """Return a TCP port that nobody listens on now."""
    with contextlib.closing(socket.socket()) as found:
        found.bind(("", 0))
        return found.getsockname()[1]
