"""Stand-ins for trainers that hold leases."""

import socket
import uuid

from mtc.lock import Holder
from mtc.storage import lease as leases


def holder(token=None, host=None):
    """Return a `Holder` with a token of its own."""
    return Holder(token or uuid.uuid4().hex, "trainer", 4711, host or socket.gethostname(), 1.7e9, 1, "held")


def lease(storage, prefix="p", seconds=3600.0, **options):
    """Take the lease on a prefix."""
    return leases.acquire(storage, prefix, "uid", options.pop("holder", None) or holder(), seconds, **options)
