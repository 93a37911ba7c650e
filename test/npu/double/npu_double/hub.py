"""Where the processes of a job meet: one of them listens on this machine, and every collective operation is one exchange with it.

An operation is known by its group, its name in the graph and how many times it ran, so ranks may come to several of them in any order; nothing is
answered before all have come. Sums are made in rank order: every rank gets the same bits, however it was scheduled. A rank that leaves, or brings
another shape, fails all that wait for it: on hardware they would hang until a timeout.
"""

import collections
import os
import pickle
import socket
import socketserver
import struct
import threading
import time

import numpy as np

from npu_double import recorder

_state = {"server": None, "line": None, "address": None, "counts": collections.Counter(), "free": []}
_lock = threading.Lock()


class Failed(Exception):
    """The exchange cannot be made; the message says who is missing or what does not fit."""


def timeout():
    """Return after how many seconds a rank that does not come counts as hung (NPU_DOUBLE_TIMEOUT, 60)."""
    return float(os.environ.get("NPU_DOUBLE_TIMEOUT", "60"))


def address():
    """Return "host:port" of the hub that this process is part of, or None."""
    return _state["address"] and "{}:{}".format(*_state["address"])


def join(rank, size, where, host, worker=None):
    """Meet all `size` ranks at `where`; the process with host=True listens there. Returns this process's rank.

    rank: None where ranks follow from the order of `worker` (address, device). Errors: Failed if not all come in time.
    """
    if host:
        _state["server"] = _listen(where, size)
    _state["address"] = where
    _state["line"] = _connect(where)
    rank = _ask(_state["line"], {"do": "join", "rank": rank, "size": size, "worker": worker})
    _state["rank"] = rank
    if host:
        _state["server"].own = rank
    return rank


def leave():
    """Say goodbye, and stop listening once all others have."""
    line, server = _state["line"], _state["server"]
    for connection in _state["free"] + ([line] if line else []):
        try:
            if connection is line:
                _ask(line, {"do": "bye"})
            connection.close()
        except (OSError, EOFError, Failed):
            pass  # a hub that has gone needs no goodbye
    if server:
        server.meeting.all_left(2.0)
        server.shutdown()
        server.server_close()
    _state.update(server=None, line=None, address=None, counts=collections.Counter(), free=[])


def exchange(name, ranks, array, facts):
    """Return the arrays of all `ranks` (world ranks, of which this process is one) in that order.

    facts: what has to be the same everywhere. Errors: Failed.
    """
    with _lock:
        key = (tuple(ranks), name, _state["counts"][tuple(ranks), name])
        _state["counts"][tuple(ranks), name] += 1
        connection = _state["free"].pop() if _state["free"] else None
    connection = connection or _connect(_state["address"])
    array = np.asarray(array)
    bfloat16 = array.dtype.kind == "V"
    request = {"do": "exchange", "key": key, "rank": _state["rank"], "array": array.view(np.uint16) if bfloat16 else array, "facts": facts}
    arrays = _ask(connection, request)
    with _lock:
        _state["free"].append(connection)
    return [other.view(array.dtype) for other in arrays] if bfloat16 else arrays


