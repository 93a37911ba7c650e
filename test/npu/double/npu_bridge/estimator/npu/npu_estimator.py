"""Double of npu_bridge.estimator.npu.npu_estimator: the checks, and TensorFlow's estimator where there is one (1.15)."""

import os

import tensorflow.compat.v1 as tf
from npu_double import sessions
from npu_double.recorder import recorded

from npu_bridge.estimator.npu import npu_config, npu_hook, util


class NPUEstimatorSpec:
    """TensorFlow's EstimatorSpec with host_call=(function, list or dict of tensors)."""

    @recorded("NPUEstimatorSpec")
    def __new__(cls, mode, predictions=None, loss=None, train_op=None, eval_metric_ops=None, export_outputs=None, training_chief_hooks=None,
                training_hooks=None, scaffold=None, evaluation_hooks=None, prediction_hooks=None, host_call=None):  # fmt: skip
        if host_call is not None and (not isinstance(host_call, tuple) or len(host_call) != 2 or not isinstance(host_call[1], (list, dict))):
            raise ValueError("host_call has to be (function, list or dict of tensors)")
        if npu_config.estimator() is None:
            raise NotImplementedError("this TensorFlow has no tf.estimator")
        return npu_config.estimator().EstimatorSpec(
            mode, predictions, loss, train_op, eval_metric_ops, export_outputs, training_chief_hooks, training_hooks, scaffold, evaluation_hooks,
            prediction_hooks,
        )  # fmt: skip


class NPUEstimator:
    """An estimator whose sessions are the NPU's; `train`, `evaluate` and `predict` are TensorFlow's."""

    @recorded("NPUEstimator")
    def __init__(self, model_fn=None, model_dir=None, config=None, params=None, job_start_file="", warm_start_from=None):
        if not isinstance(config, npu_config.NPURunConfig):
            raise ValueError("config is {}, expected an NPURunConfig".format(type(config).__name__))
        if not os.environ.get("JOB_ID"):
            raise ValueError("JOB_ID is not set")
        module = npu_config.estimator()
        if module is None:
            raise NotImplementedError("this TensorFlow has no tf.estimator")
        self._config = config
        run = module.RunConfig(
            model_dir=model_dir or config.model_dir, tf_random_seed=config.tf_random_seed, save_summary_steps=config.save_summary_steps,
            save_checkpoints_steps=None, save_checkpoints_secs=None, session_config=config.npu_session_config(),
            keep_checkpoint_max=config.keep_checkpoint_max, log_step_count_steps=config.log_step_count_steps,
        )  # fmt: skip
        self._estimator = module.Estimator(self._looped(model_fn), model_dir, run, params, warm_start_from)

    def _looped(self, model_fn):
        """Group the train operation as IterationOp, where a run makes several iterations."""

        def called(features, labels, mode, params, config):
            given = {"features": features, "labels": labels, "mode": mode, "params": params, "config": config}
            names = model_fn.__code__.co_varnames[: model_fn.__code__.co_argcount]
            spec = model_fn(**{name: given[name] for name in names})
            if spec.train_op is not None and self._config.iterations_per_loop > 1:
                spec = spec._replace(train_op=tf.group(spec.train_op, name=sessions.LOOP))
            return spec

        return called

    @recorded("NPUEstimator.train")
    def train(self, input_fn, hooks=None, steps=None, max_steps=None, saving_listeners=None):
        """Train with the adapter's hooks behind the caller's."""
        hooks, config = list(hooks or ()), self._config
        if int(util.get_ranksize()) > 1 and not config.options["horovod_mode"]:
            hooks.append(npu_hook.NPUBroadcastGlobalVariablesHook(0, int(os.environ.get("RANK_ID") or 0)))
        if config.save_checkpoints_steps or config.save_checkpoints_secs:
            hooks.append(npu_hook.NPUCheckpointSaverHook(self._estimator.model_dir, config.save_checkpoints_secs, config.save_checkpoints_steps))
        if config.iterations_per_loop > 1:
            hooks.append(npu_hook.SetIterationsVarHook(config.iterations_per_loop))
        self._estimator.train(input_fn, hooks, steps, max_steps, saving_listeners)
        return self

    def evaluate(self, *args, **kwargs):
        return self._estimator.evaluate(*args, **kwargs)

    def predict(self, *args, **kwargs):
        return self._estimator.predict(*args, **kwargs)
