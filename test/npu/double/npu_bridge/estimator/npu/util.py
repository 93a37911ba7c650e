"""Double of npu_bridge.estimator.npu.util: several iterations in one session.run, and attributes on nodes."""

import os

import tensorflow.compat.v1 as tf
from npu_double import collective, recorder, sessions
from npu_double.recorder import recorded

_SCOPE = "npu_runconfig"
_NAMES = ("iterations_per_loop", "loop_cond", "zero", "one")


@recorded("util.set_iteration_per_loop", phase="graph")
def set_iteration_per_loop(sess, train_op, iterations_per_loop=1):
    """Return the operation that makes n iterations in one run (named IterationOp), or train_op itself for n=1."""
    _check(iterations_per_loop)
    if not isinstance(train_op, tf.Operation):
        raise ValueError("train_op is {}, expected an Operation".format(type(train_op).__name__))
    if iterations_per_loop == 1:
        return train_op
    loop = IterationPerLoop()
    group = loop.create_iteration_per_loop_var(train_op)
    loop.load_iteration_per_loop_var(sess, iterations_per_loop)
    return group


class IterationPerLoop:
    """The same in two steps: the variables are made before the graph is frozen, and loaded after."""

    def __init__(self):
        self._variables = None

    @recorded("util.IterationPerLoop.create_iteration_per_loop_var", phase="graph")
    def create_iteration_per_loop_var(self, train_op):
        """Return the operation IterationOp."""
        if not isinstance(train_op, tf.Operation):
            raise ValueError("train_op is {}, expected an Operation".format(type(train_op).__name__))
        if train_op.graph.finalized:
            recorder.lint("graph-finalized", "the variables of a loop cannot be added to a finalized graph")
        with train_op.graph.as_default():
            self._variables = create_variables()
            group = tf.group(train_op, name=sessions.LOOP)
        sessions.looped(train_op.graph, self._variables[0].value())
        return group

    @recorded("util.IterationPerLoop.load_iteration_per_loop_var")
    def load_iteration_per_loop_var(self, sess, iterations_per_loop=1):
        """Tell how many iterations a run makes."""
        _check(iterations_per_loop)
        for variable, value in zip(self._variables, (iterations_per_loop - 1, 0, 0, 1)):
            sess.run(variable.initializer, {variable.initializer.inputs[1]: value})
        recorder.note("event", api="iterations_per_loop", value=iterations_per_loop)


def create_variables():
    """Return the four int64 variables of a loop, local and resources; made once in a graph."""
    with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
        return [
            tf.get_variable(
                "{}/{}".format(_SCOPE, name), [], tf.int64, tf.zeros_initializer(), trainable=False,
                collections=[tf.GraphKeys.LOCAL_VARIABLES], use_resource=True,
            )
            for name in _NAMES
        ]  # fmt: skip


def _check(iterations_per_loop):
    if isinstance(iterations_per_loop, bool) or not isinstance(iterations_per_loop, int):
        raise TypeError("iterations_per_loop is {}, expected an int".format(type(iterations_per_loop).__name__))
    if iterations_per_loop <= 0:
        raise ValueError("iterations_per_loop={}, expected 1 or more".format(iterations_per_loop))


@recorded("util.get_ranksize")
def get_ranksize():
    """Return the number of ranks by the environment, a string. Errors: ValueError if it says so twice."""
    if os.environ.get("RANK_SIZE") and os.environ.get("CM_WORKER_SIZE"):
        raise ValueError("RANK_SIZE and CM_WORKER_SIZE are both set")
    return os.environ.get("RANK_SIZE") or os.environ.get("CM_WORKER_SIZE") or "1"


@recorded("util.keep_tensors_dtypes")
def keep_tensors_dtypes(graph, input_tensors):
    """Put _keep_dtype on the operations of these tensors' names."""
    if not isinstance(graph, tf.Graph):
        raise ValueError("graph is {}, expected a Graph".format(type(graph).__name__))
    if not isinstance(input_tensors, (list, tuple)):
        raise ValueError("input_tensors is {}, expected a list or tuple".format(type(input_tensors).__name__))
    for name in input_tensors:
        collective.stamp(graph.get_tensor_by_name(name).op, _keep_dtype=1)


@recorded("util.set_graph_exec_config")
def set_graph_exec_config(
    fetch, dynamic_input=False, dynamic_graph_execute_mode="dynamic_execute", dynamic_inputs_shape_range=None, is_train_graph=False,
    experimental_config=None,
):  # fmt: skip
    """Put attributes on what is fetched: how its graph is run."""
    if dynamic_graph_execute_mode not in ("dynamic_execute", "lazy_recompile"):
        raise ValueError("dynamic_graph_execute_mode={!r}".format(dynamic_graph_execute_mode))
    for one in fetch if isinstance(fetch, (list, tuple)) else [fetch]:
        element = tf.get_default_graph().as_graph_element(one) if isinstance(one, str) else one
        if not hasattr(element, "op") and not isinstance(element, tf.Operation):
            raise ValueError("fetch is {}, expected an operation or a tensor".format(type(element).__name__))
        operation = element if isinstance(element, tf.Operation) else element.op
        if operation.type == "NoOp" and not operation.control_inputs:
            recorder.lint("config-on-no-op", "set_graph_exec_config on {}, which does nothing".format(operation.name))
        collective.stamp(
            operation, _graph_dynamic_input=dynamic_input, _graph_dynamic_graph_execute_mode=dynamic_graph_execute_mode,
            _graph_dynamic_inputs_shape_range=dynamic_inputs_shape_range or "", _is_train_graph=is_train_graph,
        )  # fmt: skip
    return fetch


@recorded("util.variable_initializer_in_host")
def variable_initializer_in_host(var_list):
    """Return the operation var_in_host, which initialises variables on the host."""
    return tf.group(*[variable.initializer for variable in var_list], name="var_in_host")


@recorded("util.global_dict_init")
def global_dict_init():
    """Make the module's dictionary; before, reading it is a NameError."""
    global _global_dict
    _global_dict = {}


def set_value(key, value):
    """Put a value into the dictionary."""
    _global_dict[key] = value


def get_value(key, def_value=None):
    """Return a value of the dictionary. Errors: NameError before global_dict_init."""
    try:
        return _global_dict[key]
    except KeyError:
        return def_value


@recorder.at_reset
def _restart():
    globals().pop("_global_dict", None)