class _Meeting:
    """What the hub knows: who is there, and what was brought to which exchange."""

    def __init__(self, size):
        self._size = size
        self._there = {}
        self._workers = {}
        self._left = set()
        self._broken = set()
        self._rounds = {}
        self._answered = collections.defaultdict(set)
        self._change = threading.Condition()

    def join(self, request):
        with self._change:
            mine = request["worker"] if request["rank"] is None else request["rank"]
            if request["size"] != self._size:
                raise Failed("rank {} thinks there are {} ranks, the hub {}".format(mine, request["size"], self._size))
            if mine in self._workers:
                raise Failed("rank {} is there twice".format(mine))
            self._workers[mine] = True
            self._change.notify_all()
            if not self._change.wait_for(lambda: len(self._workers) == self._size, timeout()):
                raise Failed("only {} of {} ranks came within {} s: {}".format(len(self._workers), self._size, timeout(), sorted(self._workers)))
            return sorted(self._workers).index(mine)

    def exchange(self, request):
        key, rank = request["key"], request["rank"]
        with self._change:
            brought = self._rounds.setdefault(key, {})
            brought[rank] = request["array"], request["facts"]
            self._change.notify_all()
            whole = self._change.wait_for(lambda: set(brought) == set(key[0]) or self._gone(key, brought), timeout())
            missing = sorted(set(key[0]) - set(brought))
            if not whole or missing:
                others = sorted({other[1] for other, found in self._rounds.items() if set(found) & set(missing) and set(found) != set(other[0])})
                raise Failed(
                    "rank {} waits at {} (run {}) for ranks {}, which {}; they wait at {}".format(
                        rank, key[1], key[2], missing, "have left" if whole else "did not come within {} s".format(timeout()), others or "nothing"
                    )
                )
            first = brought[key[0][0]]
            for other in key[0]:
                array, facts = brought[other]
                if facts != first[1] or (array.shape, array.dtype) != (first[0].shape, first[0].dtype):
                    raise Failed(
                        "{}: rank {} brings {} {} {}, rank {} {} {} {}".format(
                            key[1], key[0][0], first[0].dtype, first[0].shape, first[1], other, array.dtype, array.shape, facts
                        )
                    )
            return [brought[other][0] for other in key[0]]

    def answered(self, request):
        """A rank has its answer: the host waits until all have, lest it end the program before."""
        with self._change:
            key = request["key"]
            self._answered[key].add(request["rank"])
            self._change.notify_all()
            if len(self._answered[key]) == len(key[0]):
                del self._rounds[key], self._answered[key]

    def wait_for_others(self, request):
        key = request["key"]
        with self._change:
            self._change.wait_for(lambda: len(self._answered[key]) >= len(key[0]) - 1 or self._broken, 5)

    def _gone(self, key, brought):
        return (self._left | self._broken) & (set(key[0]) - set(brought))

    def leave(self, rank, orderly):
        with self._change:
            (self._left if orderly else self._broken).add(rank)
            self._change.notify_all()

    def all_left(self, seconds):
        with self._change:
            self._change.wait_for(lambda: len(self._left | self._broken) >= self._size, seconds)


class _Handler(socketserver.BaseRequestHandler):
    def handle(self):
        meeting, rank, orderly = self.server.meeting, None, False
        try:
            while True:
                request = _receive(self.request)
                try:
                    if request["do"] == "join":
                        rank = meeting.join(request)
                        answer = rank
                    elif request["do"] == "bye":
                        orderly, answer = True, None
                        meeting.leave(rank, True)
                    else:
                        answer = meeting.exchange(request)
                        if request["rank"] == self.server.own:
                            meeting.wait_for_others(request)
                    _send(self.request, ("ok", answer))
                    if request["do"] == "exchange":
                        meeting.answered(request)
                except Failed as error:
                    _send(self.request, ("failed", str(error)))
        except (EOFError, OSError):
            if rank is not None and not orderly:
                meeting.leave(rank, False)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    own = 0


def _listen(where, size):
    server = _Server(where, _Handler)
    server.meeting = _Meeting(size)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def _connect(where):
    deadline = time.monotonic() + timeout()
    while True:
        try:
            connection = socket.create_connection(where, timeout=timeout() + 10)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except OSError:
            if time.monotonic() > deadline:
                raise Failed("nobody listens at {}:{}: rank 0 has not come within {} s".format(where[0], where[1], timeout())) from None
            time.sleep(0.05)  # nothing tells when it does


def _ask(connection, request):
    try:
        _send(connection, request)
        status, answer = _receive(connection)
    except (EOFError, OSError) as error:
        raise Failed("the hub has gone: {!r}".format(error)) from None
    if status == "failed":
        raise Failed(answer)
    return answer


def _send(connection, thing):
    data = pickle.dumps(thing, protocol=4)
    connection.sendall(struct.pack(">Q", len(data)) + data)


def _receive(connection):
    (length,) = struct.unpack(">Q", _exactly(connection, 8))
    return pickle.loads(_exactly(connection, length))  # of a process of the same test


def _exactly(connection, length):
    parts = []
    while length:
        part = connection.recv(min(length, 1 << 20))
        if not part:
            raise EOFError("connection closed")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


recorder.at_end(leave)
