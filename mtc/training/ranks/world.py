"""Which rank of how many this process is: what its environment says.

CPUs and GPUs: `TF_CONFIG` as TensorFlow's own strategies read it, or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun sets them. Ascend's
NPUs: RANK_ID, RANK_SIZE and RANK_TABLE_FILE, or CM_CHIEF_IP, CM_CHIEF_PORT, CM_CHIEF_DEVICE, CM_WORKER_IP and CM_WORKER_SIZE without a rank table,
where HCCL decides on the ranks. MTC_MEETING names a file on a disk that all ranks share, in place of MASTER_ADDR and MASTER_PORT. Source:
facts/ascend.md, section 4; TensorFlow's guide to TF_CONFIG.
"""

import ipaddress
import json
import os
from typing import NamedTuple, Optional, Tuple

from mtc import files
from mtc.errors import UserError

VARIABLES = (
    "TF_CONFIG", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "MTC_MEETING", "RANK_ID", "RANK_SIZE",
    "RANK_TABLE_FILE",
)  # fmt: skip
"""What tells a process which rank it is, but for CM_*, which belong to the machine."""

PORT = 29500
"""Where ranks meet rank 0 if nothing says otherwise, as with torchrun."""


class World(NamedTuple):
    """A process among those that train together."""

    rank: Optional[int]
    """0 leads. None where HCCL has yet to say."""
    size: int
    meeting: Tuple[str, int]
    """(host, port) at which rank 0 waits for the others."""
    addresses: Tuple[str, ...] = ()
    """host:port of each rank's TensorFlow server; () where each takes a port that is free."""
    meeting_file: str = ""
    """File on a disk that all ranks share, in which rank 0 says where it waits, in place of `meeting`."""


def of_environment(kind, environ=None):
    """Return the `World` of this process on a kind of device ("cpu", "gpu", "npu"), or None where it is alone.

    Errors: UserError where the environment says it in part, or in contradiction.
    """
    environ = os.environ if environ is None else environ
    return _of_ascend(environ) if kind == "npu" else _of_tensorflow(environ, kind)


def says_several(environ=None):
    """Whether anything in the environment says that there are several ranks: a quick look, which judges nothing."""
    environ = os.environ if environ is None else environ
    return bool(environ.get("TF_CONFIG")) or any(environ.get(name, "1") not in ("", "1") for name in ("WORLD_SIZE", "RANK_SIZE", "CM_WORKER_SIZE"))


def local_size(environ=None):
    """Return how many ranks share this machine, as far as the environment says."""
    environ = os.environ if environ is None else environ
    return _number(environ, "LOCAL_WORLD_SIZE", 1, least=1)


def _of_tensorflow(environ, kind):
    if environ.get("TF_CONFIG"):
        return _of_tf_config(environ)
    size = _number(environ, "WORLD_SIZE", 1, least=1)
    if size == 1:
        if _number(environ, "RANK_SIZE", 1) > 1:
            text = "RANK_SIZE={} is for NPUs, and the device is the {}: start its ranks with python -m tasks.launch, or unset RANK_SIZE"
            raise UserError(text.format(environ["RANK_SIZE"], kind))
        return None
    if "MASTER_ADDR" not in environ and not environ.get("MTC_MEETING"):
        raise UserError("WORLD_SIZE={} without MASTER_ADDR: say at which address rank 0 is, or use python -m tasks.launch".format(size))
    return World(_rank(environ, "RANK", size), size, **_meeting(environ, environ.get("MASTER_ADDR", ""), PORT))


def _of_tf_config(environ):
    try:
        values = json.loads(environ["TF_CONFIG"])
        cluster, task = values["cluster"], values["task"]
        chief, workers = list(cluster.get("chief", [])), list(cluster.get("worker", []))
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError("TF_CONFIG: expected {'cluster': {'worker': ['host:port', ...]}, 'task': {'type': 'worker', 'index': 0}} in JSON") from None
    if set(cluster) - {"chief", "worker"} or kind not in ("chief", "worker") or len(chief) > 1:
        raise UserError("TF_CONFIG: all ranks are workers here, one of them may be the chief; no parameter servers or evaluators")
    addresses = chief + workers
    rank = index + (len(chief) if kind == "worker" else 0)
    if not 0 <= rank < len(addresses):
        raise UserError("TF_CONFIG: task {} {} is not in the cluster of {}".format(kind, index, ", ".join(addresses) or "nobody"))
    if len(addresses) == 1:
        return None
    for address in addresses:
        host, colon, port = str(address).rpartition(":")
        if not (host and colon and port.isdigit()):
            raise UserError("TF_CONFIG: '{}' is not host:port".format(address))
    host, _, port = addresses[0].rpartition(":")
    return World(rank, len(addresses), addresses=tuple(addresses), **_meeting(environ, host, int(port) + 1))


