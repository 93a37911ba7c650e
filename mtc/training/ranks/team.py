"""What ranks say to each other: a connection of each follower to rank 0, one JSON object a line.

Followers come within `distributed.patience`, or nobody starts. From then on a rank that dies is noticed at once, by its connection's end, and one
whose machine is gone by its silence (`distributed.silence`). The others then end within seconds: TensorFlow 1.15's collectives wait for a dead rank
for ever, and no call can wake them, so the process is left without them. A step is made once every rank has its samples in hand; so one that cannot
read its samples ends the run before the step and not in the middle of it.
"""

import contextlib
import logging
import queue
import socket
import threading
import time

from mtc.errors import EXIT_CODES, RunFailed, Stopped, UserError, status_of
from mtc.training.ranks.link import Link, door, read_meeting

log = logging.getLogger("mtc.training")

_GRACE = 2.0
"""Seconds that a process gets to notice that a rank is gone, before it is ended without its main thread."""
_END_GRACE = 10.0
"""Seconds that a follower gets for the rest of its step, once rank 0 has ended."""
_FAREWELL = 60.0
"""Seconds that a process gets to put its affairs in order once it has noticed."""
_BEAT = 1.0
"""Seconds between two signs of life."""


class Leader:
    """Rank 0's end of all connections. Use as a context manager: its end tells the followers to end too."""

    made = 0
    """How many this process has made."""

    def __init__(self, world, facts, settings, abandon):
        """facts: what every rank must have in common, {name: JSON-able}; settings: the config's section; abandon(text) ends the process at once.

        Waits for all ranks. Errors: RunFailed where they do not come, UserError where one has other facts.
        """
        self.size, self.lost, self.wishes, self.mirrors = world.size, None, [], False
        self.before_leaving = None
        """Called when the process is about to be ended without its main thread."""
        self._abandon, self._silence = abandon, settings.silence
        self.noticed, self._ending = threading.Event(), threading.Event()
        self._links, self._failure = {}, None
        self._inboxes = {rank: queue.Queue() for rank in range(1, self.size)}
        self.addresses = [""] * self.size
        Leader.made += 1
        with door(world) as (opened, self.meeting):
            self._wait(opened, facts, settings.patience)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        status, text = "success", ""
        if error is not None:
            status = {UserError: "user_error", Stopped: "stopped"}.get(kind, "failed")
            text = str(error)
        self.noticed.set()
        self._ending.set()
        self._send_all({"do": "end", "status": status, "text": text, "requested_by": getattr(error, "requested_by", None)})
        for link in self._links.values():
            link.close()

    def tell(self, do, **more):
        """Have the followers do something; they do one thing after the other."""
        self._send_all(dict(more, do=do))

    def mirror(self, do):
        """Have the followers do what this rank does, where their devices must run the same graphs in the same order (NPUs)."""
        if self.mirrors:
            self.tell(do)

    def gather(self):
        """Return what each follower says of its samples of the next step, in the order of ranks; waits for them all.

        Errors: UserError where one cannot read its samples; RunFailed where one is gone.
        """
        found = [_next(self, self._inboxes[rank]) for rank in range(1, self.size)]
        self.check()
        return found

    def check(self):
        """Raise what a rank has failed with, RunFailed where one is gone without a word."""
        if self._failure:
            self.noticed.set()
            raise self._failure
        if self.lost:
            self.noticed.set()
            raise RunFailed(self.lost)

    def explained(self, error):
        """Return what to raise for TensorFlow's error in a step: that a rank is gone, if that is why."""
        return _explained(self, error)

    def _wait(self, opened, facts, patience):
        until, waiting = time.monotonic() + patience, set(self._inboxes)
        log.info("waiting for %d more rank%s at %s:%d", len(waiting), "s" if len(waiting) > 1 else "", *self.meeting)
        while waiting:
            opened.settimeout(max(0.01, until - time.monotonic()))
            try:
                link = Link(opened.accept()[0])
                link.socket.settimeout(10)
                hello = link.receive()
                rank = hello["rank"]
                if rank not in waiting or hello["size"] != self.size:
                    link.send({"refused": "rank {} of {} is not waited for at {}:{}".format(rank, hello["size"], *self.meeting)})
                    link.close()
                    continue
            except socket.timeout:
                if time.monotonic() < until:
                    continue
                text = "rank {} did not come to {}:{} within {:g} s (distributed.patience): all ranks have to be started"
                reason = text.format(", ".join(str(rank) for rank in sorted(waiting)), self.meeting[0], self.meeting[1], patience)
                self._refuse_all(reason, "failed")
                raise RunFailed(reason) from None
            except (OSError, ValueError, KeyError, TypeError):  # somebody else's connection
                continue
            self._links[rank] = link
            different = _difference(facts, hello["facts"])
            if different:
                reason = "rank {} at {} differs from rank 0: {}; start all ranks with the same".format(rank, link.host, different)
                self._refuse_all(reason, "user_error")
                raise UserError(reason)
            waiting.discard(rank)
            self.addresses[rank] = "{}:{}".format(link.host, hello["port"])

    def _refuse_all(self, reason, status):
        self._send_all({"refused": reason, "status": status})
        for link in self._links.values():
            link.close()

    def start(self, addresses):
        """Let the followers begin: they are all there. addresses: of every rank's server."""
        for rank, link in self._links.items():
            link.socket.settimeout(None)
            self._try(link.send, {"do": "welcome", "addresses": addresses})
            log.info("rank %d is at %s", rank, link.host)
            threading.Thread(target=self._read, args=(rank, link), name="rank {}".format(rank), daemon=True).start()
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()  # the first word that a follower hears is the welcome

    def _read(self, rank, link):
        how = "is gone"
        try:
            while True:
                message = link.receive()
                if "wish" in message:
                    self.wishes.append("{} at rank {}".format(message["wish"], rank))
                elif "failed" in message:
                    how = "has failed: {}".format(message["failed"])
                    self._failure = (UserError if message["user"] else RunFailed)("rank {}: {}".format(rank, message["failed"]))
                elif "beat" not in message:
                    self._inboxes[rank].put(message)
        except (OSError, ValueError):
            self._lose("rank {} ({}) {}".format(rank, link.host, how))

    def _lose(self, text):
        _lose(self, text + ": all ranks end; what was saved is kept, and the same command goes on from it")

    def _watch(self):
        while not self._ending.wait(_BEAT):
            self._send_all({"beat": 1})
            for rank, link in self._links.items():
                if time.monotonic() - link.heard > self._silence:
                    self._lose("rank {} ({}) has been silent for {:g} s (distributed.silence)".format(rank, link.host, self._silence))

    def _send_all(self, message):
        for link in self._links.values():
            self._try(link.send, message)

    @staticmethod
    def _try(send, message):
        with contextlib.suppress(OSError):  # the reader tells that somebody is gone
            send(message)


