"""Sums over all ranks by HCCL, Huawei's collectives between Ascend NPUs: one NPU a process.

HCCL answers questions about ranks once it is initialised, by an operation that a session has run. Fused sums are cut by npu.gradient_fusion (shares
of the gradients' bytes in percent, in the order in which they are made), by default as HCCL does it. Source: facts/ascend.md, sections 1 and 4.
"""

import tensorflow.compat.v1 as tf


class Hccl:
    """What a graph and a session of one rank need; the interface of `collectives.Collectives`."""

    def __init__(self, rank, size, device, gradient_fusion=()):
        """rank: None where HCCL says it (no rank table)."""
        self._device = device
        self.size = size
        self.rank = device.rank(size) if rank is None else rank
        if gradient_fusion:
            from hccl.split.api import set_split_strategy_by_size

            set_split_strategy_by_size(list(gradient_fusion))

    def session(self, graph):
        """Return a session on this rank's NPU."""
        return self._device.session(graph)

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
