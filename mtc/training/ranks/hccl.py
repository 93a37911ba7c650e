"""Sums over all ranks by HCCL, Huawei's collectives between Ascend NPUs: one NPU a process.

HCCL answers questions about ranks once it is initialised, by an operation that a session has run. Fused sums are cut by npu.gradient_fusion (shares
of the gradients' bytes in percent, in the order in which they are made), by default as HCCL does it. Source: facts/ascend.md, sections 1 and 4.
"""

import contextlib

import tensorflow.compat.v1 as tf

from mtc.errors import RunFailed, UserError


def identified(world, device, stack):
    """Return a `World` with the rank that HCCL has given this process, which has no rank table.

    stack: ExitStack that keeps the device's system running. Errors: RunFailed where HCCL does not come up; UserError where it found other devices.
    """
    try:
        stack.enter_context(device.system(device.session_config))
    except tf.errors.OpError as error:
        raise RunFailed("the NPUs do not come together (CM_* variables): {}".format(error.message.split("\n")[0])) from error
    from hccl.manage.api import get_rank_id, get_rank_size

    if get_rank_size() != world.size:
        raise UserError("CM_WORKER_SIZE={}: HCCL has found {} devices".format(world.size, get_rank_size()))
    return world._replace(rank=get_rank_id())


class Hccl:
    """What a graph and a session of one rank need; the interface of `collectives.Collectives`."""

    def __init__(self, rank, size, device, gradient_fusion=()):
        self.rank, self.size, self._device, self._fusion = rank, size, device, list(gradient_fusion)

    @contextlib.contextmanager
    def session(self, graph):
        """Yield a session on this rank's NPU."""
        with self._device.session(graph) as session:
            if self._fusion:
                from hccl.split.api import set_split_strategy_by_size

                set_split_strategy_by_size(self._fusion)
            yield session

    def scope(self):
        """Return a context manager that does nothing: a process has one NPU."""
        return tf.device("")

    def sum(self, tensors):
        """Return the float32 tensors summed over all ranks; HCCL fuses them."""
        from npu_bridge.hccl import hccl_ops

        return [hccl_ops.allreduce(tensor, "sum", fusion=1) for tensor in tensors]

    def from_first(self, variables):
        """Return the operation that gives the variables the values that rank 0 has: all of them, not the trainable ones alone."""
        from npu_bridge.hccl import hccl_ops

        found = hccl_ops.broadcast([tf.identity(variable) for variable in variables], 0)
        return tf.group(*[tf.assign(variable, value).op for variable, value in zip(variables, found)])
