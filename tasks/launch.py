"""`python -m tasks.launch --ranks N -- ARGUMENTS OF tasks.train`: starts the ranks of one training on this machine, and stays until all have ended.

Each rank gets what torchrun would set (RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT), and for NPUs what HCCL reads
(RANK_ID, RANK_SIZE, RANK_TABLE_FILE, ASCEND_DEVICE_ID, JOB_ID, or the CM_* variables without a rank table); a GPU each (CUDA_VISIBLE_DEVICES). Their
lines are printed with the rank before them. SIGTERM and SIGINT are handed on, so that the training saves and ends. Several machines: the same
command on each, with --nodes, --node-rank and --master.

Where all machines share a disk, --meet-in FILE takes the place of --master: rank 0 writes there where it is.

Exits as rank 0 did; with 1 where that was killed, or another rank ended otherwise.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

from mtc import files
from mtc.training.ranks.link import free_port, own_address
from mtc.training.ranks.world import VARIABLES
from tasks.step import FAILED, USER_ERROR

_AFTER_THE_FIRST = 60.0
"""Seconds that ranks get once one of them has ended; after that they are killed."""
_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent dies."""


def main(argv=None):
    """Return the exit code."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    try:
        environments = _environments(arguments, dict(os.environ))
    except ValueError as error:
        sys.stderr.write("error: {}\n".format(error))
        return USER_ERROR
    command = [sys.executable, "-m", "tasks.train"] + arguments.train
    with _Ranks(command, environments) as ranks:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda n, frame: ranks.signal(n))
        codes = ranks.wait()
    return _exit_code(codes, {int(environment["RANK"]): i for i, environment in enumerate(environments)}.get(0))


class _Ranks:
    """The processes of this machine. Use as a context manager: none outlives it."""

    def __init__(self, command, environments):
        self._printing = threading.Lock()
        self._processes, self._readers = [], []
        for environment in environments:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_die_with_the_parent
            )
            self._processes.append(process)
            reader = threading.Thread(target=self._print, args=(environment["RANK"], process.stdout), daemon=True)
            reader.start()
            self._readers.append(reader)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for reader in self._readers:
            reader.join(5)

    def signal(self, number):
        """Hand a signal on."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def wait(self):
        """Return all exit codes. A rank that does not end after another has is killed: they end together, or not at all."""
        until = None
        while True:
            codes = [process.poll() for process in self._processes]
            if None not in codes:
                return codes
            if until is None and any(code is not None for code in codes):
                until = time.monotonic() + _AFTER_THE_FIRST
            if until is not None and time.monotonic() > until:
                sys.stderr.write("ranks that did not end after another had are killed\n")
                return codes
            time.sleep(0.1)

    def _print(self, rank, lines):
        prefix = "[{}] ".format(rank).encode("ascii")
        for line in lines:
            with self._printing, contextlib.suppress(OSError):
                sys.stdout.buffer.write(prefix + line.rstrip(b"\r\n") + b"\n")
                sys.stdout.buffer.flush()


def _exit_code(codes, first):
    """Return the exit code of the whole. first: place of rank 0 among the codes, None where it is on another machine."""
    if first is not None and codes[first] is not None and codes[first] > 0:
        return codes[first]
    if any(code is None or code < 0 for code in codes):
        return FAILED
    return codes[first] or max(codes) if first is not None else max(codes)