def _of_ascend(environ):
    table_mode = [name for name in ("RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE") if environ.get(name)]
    if environ.get("CM_WORKER_SIZE"):
        if table_mode:
            raise UserError("{} and CM_WORKER_SIZE are set: HCCL takes a rank table or the CM_* variables, not both".format(table_mode[0]))
        size = _number(environ, "CM_WORKER_SIZE", 1, least=1)
        if size == 1:
            return None
        for name in ("CM_CHIEF_IP", "CM_CHIEF_PORT", "CM_CHIEF_DEVICE", "CM_WORKER_IP"):
            if not environ.get(name):
                raise UserError("CM_WORKER_SIZE={} without {}: HCCL needs all of CM_*".format(size, name))
        return World(None, size, **_meeting(environ, environ["CM_CHIEF_IP"], PORT))
    size = _number(environ, "RANK_SIZE", 1, least=1)
    if size == 1:
        if _number(environ, "WORLD_SIZE", 1) > 1 or environ.get("TF_CONFIG"):
            raise UserError("ranks on NPUs need RANK_TABLE_FILE, RANK_ID and RANK_SIZE, or CM_*: see docs/ascend.md, or use python -m tasks.launch")
        return None
    path = environ.get("RANK_TABLE_FILE")
    if not path:
        raise UserError("RANK_SIZE={} without RANK_TABLE_FILE: name the rank table, or use the CM_* variables in its place".format(size))
    return World(_rank(environ, "RANK_ID", size), size, **_meeting(environ, _first_server(path, size), PORT))


def _first_server(path, size):
    """Return the address of rank 0's server by a rank table; "" where the table does not have one."""
    try:
        table = files.read_json(path)
    except (ValueError, OSError) as error:
        raise UserError("RANK_TABLE_FILE={} cannot be read: {}".format(path, error)) from None
    if table is None:
        raise UserError("RANK_TABLE_FILE={} does not exist".format(path))
    try:
        servers = {int(device["rank_id"]): server["server_id"] for server in table["server_list"] for device in server["device"]}
        status = table["status"]
    except (KeyError, TypeError, ValueError):
        raise UserError("RANK_TABLE_FILE={}: expected status and server_list, each with server_id and device[].rank_id".format(path)) from None
    if status != "completed":
        raise UserError("RANK_TABLE_FILE={}: its status is '{}', not 'completed'".format(path, status))
    if sorted(servers) != list(range(size)):
        raise UserError("RANK_TABLE_FILE={} has ranks {}, RANK_SIZE is {}".format(path, ", ".join(map(str, sorted(servers))), size))
    if len(set(servers.values())) == 1:
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(servers[0]))
    except ValueError:
        return ""


def _meeting(environ, host, port):
    """Return the fields of a `World` that say where its ranks meet."""
    if environ.get("MTC_MEETING"):
        return {"meeting": ("", 0), "meeting_file": environ["MTC_MEETING"]}
    host = environ.get("MASTER_ADDR") or host
    if not host:
        raise UserError("set MASTER_ADDR to the address of rank 0's machine: the rank table's server_id is none")
    return {"meeting": (host, _number(environ, "MASTER_PORT", port, least=1))}


def _rank(environ, name, size):
    if name not in environ:
        raise UserError("{} is not set: it says which of the {} ranks this process is, 0 to {}".format(name, size, size - 1))
    rank = _number(environ, name, 0)
    if rank >= size:
        raise UserError("{}={}: there are {} ranks, 0 to {}".format(name, rank, size, size - 1))
    return rank


def _number(environ, name, default, least=0):
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isdigit() or int(text) < least:
        raise UserError("{}={}: expected a whole number from {} on".format(name, text, least))
    return int(text)