def dismiss(world, settings, code, text):
    """Tell ranks that come to rank 0 that it has ended already; waits for them, half a minute at most."""
    until, left = time.monotonic() + min(settings.patience, 30.0), world.size - 1
    with door(world) as (opened, _), contextlib.suppress(socket.timeout):
        while left:
            opened.settimeout(max(0.01, until - time.monotonic()))
            connection = opened.accept()[0]
            with contextlib.suppress(OSError, ValueError):
                link = Link(connection)
                link.socket.settimeout(5)
                left -= "rank" in link.receive()
                link.send({"do": "end", "status": status_of(code), "text": text, "requested_by": None})
            connection.close()


class Follower:
    """Another rank's connection to rank 0. Use as a context manager."""

    def __init__(self, world, port, facts, settings, abandon):
        """port: of this rank's TensorFlow server; the rest as for `Leader`. Waits until rank 0 lets it begin.

        Errors: RunFailed where rank 0 cannot be reached in time; UserError or RunFailed where it refuses.
        """
        self.rank, self.size, self.lost = world.rank, world.size, None
        self._abandon, self._silence = abandon, settings.silence
        self.noticed, self._ending = threading.Event(), threading.Event()
        self._inbox = queue.Queue()
        hello = {"rank": self.rank, "size": self.size, "facts": facts, "port": port}
        self.addresses = self._begin(world, hello, settings.patience)
        threading.Thread(target=self._read, name="rank 0", daemon=True).start()
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.noticed.set()
        self._ending.set()
        if error is not None:
            with contextlib.suppress(OSError):
                self._link.send({"failed": str(error), "user": issubclass(kind, UserError)})
        self._link.close()

    def receive(self):
        """Return rank 0's next message. Errors: RunFailed where it is gone."""
        message = _next(self, self._inbox)
        if message["do"] == "end":
            self.noticed.set()
        return message

    def check(self):
        """Raise RunFailed where rank 0 is gone."""
        if self.lost:
            self.noticed.set()
            raise RunFailed(self.lost)

    def ready(self, **facts):
        """Tell rank 0 that this rank's samples of the next step are in hand."""
        self._send(facts)

    def wish(self, signal):
        """Tell rank 0 that this process was asked to stop."""
        self._send({"wish": signal})

    def explained(self, error):
        """Return what to raise for TensorFlow's error in a step."""
        return _explained(self, error)

    def _begin(self, world, hello, patience):
        """Meet rank 0, and wait until it lets this rank begin. Returns the addresses of all servers, or [] where it has ended already."""
        until, why = time.monotonic() + patience, "nobody is there"
        while True:
            meeting = world.meeting
            try:
                meeting = read_meeting(world.meeting_file) if world.meeting_file else meeting
                self._link = Link(socket.create_connection(meeting, timeout=max(1.0, min(10.0, until - time.monotonic()))))
            except (OSError, ValueError, KeyError) as error:
                why = getattr(error, "strerror", None) or str(error)
            else:
                try:
                    self._link.send(hello)
                    self._link.socket.settimeout(patience + 10)
                    message = self._link.receive()
                    break
                except (OSError, ValueError) as error:
                    why = "it left before all ranks had come: {}".format(error)
            if time.monotonic() > until:
                where = world.meeting_file or "{}:{}".format(*meeting)
                raise RunFailed(
                    "rank {} does not reach rank 0 at {} within {:g} s (distributed.patience): {}".format(self.rank, where, patience, why)
                )
            time.sleep(0.2)
        self._link.socket.settimeout(None)
        if message.get("do") == "end":
            self._inbox.put(message)
            return []
        if "refused" in message:
            raise (UserError if message.get("status") == "user_error" else RunFailed)(message["refused"])
        return message["addresses"]

    def _read(self):
        try:
            while True:
                message = self._link.receive()
                if "beat" in message:
                    continue
                self._inbox.put(message)
                if message.get("do") == "end":
                    if not self.noticed.wait(_END_GRACE):  # the main thread waits for ranks that have left
                        self._abandon("rank 0 has ended: {}".format(message["text"] or message["status"]), EXIT_CODES[message["status"]])
                    return
        except (OSError, ValueError):
            _lose(self, "rank 0 ({}) is gone: this rank ends, too".format(self._link.host))

    def _watch(self):
        while not self._ending.wait(_BEAT):
            self._send({"beat": 1})
            if time.monotonic() - self._link.heard > self._silence:
                _lose(self, "rank 0 ({}) has been silent for {:g} s (distributed.silence): this rank ends".format(self._link.host, self._silence))

    def _send(self, message):
        with contextlib.suppress(OSError):
            self._link.send(message)


