"""Sums over all ranks by TensorFlow's collectives: ring all-reduce over gRPC on CPUs, NCCL on GPUs.

Works in graph mode on TensorFlow 1.15 and 2.x, where each rank has a `tf.train.Server` whose configuration names the leader that numbers the
collectives. A collective starts when its input is there, so sums of late layers travel while gradients of early ones are computed. Every rank gets
the same bits, and the same again in each run. Pieces of about 4 MB are the fastest over gRPC: docs/scaling.md.
"""

import contextlib

import tensorflow.compat.v1 as tf

_LEADER = "/job:worker/replica:0/task:0"
_GROUP = 1

_open = []
"""All sessions of this process: one that nobody refers to any more would be closed."""


class Collectives:
    """What a graph and a session of one rank need."""

    def __init__(self, rank, addresses, device, bucket_bytes):
        """addresses: host:port of every rank's server; device: `mtc.devices.Device`. Starts this rank's server."""
        self.rank, self.size, self._bucket = rank, len(addresses), bucket_bytes
        self._kind, self._next = device.kind, 1
        self.config = tf.ConfigProto()
        self.config.CopyFrom(device.session_config)
        self.config.experimental.collective_group_leader = _LEADER
        self.config.experimental.collective_nccl = device.kind == "gpu"
        self._server = tf.train.Server({"worker": list(addresses)}, job_name="worker", task_index=rank, config=self.config)

    @contextlib.contextmanager
    def session(self, graph):
        """Yield a session on this rank's server. It stays open, for the process ends with it: to close it asks all servers, and waits half a minute,
        or for ever, for one whose process has ended before.
        """
        session = tf.Session(self._server.target, graph=graph, config=self.config)
        _open.append(session)
        yield session

    def scope(self):
        """Return the context manager under which the graph of this rank is built: without it, operations land on rank 0."""
        return tf.device("/job:worker/replica:0/task:{}".format(self.rank))

    def sum(self, tensors):
        """Return the float32 tensors summed over all ranks. Large ones are cut, small ones put together, in the order given."""
        pieces, room = [[]], self._bucket
        for number, tensor in enumerate(tensors):
            flat = tf.reshape(tensor, [-1])
            count, start = int(flat.shape[0]), 0
            while start < count or not count:
                if pieces[-1] and room < min(4 * count, self._bucket):
                    pieces.append([])
                    room = self._bucket
                length = min(count - start, max(room // 4, 1))
                whole = length == count
                pieces[-1].append((number, flat if whole else flat[start : start + length]))
                room, start = room - 4 * length, start + length
                if not count:
                    break
        parts = [[] for _ in tensors]
        for piece in pieces:
            together = self._all_reduce(piece[0][1] if len(piece) == 1 else tf.concat([part for _, part in piece], axis=0))
            shares = [together] if len(piece) == 1 else tf.split(together, [int(part.shape[0]) for _, part in piece])
            for (number, _), share in zip(piece, shares):
                parts[number].append(share)
        return [tf.reshape(found[0] if len(found) == 1 else tf.concat(found, axis=0), t.shape) for found, t in zip(parts, tensors)]

    def from_first(self, variables):
        """Return the operation that gives the variables the values that rank 0 has."""
        made = []
        for variable in variables:
            with tf.device("/{}:0".format(self._kind)):
                options = {"group_size": self.size, "group_key": _GROUP, "instance_key": self._key(), "shape": variable.shape}
                if self.rank:
                    found = tf.raw_ops.CollectiveBcastRecv(T=variable.dtype.base_dtype, **options)
                    made.append(tf.assign(variable, found).op)
                else:
                    made.append(tf.raw_ops.CollectiveBcastSend(input=variable.value(), **options).op)
        return tf.group(*made)

    def _all_reduce(self, flat):
        options = {"group_size": self.size, "group_key": _GROUP, "instance_key": self._key(), "merge_op": "Add", "final_op": "Id"}
        with tf.device("/{}:0".format(self._kind)):
            return tf.raw_ops.CollectiveReduce(input=flat, subdiv_offsets=[0], **options)

    def _key(self):
        self._next += 1
        return self._next
