"""Double of npu_bridge.hccl.hccl_ops: collective operations as graph nodes (facts §1.5)."""

import numpy as np
import tensorflow.compat.v1 as tf
from npu_double import collective, recorder, world
from npu_double.recorder import recorded

GROUP = world.WORLD_GROUP


@recorded("hccl_ops.allreduce")
def allreduce(tensor, reduction, fusion=1, fusion_id=-1, group=GROUP):
    """Return the sum, product, minimum or maximum over ranks."""
    tensor = tf.convert_to_tensor(tensor)
    _fusion("allreduce", fusion, (0, 1, 2))
    combine = lambda arrays, own: collective.reduced(arrays, reduction)  # noqa: E731
    return collective.make("HcomAllReduce", tensor, group, tensor.shape, combine, reduction=reduction, fusion=fusion, fusion_id=fusion_id)


@recorded("hccl_ops.allgather")
def allgather(tensor, rank_size, group=GROUP, fusion=0, fusion_id=-1):
    """Return the tensors of all ranks, one after the other along the first axis."""
    tensor = tf.convert_to_tensor(tensor)
    return collective.make(
        "HcomAllGather", tensor, group, _scaled(tensor, rank_size, 1), lambda arrays, own: np.concatenate(arrays), fusion=fusion, fusion_id=fusion_id
    )


@recorded("hccl_ops.broadcast")
def broadcast(tensor, root_rank, fusion=2, fusion_id=0, group=GROUP):
    """Return the list of tensors as the root has it. tensor: a list."""
    if not isinstance(tensor, (list, tuple)):
        raise TypeError("broadcast: expected a list of tensors, got {}".format(type(tensor).__name__))
    if fusion not in (0, 2):
        recorder.lint("broadcast-fusion", "broadcast: fusion={}; only 0 and 2 are known".format(fusion))
    made = []
    for one in map(tf.convert_to_tensor, tensor):
        root = lambda arrays, own: arrays[root_rank]  # noqa: E731
        made.append(collective.make("HcomBroadcast", one, group, one.shape, root, root=root_rank, fusion=fusion, fusion_id=fusion_id))
    return made


@recorded("hccl_ops.reduce")
def reduce(tensor, reduction, root_rank, fusion=0, fusion_id=-1, group=GROUP):
    """Return the reduced tensor on the root, and what was given elsewhere."""
    tensor = tf.convert_to_tensor(tensor)
    combine = lambda arrays, own: collective.reduced(arrays, reduction) if own == root_rank else arrays[own]  # noqa: E731
    return collective.make(
        "HcomReduce", tensor, group, tensor.shape, combine, reduction=reduction, root=root_rank, fusion=fusion, fusion_id=fusion_id
    )


@recorded("hccl_ops.reduce_scatter")
def reduce_scatter(tensor, reduction, rank_size, group=GROUP, fusion=0, fusion_id=-1):
    """Return this rank's part, of `rank_size` along the first axis, of the reduced tensor."""
    tensor = tf.convert_to_tensor(tensor)
    first = tensor.shape.as_list()[0]
    if first is not None and first % rank_size:
        raise ValueError("reduce_scatter: {} rows cannot be divided by rank_size={}".format(first, rank_size))
    combine = lambda arrays, own: np.split(collective.reduced(arrays, reduction), rank_size)[own]  # noqa: E731
    return collective.make(
        "HcomReduceScatter", tensor, group, _scaled(tensor, 1, rank_size), combine, reduction=reduction, fusion=fusion, fusion_id=fusion_id
    )


def _missing(name):
    @recorded("hccl_ops." + name)
    def function(*args, **kwargs):
        raise NotImplementedError("hccl_ops.{} is not in the test double".format(name))

    function.__name__ = name
    return function


send, receive, remote_read, remote_write = map(_missing, ("send", "receive", "remote_read", "remote_write"))
all_to_all_v, all_to_all_v_c, gather_all_to_all_v = map(_missing, ("all_to_all_v", "all_to_all_v_c", "gather_all_to_all_v"))


def _scaled(tensor, times, by):
    sizes = tensor.shape.as_list()
    return [None if sizes[0] is None else sizes[0] * times // by] + sizes[1:]


def _fusion(api, fusion, allowed):
    if fusion not in allowed:
        raise ValueError("{}: fusion={!r}, expected one of {}".format(api, fusion, allowed))
