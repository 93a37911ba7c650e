"""One trainer at a time across machines: a lease on a run's place in the storage, an object that its holder renews.

`<prefix>/lease.json` names the holder and carries a fencing number that grows with every new holder. It changes hands by conditional writes alone,
so of two that want it one wins, and its version tells a holder that it has lost it. A holder asks before each write of consequence (`check`,
`confirm`), and the pointer `latest.json` carries the number too, so a trainer that was cut off and wakes up stops instead of writing over its
successor's work. A server that does not honour conditions gets the next best: read, write, read again. Source of the idea: Gray & Cheriton, Leases
(1989); Kleppmann, "How to do distributed locking" (2016) for the fencing number.
"""

import json
import logging
import threading
import time

from mtc import files
from mtc.errors import TakenOver, UserError
from mtc.storage import Conflict, TransientError, join_key

log = logging.getLogger("mtc.storage")

NAME = "lease.json"
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_SETTLE = 1.0
"""Seconds between writing and reading again on a server without conditional writes: two that start together see who was last."""


class Lease:
    """A lease that is held, renewed by a thread of its own; made by `acquire`."""

    def __init__(self, storage, key, seconds, record, version):
        self._storage, self._key, self.seconds = storage, key, seconds
        self._record, self._version = record, version
        self._confirmed = _clocks()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._lost = None
        self._thread = threading.Thread(target=self._renew_now_and_then, name="lease", daemon=True)
        self._thread.start()

    @property
    def fence(self):
        """The fencing number: larger than that of every holder before."""
        return self._record["fence"]

    @property
    def token(self):
        """What tells this holder from all others."""
        return self._record["token"]

    def check(self):
        """Raise TakenOver where the lease is known to be lost; asks nobody."""
        if self._lost:
            raise TakenOver(self._lost)

    def confirm(self):
        """Make sure that the lease is held now. Errors: TakenOver; `TransientError` and UserError where the storage cannot be asked."""
        self.check()
        if max(now - then for now, then in zip(_clocks(), self._confirmed)) > self.seconds / 3.0:
            self._renew()

    def close(self):
        """Give the lease back, as far as the storage can be reached."""
        self._closing.set()
        self._thread.join(5)
        try:
            with self._lock:
                if not self._lost:
                    self._write(dict(self._record, state="released"))
        except (TransientError, UserError, TakenOver) as error:
            log.warning("the lease on %s is not given back: %s", self._storage.url(self._key), error)

    def _renew_now_and_then(self):
        while not self._closing.wait(self.seconds / 3.0):
            try:
                self._renew()
            except TakenOver:
                return
            except Exception as error:  # the storage is away or refuses: training goes on, and uploads tell the reason
                log.debug("the lease on %s is not renewed: %s", self._storage.url(self._key), error)

    def _renew(self):
        with self._lock:
            self.check()
            self._write(dict(self._record, expires=_expiry(self.seconds)))

    def _write(self, record):
        asked = _clocks()
        try:
            self._version = _replace(self._storage, self._key, record, self._version)
        except Conflict:
            found, version = _read(self._storage, self._key)
            if not found or found.get("token") != record["token"]:
                self._lost = "the run at {} was taken over by {}; this trainer stops".format(
                    self._storage.url(self._key.rpartition("/")[0]), describe(found) if found else "somebody who removed {}".format(self._key)
                )
                raise TakenOver(self._lost) from None
            self._version = version  # our own write, whose answer was lost
        self._record, self._confirmed = record, asked


def acquire(storage, prefix, uid, holder, seconds=60.0, gone=(), take_over=False, sleep=time.sleep):
    """Return the `Lease` on `<prefix>` in the storage for a run.

    holder: the `mtc.lock.Holder` who takes it, whose token becomes the lease's. gone: tokens of holders that are known to have ended. take_over:
    replace another holder too, once its lease has run out: that is, once it was not renewed for `seconds`. Errors: UserError names the holder;
    TransientError where the storage cannot be reached.
    """
    key = join_key(prefix, NAME)
    while True:
        found, version = _read(storage, key)
        if found and found.get("state") != "released" and found.get("token") not in gone:
            _wait_until_it_has_run_out(storage, key, found, version, take_over, sleep)
            log.warning("taking over from %s, whose lease has run out", describe(found))
        record = {
            "v": 1,
            "uid": uid,
            "fence": int(found.get("fence", 0)) + 1 if found else 1,
            "token": holder.token,
            "what": holder.what,
            "pid": holder.pid,
            "host": holder.host,
            "since": holder.since,
            "seconds": seconds,
            "expires": _expiry(seconds),
            "state": "held",
        }
        try:
            version = _replace(storage, key, record, version)
        except Conflict:
            continue  # somebody was faster: look again
        if not storage.honours_conditions():
            sleep(_SETTLE)
            found, version = _read(storage, key)
            if not found or found.get("token") != holder.token:
                continue
        return Lease(storage, key, seconds, record, version)


def describe(record):
    """Return a few words that name the holder in a lease."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.get("since", 0)))
    return "{} (process {} on {}, since {})".format(record.get("what", "trainer"), record.get("pid"), record.get("host"), since)


def read(storage, prefix):
    """Return the lease's record, or None."""
    return _read(storage, join_key(prefix, NAME))[0]


def _wait_until_it_has_run_out(storage, key, found, version, take_over, sleep):
    """Return once the lease has not been renewed for its time; its holder's clock is not trusted.

    Errors: UserError where it is renewed meanwhile, or nobody asked for taking over.
    """
    seconds, where = float(found.get("seconds", 60.0)), storage.url(key.rpartition("/")[0])
    late = time.time() - float(found.get("expires", 0)) > seconds  # by so much no clock is wrong without other troubles
    if not take_over:
        what = "its lease has run out: add --take-over to go on in its place" if late else "stop it, or choose another name or storage.uri"
        raise UserError("{} is held by another {}; {}".format(where, describe(found), what))
    if late:
        return
    log.warning("%s is held by %s: waiting %.0f s to see whether it is alive", where, describe(found), seconds)
    waited = 0.0
    while waited < seconds:
        sleep(min(5.0, seconds / 4))
        waited += min(5.0, seconds / 4)
        now, there = _read(storage, key)
        if there != version:
            if now is None or now.get("state") == "released":
                return
            raise UserError("{} is held by another {}, which is alive: stop it, or choose another name or storage.uri".format(where, describe(now)))


def _replace(storage, key, record, version):
    """Write the record where `version` is still there, and return the new version. Errors: Conflict."""
    data = files.json_bytes(record)
    if storage.honours_conditions():
        return storage.write(key, data, expected=version)
    if storage.read_versioned(key)[1] != version:
        raise Conflict(key)
    storage.write(key, data)
    return storage.read_versioned(key)[1]


def _read(storage, key):
    data, version = storage.read_versioned(key)
    try:
        found = json.loads(data.decode("utf-8")) if data is not None else None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else None, version


def _clocks():
    """This moment by two clocks that count a machine's sleep: one of them may stand still in a virtual machine, the other may be set back."""
    return time.clock_gettime(_BOOTTIME), time.time()


def _expiry(seconds):
    return round(time.time() + seconds, 3)
