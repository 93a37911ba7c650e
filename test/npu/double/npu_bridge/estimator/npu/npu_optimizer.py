"""Double of npu_bridge.estimator.npu.npu_optimizer: gradients averaged over ranks (facts §1.3, §1.4)."""

import os

import tensorflow.compat.v1 as tf
from npu_double import recorder
from npu_double.recorder import recorded

from npu_bridge.estimator.npu import npu_loss_scale_optimizer, util
from npu_bridge.estimator.npu.npu_common import NPUBasics
from npu_bridge.hccl import hccl_ops


@recorded("npu_allreduce", phase="graph")
def npu_allreduce(values, reduction="mean", fusion=1, fusion_id=-1, group="hccl_world_group"):
    """Return a tensor, or a list or tuple of them, reduced over ranks; mean is sum / size."""
    if isinstance(values, (list, tuple)):
        return type(values)([_allreduce(value, reduction, fusion, fusion_id, group) for value in values])
    return _allreduce(values, reduction, fusion, fusion_id, group)


def _allreduce(value, reduction, fusion, fusion_id, group):
    if value is None:
        return None
    size = int(util.get_ranksize())
    if size <= 1:
        return value
    mean = reduction == "mean"
    if isinstance(value, tf.IndexedSlices):
        values = hccl_ops.allgather(value.values, size, group)
        return tf.IndexedSlices(
            values / tf.cast(size, values.dtype) if mean else values, hccl_ops.allgather(value.indices, size, group), value.dense_shape
        )
    total = hccl_ops.allreduce(value, "sum" if mean else reduction, fusion, fusion_id, group)
    return total / tf.cast(size, total.dtype) if mean else total


def _averaged(grads_and_vars, scope):
    """Return the averages over ranks, as facts §4.5 names their nodes; None stays None."""
    size = int(util.get_ranksize())
    recorder.note(
        "event", api="optimizer.gradients", scope=scope, gradients=sum(grad is not None for grad, _ in grads_and_vars),
        none=sum(grad is None for grad, _ in grads_and_vars), rank_size=size,
    )  # fmt: skip
    if size <= 1:
        return grads_and_vars
    NPUBasics().size()  # without JOB_ID: AttributeError
    with tf.name_scope(scope + "/"):
        return [(npu_allreduce(grad) if grad is not None else None, variable) for grad, variable in grads_and_vars]


def _no_loss_scale_inside(optimizer, wrapper):
    if isinstance(optimizer, npu_loss_scale_optimizer.NPULossScaleOptimizer):
        recorder.lint("wrap-order", "{} is around NPULossScaleOptimizer; the loss scale belongs outside".format(wrapper))


class NPUDistributedOptimizer(tf.train.Optimizer):
    """An optimizer whose compute_gradients returns averages over ranks; one that passes everything on in a world of one."""

    @recorded("NPUDistributedOptimizer", phase="graph")
    def __init__(self, optimizer, is_weight_update_sharding=False, name=None):
        super().__init__(use_locking=False, name=name or "Distributed{}".format(type(optimizer).__name__))
        _no_loss_scale_inside(optimizer, "NPUDistributedOptimizer")
        self._optimizer, self._sharding = optimizer, is_weight_update_sharding

    def compute_gradients(self, *args, **kwargs):
        """As the optimizer inside, averaged."""
        gradients = self._optimizer.compute_gradients(*args, **kwargs)
        size = int(util.get_ranksize())
        if self._sharding and size > 1:
            if "DEVICE_ID" not in os.environ:
                raise ValueError("weight update sharding needs DEVICE_ID")
            if len(gradients) < size:
                raise ValueError("weight update sharding: {} gradients for {} ranks".format(len(gradients), size))
            recorder.lint("no-sharding", "the test double does not shard weight updates: every rank makes all")
        return _averaged(gradients, "{}_Allreduce".format(self._name))

    def apply_gradients(self, *args, **kwargs):
        return self._optimizer.apply_gradients(*args, **kwargs)

    def get_slot(self, *args, **kwargs):
        return self._optimizer.get_slot(*args, **kwargs)

    def get_slot_names(self, *args, **kwargs):
        return self._optimizer.get_slot_names(*args, **kwargs)

    def variables(self, *args, **kwargs):
        return self._optimizer.variables(*args, **kwargs)


@recorded("npu_distributed_optimizer_wrapper", phase="graph")
def npu_distributed_optimizer_wrapper(optimizer):
    """Patch an optimizer in place so that its gradients are averages over ranks; return it."""
    if isinstance(optimizer, str):
        optimizer = tf.keras.optimizers.get(optimizer)
    _no_loss_scale_inside(optimizer, "npu_distributed_optimizer_wrapper")
    scope = "Npu_Distributed_optimizer_Allreduce"
    if hasattr(optimizer, "compute_gradients"):
        compute = optimizer.compute_gradients
        optimizer.compute_gradients = lambda *args, **kwargs: _averaged(compute(*args, **kwargs), scope)
    if hasattr(optimizer, "get_gradients"):
        get = optimizer.get_gradients
        optimizer.get_gradients = lambda loss, params: [grad for grad, _ in _averaged([(grad, None) for grad in get(loss, params)], scope)]
    if hasattr(optimizer, "_compute_gradients"):
        inner = optimizer._compute_gradients
        optimizer._compute_gradients = lambda *args, **kwargs: _averaged(inner(*args, **kwargs), scope)
    return optimizer


class NPUOptimizer(tf.train.Optimizer):
    """Averages over ranks and a loss scale in one."""

    @recorded("NPUOptimizer", phase="graph")
    def __init__(self, opt, loss_scale_manager=None, is_distributed=False, is_loss_scale=False, is_tailing_optimization=False, name=None):
        super().__init__(use_locking=False, name=name or "NPUOptimizer{}".format(type(opt).__name__))
        if is_loss_scale and loss_scale_manager is None:
            raise ValueError("is_loss_scale without loss_scale_manager")
        made = NPUDistributedOptimizer(opt) if is_distributed else opt
        self._made = npu_loss_scale_optimizer.NPULossScaleOptimizer(made, loss_scale_manager, is_distributed) if is_loss_scale else made

    def compute_gradients(self, *args, **kwargs):
        return self._made.compute_gradients(*args, **kwargs)

    def apply_gradients(self, *args, **kwargs):
        return self._made.apply_gradients(*args, **kwargs)


class KerasDistributeOptimizer:
    """Keras's optimizer wrapper: not in the test double."""

    @recorded("KerasDistributeOptimizer")
    def __init__(self, optimizer, name="NpuKerasOptimizer", **kwargs):
        raise NotImplementedError("KerasDistributeOptimizer is not in the test double")
