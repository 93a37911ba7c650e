"""Which process of how many this is, by the rules of HCCL (facts §4.2 to §4.4): a rank table or CM_* variables, never both.

`set_world` puts a test into a world of its own, without peers that really run.
"""

import json
import os
import zlib

from npu_double import device, recorder

WORLD_GROUP = "hccl_world_group"
CM = ("CM_CHIEF_IP", "CM_CHIEF_PORT", "CM_CHIEF_DEVICE", "CM_WORKER_SIZE", "CM_WORKER_IP")

_state = {}
_environment = {}


@recorder.at_reset
def _restart():
    from npu_double import hub

    hub.leave()
    for name, value in _environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    _environment.clear()
    _state.clear()
    _state.update(scripted=None, peers=None, ready=False, ended=False, queries=False, rank=None, groups={}, inits=0, shutdowns=0)


def set_world(rank, size, peers=None):
    """Be rank `rank` of `size` in one process: RANK_ID and RANK_SIZE are set until `reset`.

    peers: function (name of the operation, own array) -> arrays of the other ranks in rank order; by default they have what this one has.
    """
    assert 0 <= rank < size
    for name, value in (("RANK_ID", rank), ("RANK_SIZE", size)):
        _environment.setdefault(name, os.environ.get(name))
        os.environ[name] = str(value)
    _state.update(scripted=(rank, size), peers=peers or (lambda name, own: [own] * (size - 1)))


def scripted():
    """Return (rank, size) of `set_world`, or None."""
    return _state["scripted"]


def peers(name, own):
    """Return what the ranks of a scripted world have, own included, in rank order."""
    rank, size = _state["scripted"]
    others = list(_state["peers"](name, own))
    assert len(others) == size - 1, "peers of set_world: {} arrays for {} other ranks".format(len(others), size - 1)
    return others[:rank] + [own] + others[rank:]


def size():
    """Return the number of processes of the job, by the environment."""
    if _state["scripted"]:
        return _state["scripted"][1]
    text = os.environ.get("RANK_SIZE") or os.environ.get("CM_WORKER_SIZE") or "1"
    try:
        return int(text)
    except ValueError:
        raise ValueError("RANK_SIZE or CM_WORKER_SIZE is {!r}: expected a number".format(text)) from None


def rank():
    """Return this process's rank: known once HCCL is up, and before that where RANK_ID says so."""
    if _state["scripted"]:
        return _state["scripted"][0]
    return _state["rank"] if _state["rank"] is not None else int(os.environ.get("RANK_ID") or 0)


def by_workers():
    """Whether CM_* variables describe the job."""
    return any(name in os.environ for name in CM)


def table():
    """Return the rank table, checked: {rank: (server_id, device_id, device_ip)}, or None without RANK_TABLE_FILE.

    Errors: ValueError that names what HCCL would not accept.
    """
    path = os.environ.get("RANK_TABLE_FILE")
    if not path:
        return None
    try:
        with open(path, encoding="utf-8") as f:
            content = json.load(f)
    except (OSError, ValueError) as error:
        raise ValueError("RANK_TABLE_FILE={}: {}".format(path, error)) from None
    return check_table(content)


def check_table(content):
    """As `table`, of the parsed file (template 1)."""
    if content.get("status") != "completed":
        raise ValueError("rank table: status is {!r}, not 'completed'".format(content.get("status")))
    if content.get("version") != "1.0":
        raise ValueError("rank table: version is {!r}, not '1.0'".format(content.get("version")))
    servers = content.get("server_list") or []
    if content.get("server_count") != str(len(servers)):
        raise ValueError("rank table: server_count is {!r} for {} servers".format(content.get("server_count"), len(servers)))
    if len({server.get("server_id") for server in servers}) != len(servers):
        raise ValueError("rank table: two servers with one server_id")
    found = {}
    for server in servers:
        if not isinstance(server.get("server_id"), str) or not 0 < len(server["server_id"]) <= 64:
            raise ValueError("rank table: server_id {!r} is no string of 1 to 64 characters".format(server.get("server_id")))
        devices = server.get("device") or []
        ids = set()
        for entry in devices:
            for key in ("device_id", "device_ip", "rank_id"):
                if not isinstance(entry.get(key), str):
                    raise ValueError("rank table: {} of {} is no string".format(key, entry))
            if int(entry["rank_id"]) in found or entry["device_id"] in ids:
                raise ValueError("rank table: rank_id {} or device_id {} twice".format(entry["rank_id"], entry["device_id"]))
            ids.add(entry["device_id"])
            found[int(entry["rank_id"])] = (server["server_id"], int(entry["device_id"]), entry["device_ip"])
        if device.chip() == "910":
            check_devices([int(number) for number in ids], "server {}".format(server["server_id"]))
    if sorted(found) != list(range(len(found))) or not found:
        raise ValueError("rank table: rank_ids are {}, not 0 to n-1".format(sorted(found)))
    return found


