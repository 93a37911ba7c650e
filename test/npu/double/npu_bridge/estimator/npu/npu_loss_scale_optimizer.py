"""Double of npu_bridge.estimator.npu.npu_loss_scale_optimizer: a step that overflowed is skipped (facts §3.3)."""

import tensorflow.compat.v1 as tf
from npu_double import device, graphs, recorder, sessions, world
from npu_double.recorder import recorded

from npu_bridge.hccl import hccl_ops
from npu_bridge.helper import helper

gen_npu_ops = helper.get_gen_ops()


class NPULossScaleOptimizer(tf.train.Optimizer):
    """Scales the loss for the gradients' sake, and applies them only where nothing overflowed; put around the distributed optimizer."""

    @recorded("NPULossScaleOptimizer", phase="graph")
    def __init__(self, opt, loss_scale_manager, is_distributed=False):
        if not isinstance(opt, tf.train.Optimizer):
            raise ValueError('"opt" must be an instance of Optimizer, but got: {}'.format(type(opt)))
        self._opt, self._loss_scale_manager, self._is_distributed = opt, loss_scale_manager, is_distributed
        super().__init__(use_locking=False, name="NPULossScaleOptimizer{}".format(type(opt).__name__))
        self._inverses = []  # what compute_gradients scaled back by
        sessions.loss_scaled()
        if is_distributed != (world.size() > 1):
            recorder.lint("is-distributed", "is_distributed={}, but there are {} ranks".format(is_distributed, world.size()))

    def __getattr__(self, name):
        """What is not here is the inner optimizer's."""
        if name.startswith("__") or "_opt" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._opt, name)

    def compute_gradients(self, loss, var_list=None, gate_gradients=tf.train.Optimizer.GATE_OP, aggregation_method=None,
                          colocate_gradients_with_ops=False, grad_loss=None):  # fmt: skip
        """Return the inner optimizer's gradients of the scaled loss, divided by the scale."""
        scale = tf.convert_to_tensor(self._loss_scale_manager.get_loss_scale())
        loss = loss() if callable(loss) else loss
        gradients = self._opt.compute_gradients(
            loss * tf.cast(scale, loss.dtype.base_dtype), var_list=var_list, gate_gradients=gate_gradients, aggregation_method=aggregation_method,
            colocate_gradients_with_ops=colocate_gradients_with_ops, grad_loss=grad_loss,
        )  # fmt: skip
        inverse = 1.0 / scale
        self._inverses.append(inverse.op)
        return [(None if gradient is None else tf.scalar_mul(inverse, gradient), variable) for gradient, variable in gradients]

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """Return the operation that applies them, and counts global_step, only on a step without overflow."""
        grads_and_vars = list(grads_and_vars)
        gradients = [gradient for gradient, _ in grads_and_vars if gradient is not None]
        before = graphs.subgraph([_values(gradient).op for gradient in gradients])
        if not any(operation.name in before for operation in self._inverses):
            recorder.lint("foreign-gradients", "these gradients do not come from this optimizer's compute_gradients: they are not scaled back")
        finite = self._finite(gradients)
        update = tf.cond(finite, lambda: self._opt.apply_gradients(grads_and_vars, global_step, name), tf.no_op)
        return tf.group(update, self._loss_scale_manager.update_loss_scale(finite))

    def _finite(self, gradients):
        if device.inf_nan_mode():
            return tf.reduce_all([tf.reduce_all(tf.is_finite(_values(gradient))) for gradient in gradients])
        if not self._loss_scale_manager.get_enable_overflow_check():
            return tf.constant(True)
        with tf.control_dependencies([_values(gradient) for gradient in gradients]):
            status = gen_npu_ops.npu_get_float_status_v2()
        with tf.control_dependencies([status]):
            clear = gen_npu_ops.npu_clear_float_status_v2()
        if self._is_distributed:
            with tf.control_dependencies([clear]):
                status = hccl_ops.allreduce([status], "sum", fusion=0)
        with tf.control_dependencies([clear]):
            return tf.reduce_all(tf.equal(status, 0), name="overflow_status_reduce_all")


def _values(gradient):
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
