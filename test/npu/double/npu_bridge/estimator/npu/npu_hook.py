"""Double of npu_bridge.estimator.npu.npu_hook (and npu_rnn's neighbours): hooks of monitored sessions."""

import os

import tensorflow.compat.v1 as tf
from npu_double import recorder, sessions
from npu_double.recorder import recorded

from npu_bridge.estimator.npu import util
from npu_bridge.hccl import hccl_ops


@recorded("broadcast_global_variables", phase="graph")
def broadcast_global_variables(root_rank, index):
    """Return the operation that gives all ranks the root's trainable variables; no others."""
    variables = tf.trainable_variables()
    others = [variable.op.name for variable in tf.global_variables() if variable not in variables] if not variables else _others(variables)
    recorder.note("event", api="broadcast.variables", variables=[variable.op.name for variable in variables], left_out=others)
    values = hccl_ops.broadcast([variable.read_value() for variable in variables], root_rank)
    return tf.group(*[variable.assign(value) for variable, value in zip(variables, values)])


def _others(variables):
    names = {variable.op.name for variable in variables}
    return [variable.op.name for variable in tf.global_variables() if variable.op.name not in names]


class NPUBroadcastGlobalVariablesHook(tf.train.SessionRunHook):
    """Broadcasts the trainable variables once, after the session is made, if there are several ranks."""

    @recorded("NPUBroadcastGlobalVariablesHook")
    def __init__(self, root_rank=None, index=None):
        self._root, self._index, self._op = root_rank, index, None

    def begin(self):
        if int(util.get_ranksize()) > 1:
            self._op = broadcast_global_variables(self._root or 0, self._index)

    def after_create_session(self, session, coord):
        if self._op is not None:
            session.run(self._op)


class NPUCheckpointSaverHook(tf.train.CheckpointSaverHook):
    """TensorFlow's, which runs global_step once more after each run."""

    @recorded("NPUCheckpointSaverHook")
    def __init__(self, checkpoint_dir, save_secs=None, save_steps=None, saver=None, checkpoint_basename="model.ckpt", scaffold=None, listeners=None):
        super().__init__(checkpoint_dir, save_secs, save_steps, saver, checkpoint_basename, scaffold, listeners)

    def after_run(self, run_context, run_values):
        run_context.session.run(tf.train.get_global_step())
        super().after_run(run_context, run_values)


class NPUOutputTensorHook(tf.train.SessionRunHook):
    """Calls a function with tensors' values every so many steps."""

    @recorded("NPUOutputTensorHook")
    def __init__(self, tensors, dependencies=None, output_fn=None, output_every_n_steps=0):
        self._tensors, self._function, self._every, self._count = tensors, output_fn, output_every_n_steps, 0

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._tensors)

    def after_run(self, run_context, run_values):
        self._count += 1
        if self._function and self._every and self._count % self._every == 0:
            self._function(run_values.results)


class SetIterationsVarHook(tf.train.SessionRunHook):
    """Makes and loads a loop's variables; the train operation is grouped under the name IterationOp by the caller."""

    @recorded("SetIterationsVarHook")
    def __init__(self, iterations_per_loop=None):
        self._iterations, self._variables = iterations_per_loop, None

    def begin(self):
        self._variables = util.create_variables()
        sessions.looped(tf.get_default_graph(), self._variables[0].value())

    def after_create_session(self, session, coord):
        for variable, value in zip(self._variables, (self._iterations - 1, 0, 0, 1)):
            session.run(variable.initializer, {variable.initializer.inputs[1]: value})


class TellMeStepOrLossHook(tf.train.SessionRunHook):
    """Tells the device how far the training is, by environment variables."""

    @recorded("TellMeStepOrLossHook")
    def __init__(self, step=None, total_step=None, loss=None, final_loss=None):
        if step is None and loss is None:
            raise ValueError("step and loss are both None")
        self._step, self._loss = step, loss
        for name, value in (("TOTAL_STEP", total_step), ("TARGET_LOSS", final_loss)):
            if value is not None:
                os.environ[name] = str(value)

    def before_run(self, run_context):
        return tf.train.SessionRunArgs({"STEP_NOW": self._step} if self._loss is None else {"LOSS_NOW": self._loss})

    def after_run(self, run_context, run_values):
        for name, value in run_values.results.items():
            os.environ[name] = str(value)