def check_devices(numbers, where):
    """Raise ValueError unless a 910 server may join these devices: 1, 2, 4 or 8 of them, 2 and 4 within 0-3 or 4-7."""
    if len(numbers) not in (1, 2, 4, 8):
        raise ValueError("{}: {} devices; a 910 takes 1, 2, 4 or 8".format(where, len(numbers)))
    if len(numbers) in (2, 4) and len({number // 4 for number in numbers}) != 1:
        raise ValueError("{}: devices {} are not within 0-3 or 4-7".format(where, sorted(numbers)))


def start(by_system=False):
    """Bring HCCL up, at the run of initialize_system (by_system), or of the first graph with a collective operation. Errors: ValueError.

    Only the first makes queries of ranks legal.
    """
    from npu_double import hub

    _state["queries"] = _state["queries"] or by_system
    if _state["ready"]:
        return
    if os.environ.get("RANK_SIZE") and os.environ.get("CM_WORKER_SIZE"):
        raise ValueError("RANK_SIZE and CM_WORKER_SIZE are both set")
    if not _state["scripted"]:
        if by_workers():
            _start_by_workers()
        else:
            _start_by_table()
    _state["ready"], _state["ended"] = True, False
    recorder.enter("hccl_ready")
    recorder.note("event", api="hccl.ready", rank=rank(), size=size(), hub=hub.address())


def _start_by_table():
    from npu_double import hub

    found, ranks = table(), size()
    if ranks == 1:
        return
    own = os.environ.get("RANK_ID")
    if own is None or not 0 <= int(own) < ranks:
        raise ValueError("RANK_ID is {!r}, not 0 to {}".format(own, ranks - 1))
    if found is None and "NPU_DOUBLE_HUB" not in os.environ:
        raise ValueError("RANK_SIZE={} without RANK_TABLE_FILE or CM_* variables".format(ranks))
    if found is not None and len(found) != ranks:
        raise ValueError("RANK_SIZE={}, but the rank table has {} devices".format(ranks, len(found)))
    _state["rank"] = int(own)
    hub.join(int(own), ranks, _address(), host=int(own) == 0)


def _start_by_workers():
    from npu_double import hub

    for name in ("RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE"):
        if name in os.environ:
            raise ValueError("{} must not be set beside CM_* variables".format(name))
    for name in CM:
        if name not in os.environ:
            raise ValueError("{} is not set, but others of {} are".format(name, ", ".join(CM)))
    port = int(os.environ["CM_CHIEF_PORT"])
    if not 0 <= port <= 65520:
        raise ValueError("CM_CHIEF_PORT={}: expected 0 to 65520".format(port))
    if size() == 1:
        return
    own = os.environ["CM_WORKER_IP"], int(os.environ.get("ASCEND_DEVICE_ID") or os.environ.get("DEVICE_ID") or 0)
    chief = os.environ["CM_CHIEF_IP"], int(os.environ["CM_CHIEF_DEVICE"])
    _state["rank"] = hub.join(None, size(), _address(), host=own == chief, worker=own)


def _address():
    """Where ranks meet: NPU_DOUBLE_HUB, the chief's port, or one that follows from the rank table's first device; always this machine."""
    if "NPU_DOUBLE_HUB" in os.environ:
        host, _, port = os.environ["NPU_DOUBLE_HUB"].rpartition(":")
        return host or "127.0.0.1", int(port)
    if by_workers():
        return "127.0.0.1", int(os.environ["CM_CHIEF_PORT"])
    server, number, address = table()[0]
    return "127.0.0.1", 20000 + zlib.crc32("{} {} {}".format(server, number, address).encode()) % 10000


def ready():
    """Whether HCCL answers queries."""
    return _state["ready"] and _state["queries"]


def ended():
    """Whether it did and was shut down."""
    return _state["ended"]


def stop():
    """Take HCCL down."""
    from npu_double import hub

    if _state["ready"]:
        hub.leave()
        _state.update(ready=False, ended=True, queries=False)


def groups():
    """Return {name: world ranks} of the groups that were created."""
    return _state["groups"]


def ranks_of(group):
    """Return the world ranks of a group, ascending by group rank. Errors: ValueError for a group that was not created."""
    if group == WORLD_GROUP:
        return list(range(size()))
    if group not in _state["groups"]:
        raise ValueError("group {!r} was not created".format(group))
    return _state["groups"][group]


def count(what):
    """Count runs of "inits" or "shutdowns" and return the number with this one."""
    _state[what] += 1
    return _state[what]


def local():
    """Return (rank within this server, ranks on this server)."""
    found = table() if not _state["scripted"] and not by_workers() else None
    if found is None:
        return rank(), size()
    here = sorted(number for number, entry in found.items() if entry[0] == found[rank()][0])
    return here.index(rank()), len(here)


_state.update(scripted=None, peers=None, ready=False, ended=False, queries=False, rank=None, groups={}, inits=0, shutdowns=0)