def _environments(arguments, environ):
    """Return one environment a rank of this machine. Errors: ValueError with a sentence for the person."""
    size, first = arguments.ranks * arguments.nodes, arguments.ranks * arguments.node_rank
    if arguments.node_rank >= arguments.nodes:
        raise ValueError("--node-rank {}: there are {} machines, 0 to {}".format(arguments.node_rank, arguments.nodes, arguments.nodes - 1))
    if arguments.nodes > 1 and not (arguments.master or arguments.meet_in):
        raise ValueError("--nodes {} without --master HOST:PORT or --meet-in FILE: say where rank 0 is".format(arguments.nodes))
    meeting = {"MTC_MEETING": os.path.abspath(arguments.meet_in)} if arguments.meet_in else _master(arguments.master)
    devices = arguments.device_ids.split(",") if arguments.device_ids else [str(i) for i in range(arguments.ranks)]
    if len(devices) != arguments.ranks:
        raise ValueError("--device-ids {}: {} devices for {} ranks".format(arguments.device_ids, len(devices), arguments.ranks))
    table = arguments.rank_table or environ.get("RANK_TABLE_FILE", "")
    for name in VARIABLES + ("MTC_RANK_RECORD",):
        environ.pop(name, None)
    if table and files.read_json(table) is None:
        raise ValueError("--rank-table {}: does not exist".format(table))
    made = []
    for local, device in enumerate(devices):
        own = {"RANK": first + local, "LOCAL_RANK": local, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": arguments.ranks}
        own.update(meeting, ASCEND_DEVICE_ID=device)
        if arguments.record and not local:
            own["MTC_RANK_RECORD"] = arguments.record
        if size > 1:
            if table:
                own.update(RANK_TABLE_FILE=os.path.abspath(table), RANK_ID=first + local, RANK_SIZE=size)
            elif environ.get("CM_CHIEF_IP"):
                here = environ.get("CM_WORKER_IP") or (own_address() if arguments.nodes > 1 else environ["CM_CHIEF_IP"])
                own.update(CM_WORKER_SIZE=size, CM_WORKER_IP=here)
        own["JOB_ID"] = environ.get("JOB_ID", "mtc")
        if arguments.ranks > 1 or arguments.device_ids:
            visible = environ.get("CUDA_VISIBLE_DEVICES")
            seen = visible.split(",") if visible else None
            own["CUDA_VISIBLE_DEVICES"] = seen[int(device)] if seen and device.isdigit() and int(device) < len(seen) else device
        made.append(dict(environ, **{name: str(value) for name, value in own.items()}))
    return made


def _master(text):
    """Return the variables that say where ranks meet; on one machine at a port that is free now."""
    if not text:
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    host, colon, port = text.rpartition(":")
    if not (host and port.isdigit()):
        raise ValueError("--master {}: expected HOST:PORT".format(text))
    return {"MASTER_ADDR": host, "MASTER_PORT": int(port)}


def _die_with_the_parent():
    """Have this process asked to stop when the launcher dies, however it dies; and take the terminal's Ctrl-C from the launcher alone."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m tasks.launch",
        description="Start the ranks of one training on this machine.",
        usage="%(prog)s --ranks N [--device-ids 0,1,...] [--rank-table FILE] [--nodes M --node-rank K --master HOST:PORT] -- TRAIN_ARGUMENTS",
    )
    number = _whole_number
    parser.add_argument("--ranks", type=number(1), required=True, help="ranks on this machine: one a GPU or NPU")
    parser.add_argument("--device-ids", default="", help="GPUs or NPUs of the ranks, separated by commas; default: 0, 1, ...")
    parser.add_argument("--rank-table", default="", metavar="FILE", help="HCCL's rank table; default: $RANK_TABLE_FILE")
    parser.add_argument("--nodes", type=number(1), default=1, help="machines; start the same command on each")
    parser.add_argument("--node-rank", type=number(0), default=0, help="which of the machines this is; rank 0 is on machine 0")
    parser.add_argument("--master", default="", metavar="HOST:PORT", help="address of machine 0 and a port there that is free")
    parser.add_argument("--meet-in", default="", metavar="FILE", help="in place of --master: a file on a disk that all machines share")
    parser.add_argument("--record", default="", metavar="NAME", help="leave a record of this name in the run directory, for a machine without rank 0")
    split = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:split])
    arguments.train = argv[split + 1 :]
    return arguments


def _whole_number(least):
    def number(text):
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError("must be {} or more".format(least))
        return value

    return number


if __name__ == "__main__":
    sys.exit(main())
