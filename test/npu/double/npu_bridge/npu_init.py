"""Double of npu_bridge.npu_init: everything that users import with a star (facts §1.2), and what it defines itself (§1.3)."""

# ruff: noqa: F401 - these names are what the module is for
import os

import tensorflow.compat.v1 as tf
from hccl.manage.api import (
    create_group,
    destroy_group,
    get_group_rank_from_world_rank,
    get_local_rank_id,
    get_local_rank_size,
    get_rank_id,
    get_rank_size,
    get_world_rank_from_group_rank,
)
from hccl.split.api import set_split_strategy_by_idx, set_split_strategy_by_size
from npu_double import options as _options
from npu_double import sessions as _sessions
from npu_double.recorder import recorded as _recorded
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python.client import session
from tensorflow.python.training import session_run_hook

from npu_bridge.estimator import npu_ops
from npu_bridge.estimator.npu import (
    keras_to_npu,
    npu_cpu_ops,
    npu_plugin,
    npu_rnn,
    npu_scope,
    npu_strategy,
    profiler,
    scoped_graph_manager,
    util,
)
from npu_bridge.estimator.npu.npu_callbacks import NPUBroadcastGlobalVariablesCallback
from npu_bridge.estimator.npu.npu_config import DumpConfig, DynamicInputConfig, MemoryConfig, NPURunConfig, ProfilingConfig
from npu_bridge.estimator.npu.npu_estimator import NPUEstimator, NPUEstimatorSpec
from npu_bridge.estimator.npu.npu_hook import (
    NPUBroadcastGlobalVariablesHook,
    NPUCheckpointSaverHook,
    NPUOutputTensorHook,
    SetIterationsVarHook,
    TellMeStepOrLossHook,
)
from npu_bridge.estimator.npu.npu_loss_scale_manager import ExponentialUpdateLossScaleManager, FixedLossScaleManager
from npu_bridge.estimator.npu.npu_loss_scale_optimizer import NPULossScaleOptimizer
from npu_bridge.estimator.npu.npu_optimizer import (
    KerasDistributeOptimizer,
    NPUDistributedOptimizer,
    NPUOptimizer,
    npu_allreduce,
    npu_distributed_optimizer_wrapper,
)
from npu_bridge.estimator.npu_unary_ops import npu_unary_ops
from npu_bridge.hccl import hccl_ops

_sessions.take_all()

try:
    from tensorflow.python.keras import backend
except ImportError:  # a TensorFlow whose Keras is a package of its own
    backend = None


@_recorded("npu_config_proto", phase="configured")
def npu_config_proto(config_proto=None):
    """Return a ConfigProto for the NPU: the one given, changed in place, or a new one."""
    if not isinstance(config_proto, config_pb2.ConfigProto):
        config_proto = config_pb2.ConfigProto()
    return _options.configure(config_proto)


@_recorded("npu_graph_options")
def npu_graph_options(graph_options=None):
    """As npu_config_proto, of a GraphOptions."""
    if not isinstance(graph_options, config_pb2.GraphOptions):
        graph_options = config_pb2.GraphOptions()
    config = config_pb2.ConfigProto(graph_options=graph_options)
    graph_options.CopyFrom(_options.configure(config).graph_options)
    return graph_options


@_recorded("npu_optimizer_options")
def npu_optimizer_options(optimizer_options=None):
    """Return OptimizerOptions with the compiler off."""
    if not isinstance(optimizer_options, config_pb2.OptimizerOptions):
        optimizer_options = config_pb2.OptimizerOptions()
    optimizer_options.global_jit_level = config_pb2.OptimizerOptions.OFF
    return optimizer_options


@_recorded("npu_run_config_init")
def npu_run_config_init(run_config=None):
    """Return a RunConfig of TensorFlow's estimator whose session configuration is the NPU's."""
    if run_config is None:
        run_config = tf.estimator.RunConfig()
    run_config.__dict__["_session_config"] = npu_config_proto(run_config.session_config)
    return run_config


