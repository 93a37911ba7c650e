"""One rank of the measurement of communication alone: the sums of a training's gradients, and nothing else.

The tensors have the sizes and the order of the network's gradients, and go through the training's own `Collectives`, once for each size of pieces.
Before, ranks 0 and 1 measure what their cable is really like. Rank 0 prints all as JSON. Started by `benchmarks.scaling` in a rank's namespace.
"""

import argparse
import contextlib
import json
import os
import socket
import sys
import time

_DOOR, _FIRST_PORT = 5000, 6000
_TURNS = 40
_WAIT = 120.0


def main(argv=None):
    """Measure, and end the process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--hosts", required=True, help="addresses of all ranks, separated by commas")
    parser.add_argument("--buckets", required=True, help="sizes of pieces in MB, separated by commas")
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--probe-bytes", type=int, required=True, help="what rank 1 sends to rank 0 for the cable's rate")
    parser.add_argument("--device", required=True, help="the network device whose bytes are counted")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args(argv)
    hosts = options.hosts.split(",")
    with _Meeting(options.rank, hosts) as meeting:
        cable = probe(meeting, options.probe_bytes)
        sums = _sums(options, hosts, meeting)
        meeting.wait()  # nobody leaves while another still reads from it
    if options.rank == 0:
        sys.stdout.write(json.dumps({"cable": cable, "sums": sums}) + "\n")
        sys.stdout.flush()
    os._exit(0)  # closing a session asks servers that are gone already


class _Meeting:
    """Connections of all ranks to rank 0."""

    def __init__(self, rank, hosts):
        self.links = []
        if rank == 0:
            with contextlib.closing(socket.socket()) as door:
                door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                door.bind((hosts[0], _DOOR))
                door.listen(len(hosts))
                door.settimeout(_WAIT)
                found = {}
                while len(found) < len(hosts) - 1:
                    link = door.accept()[0]
                    link.settimeout(_WAIT)
                    found[link.recv(1)[0]] = link
                self.links = [found[other] for other in sorted(found)]
        else:
            until = time.monotonic() + _WAIT
            while not self.links:
                try:
                    self.links = [socket.create_connection((hosts[0], _DOOR), timeout=5)]
                except OSError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.1)
            self.links[0].settimeout(_WAIT)
            self.links[0].sendall(bytes([rank]))
        for link in self.links:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rank = rank

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for link in self.links:
            link.close()

    def wait(self):
        """Return once all ranks are here."""
        if self.rank == 0:
            for link in self.links:
                assert link.recv(1) == b"h"
            for link in self.links:
                link.sendall(b"g")
        else:
            self.links[0].sendall(b"h")
            assert self.links[0].recv(1) == b"g"


def probe(meeting, count):
    """Return {"round_trip": seconds, "rate": bit/s} of the cables between ranks 0 and 1; None on the others."""
    found = None
    if meeting.rank == 0:
        link, trips = meeting.links[0], []
        for _ in range(_TURNS):
            started = time.perf_counter()
            link.sendall(b"t")
            link.recv(1)
            trips.append(time.perf_counter() - started)
        link.sendall(b"f")
        started, left = time.perf_counter(), count
        while left:
            left -= len(link.recv(min(left, 2**20)))
        found = {"round_trip": sorted(trips)[_TURNS // 2], "rate": 8 * count / (time.perf_counter() - started)}
    elif meeting.rank == 1:
        link = meeting.links[0]
        while link.recv(1) == b"t":
            link.sendall(b"t")
        block, left = bytes(2**18), count
        while left:
            left -= link.send(block[: min(left, len(block))])
    meeting.wait()
    return found


def sent(device):
    """Return the bytes that a network device of this namespace has sent."""
    with open("/proc/self/net/dev", encoding="ascii") as f:
        for line in f:
            name, colon, counters = line.partition(":")
            if colon and name.strip() == device:
                return int(counters.split()[8])
    raise OSError("there is no network device {}".format(device))


def _sums(options, hosts, meeting):
    from mtc import quiet

    quiet.import_tensorflow()
    import tensorflow.compat.v1 as tf

    from mtc import config as configuration
    from mtc import devices
    from mtc.losses import Losses
    from mtc.nets import cpm
    from mtc.skeleton import SKELETONS
    from mtc.training.ranks.collectives import Collectives

    tf.logging.set_verbosity(tf.logging.ERROR)
    config = configuration.load("demo", options.set)
    layers = cpm.plan(SKELETONS[config.model.kind], config.model.stages, config.model.width)
    shapes = [shape for _, shape in cpm.variables(layers)][::-1] + [(len(Losses._fields),)]
    measured = []
    for number, bucket in enumerate(float(text) for text in options.buckets.split(",")):
        device = devices.select(config, 1)
        addresses = ["{}:{}".format(host, _FIRST_PORT + number) for host in hosts]
        collectives = Collectives(options.rank, addresses, device, int(bucket * 1e6))
        meeting.wait()
        with tf.Graph().as_default() as graph, collectives.scope():
            tensors = [tf.get_variable("t{}".format(i), shape, tf.float32, tf.ones_initializer()) for i, shape in enumerate(shapes)]
            summed = tf.group(*[found.op for found in collectives.sum([tensor.value() for tensor in tensors])])
            initialise = tf.global_variables_initializer()
        with collectives.session(graph) as session:
            session.run(initialise)
            times, before = [], 0
            for turn in range(options.repeats + 2):
                if turn == 2:  # connections and buffers are there now
                    before = sent(options.device)
                started = time.perf_counter()
                session.run(summed)
                times.append(time.perf_counter() - started)
            meeting.wait()
            counted = (sent(options.device) - before) / options.repeats
        measured.append({"bucket_mb": bucket, "times": times[2:], "bytes_sent": counted})
    return measured


if __name__ == "__main__":
    main()