def _difference(mine, other):
    for name in sorted(set(mine) | set(other)):
        if mine.get(name) != other.get(name):
            return "{} is {}, not {}".format(name, other.get(name), mine.get(name))
    return ""


def _next(end, inbox):
    """Return the next message, however long it takes. Errors: RunFailed where a rank is gone."""
    while True:
        with contextlib.suppress(queue.Empty):
            return inbox.get_nowait()  # what a rank said before it went tells more than that it is gone
        end.check()
        with contextlib.suppress(queue.Empty):
            return inbox.get(timeout=0.2)


def _lose(end, text):
    """Note that a rank is gone; end the process where its main thread does not do so by itself."""
    if end._ending.is_set() or end.lost:
        return
    end.lost = text

    def leave():
        if not (end.noticed.wait(_GRACE) and end._ending.wait(_FAREWELL)):
            _leave(end, text, 1)

    threading.Thread(target=leave, name="leave", daemon=True).start()


def _explained(end, error):
    until = time.monotonic() + _GRACE
    while not end.lost and time.monotonic() < until:
        time.sleep(0.05)
    if not end.lost:
        return error
    end.noticed.set()
    return RunFailed(end.lost)


def _leave(end, text, code):
    try:
        if getattr(end, "before_leaving", None):
            end.before_leaving()
    finally:
        end._abandon(text, code)