@_recorded("experimental_options")
def experimental_options(disable_model_pruning=False, function_optimization=None, constant_folding=None, shape_optimization=None,
                         arithmetic_optimization=None, loop_optimization=None, dependency_optimization=None, layout_optimizer=None):  # fmt: skip
    """Not in the test double."""
    raise NotImplementedError("experimental_options is not in the test double")


@_recorded("set_keras_session_npu_config")
def set_keras_session_npu_config(config=None):
    """Return a session for the NPU, which is Keras's from now on."""
    made = session.Session(config=npu_config_proto(config))
    backend.set_session(made)
    return made


@_recorded("npu_clear_session")
def npu_clear_session(config=None):
    """Forget Keras's session and make a new one."""
    backend.clear_session()
    set_keras_session_npu_config(config)


@_recorded("init_resource")
def init_resource(config=None):
    """Bring the NPU and HCCL up: return (session to keep open, operation that shuts down)."""
    config = npu_config_proto(config)
    util.global_dict_init()
    init, shutdown = npu_ops.initialize_system(), npu_ops.shutdown_system()
    made = session.Session(config=config)
    made.run(init)
    for key, query in (
        ("rank_id", get_rank_id),
        ("local_rank_id", get_local_rank_id),
        ("rank_size", get_rank_size),
        ("local_rank_size", get_local_rank_size),
    ):
        util.set_value("npu_" + key, query())
    return made, shutdown


@_recorded("shutdown_resource")
def shutdown_resource(sess, npu_shutdown):
    """Run the operation that shuts down."""
    sess.run(npu_shutdown)


@_recorded("close_session")
def close_session(sess):
    """Close a session."""
    sess.close()


@_recorded("get_npu_rank_id")
def get_npu_rank_id():
    """Return what init_resource found; NameError before it."""
    return util.get_value("npu_rank_id", 0)


@_recorded("get_npu_local_rank_id")
def get_npu_local_rank_id():
    """Return what init_resource found; NameError before it."""
    return util.get_value("npu_local_rank_id", 0)


@_recorded("get_npu_rank_size")
def get_npu_rank_size():
    """Return what init_resource found; NameError before it."""
    return util.get_value("npu_rank_size", 1)


@_recorded("get_npu_local_rank_size")
def get_npu_local_rank_size():
    """Return what init_resource found; NameError before it."""
    return util.get_value("npu_local_rank_size", 1)


class NpuEmptyHook(session_run_hook.SessionRunHook):
    """Does nothing."""


@_recorded("npu_hooks_append")
def npu_hooks_append(hooks_list=()):
    """Append the hook that broadcasts variables, in place if it is a list."""
    hooks_list = hooks_list if isinstance(hooks_list, list) else []
    hooks_list.append(NPUBroadcastGlobalVariablesHook(0, int(os.environ.get("RANK_ID") or 0)))
    return hooks_list


@_recorded("npu_callbacks_append")
def npu_callbacks_append(callbacks_list=()):
    """Append the callback that broadcasts variables, in place if it is a list."""
    callbacks_list = callbacks_list if isinstance(callbacks_list, list) else []
    callbacks_list.append(NPUBroadcastGlobalVariablesCallback(0))
    return callbacks_list


@_recorded("npu_tf_optimizer")
def npu_tf_optimizer(opt):
    """Return NPUDistributedOptimizer(opt)."""
    return NPUDistributedOptimizer(opt)


@_recorded("npu_keras_optimizer")
def npu_keras_optimizer(opt):
    """Return KerasDistributeOptimizer(opt)."""
    return KerasDistributeOptimizer(opt)


@_recorded("decorator_tf_session")
def decorator_tf_session(*args, **kwargs):
    """Not in the test double."""
    raise NotImplementedError("decorator_tf_session is not in the test double")


if _sessions.era() == "2021":  # that edition had neither the patch of sessions nor these
    for _name in ("npu_config_proto", "npu_graph_options", "npu_optimizer_options", "npu_distributed_optimizer_wrapper", "npu_plugin", "npu_scope",
                  "npu_hooks_append", "npu_callbacks_append", "npu_tf_optimizer", "npu_keras_optimizer", "init_resource", "shutdown_resource",
                  "close_session", "set_keras_session_npu_config", "npu_clear_session"):  # fmt: skip
        del globals()[_name]
