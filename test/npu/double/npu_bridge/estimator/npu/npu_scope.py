"""Double of npu_bridge.estimator.npu.npu_scope: contexts that put attributes on the nodes made inside."""

import contextlib

import tensorflow.compat.v1 as tf
from npu_double import recorder


@contextlib.contextmanager
def _attributes(api, **values):
    recorder.note("call", api="npu_scope." + api, args=values)
    graph = tf.get_default_graph()
    before = len(graph.get_operations())
    with graph._attr_scope({"_" + name: value for name, value in values.items()}):
        yield
    if any(operation.type in ("VariableV2", "VarHandleOp") for operation in graph.get_operations()[before:]):
        recorder.lint("scope-around-variable", "variables were made inside npu_scope.{}".format(api))


def _s(text):
    return tf.AttrValue(s=tf.compat.as_bytes(text))


def keep_dtype_scope():
    """Nodes keep their dtype whatever the precision mode."""
    return _attributes("keep_dtype_scope", keep_dtype=tf.AttrValue(i=1))


def without_npu_compile_scope():
    """Nodes stay on the host."""
    return _attributes("without_npu_compile_scope", without_npu_compile=tf.AttrValue(b=True))


def npu_variable_scope(placement):
    return _attributes("npu_variable_scope", variable_placement=_s(placement))


def npu_stage_scope(stage):
    return _attributes("npu_stage_scope", stage_level=tf.AttrValue(i=stage))


def npu_weight_prefetch_scope(buffer_pool_id, buffer_pool_size=536870912):
    return _attributes("npu_weight_prefetch_scope", buffer_pool_id=tf.AttrValue(i=buffer_pool_id), buffer_pool_size=tf.AttrValue(i=buffer_pool_size))


def subgraph_multi_dims_scope(index):
    return _attributes("subgraph_multi_dims_scope", subgraph_multi_dims_index=tf.AttrValue(i=index))


def disable_autofuse():
    return _attributes("disable_autofuse", disable_autofuse_scope=tf.AttrValue(b=True))


def npu_optimizer_scope():
    return _attributes("npu_optimizer_scope", optimizer=tf.AttrValue(b=True))


def op_specified_engine_scope(engine_name, kernel_lib_name):
    return _attributes("op_specified_engine_scope", specified_engine_name=_s(engine_name), specified_kernel_lib_name=_s(kernel_lib_name))


def limit_core_num_scope(op_aicore_num, op_vectorcore_num=0):
    return _attributes("limit_core_num_scope", op_aicore_num=_s(str(op_aicore_num)), op_vectorcore_num=_s(str(op_vectorcore_num)))
