"""Collective operations as nodes of a stock TensorFlow graph, with real numbers (facts §1.5).

A node is what TensorFlow has: Identity in a world of one, else a PyFunc that meets the other ranks; its attribute `_npu_op` says which operation of
HCCL it stands for, and that is what lints, placement and graph digests go by. Attributes are checked when the node is made, as there.
"""

import numpy as np
import tensorflow.compat.v1 as tf

from npu_double import device, hub, recorder, world

REDUCTIONS = ("min", "max", "prod", "sum")
_REDUCED = {
    "910": (tf.int8, tf.int32, tf.int64, tf.float16, tf.float32),
    "910B": (tf.int8, tf.int16, tf.int32, tf.int64, tf.float16, tf.float32, tf.bfloat16),
}
_MOVED = _REDUCED["910B"] + (tf.uint8, tf.uint16, tf.uint32, tf.uint64, tf.float64)
_VARIABLES = ("VariableV2", "Variable", "VarHandleOp", "ReadVariableOp")


def stamp(operation, **attributes):
    """Put attributes on a node: bytes, bool or int."""
    for name, value in attributes.items():
        if isinstance(value, bool):
            proto = tf.AttrValue(b=value)
        elif isinstance(value, int):
            proto = tf.AttrValue(i=value)
        else:
            proto = tf.AttrValue(s=tf.compat.as_bytes(value))
        operation._set_attr(name, proto)
    return operation


def node(op_type, function, inputs, dtype, shape, name, **attributes):
    """Return the output of a node that calls function(*arrays) each time it runs, standing for the NPU operation `op_type`."""
    output = tf.numpy_function(lambda *arrays: np.asarray(function(*arrays)).astype(dtype.as_numpy_dtype, copy=False), inputs, dtype, name=name)
    output.set_shape(shape)
    stamp(output.op, _npu_op=op_type, **attributes)
    return output


def no_eager(api):
    """Raise RuntimeError where operations would be executed at once."""
    if tf.executing_eagerly():
        raise RuntimeError("{}: the NPU knows no eager execution; build a graph".format(api))


def make(op_type, tensor, group, shape, combine, name=None, reduction=None, root=None, fusion=0, fusion_id=-1, tag=None):
    """Return the output of a collective node.

    combine: function (arrays of the group's ranks in order, own place among them) -> array.
    """
    no_eager(op_type)
    tensor = tf.convert_to_tensor(tensor)
    recorder.enter("graph")
    _check(op_type, tensor, reduction, fusion)
    attributes = {"_npu_op": op_type, "_group": group, "_fusion": fusion, "_fusion_id": fusion_id}
    if reduction:
        attributes["_reduction"] = reduction
    if root is not None:
        attributes["_root_rank"] = root
    facts = (op_type, reduction, root)
    if world.size() == 1:
        output = tf.identity(tensor, name=name or op_type)
    else:
        held = []  # the node's name, known once it is made

        def run(array):
            return np.asarray(_exchanged(op_type, held[0], group, array, combine, facts)).astype(array.dtype, copy=False)

        with tf.get_default_graph().gradient_override_map({"PyFunc": "NpuDouble" + op_type}):
            output = tf.numpy_function(run, [tensor], tensor.dtype, name=name or op_type)
        held.append(output.op.name)
    output.set_shape(shape)
    stamp(output.op, **attributes)
    known = tensor.shape.as_list() if tensor.shape.ndims is not None else None
    recorder.note("event", api="hccl_ops." + op_type, node=output.op.name, dtype=tensor.dtype.name, shape=known, group=group, reduction=reduction,
                  root=root, fusion=fusion, fusion_id=fusion_id)  # fmt: skip
    return output


def _exchanged(op_type, name, group, array, combine, facts):
    ranks = world.ranks_of(group)
    if world.scripted():
        arrays = [world.peers(name, array)[number] for number in ranks]
    else:
        world.start()
        if world.rank() not in ranks:
            raise hub.Failed("{}: rank {} is not in group {}".format(name, world.rank(), group))
        arrays = hub.exchange(name, ranks, array, facts)
    return combine(arrays, ranks.index(world.rank()))


def reduced(arrays, reduction):
    """Return the sum, product, minimum or maximum, taken in rank order."""
    function = {"sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum}[reduction]
    result = arrays[0]
    for array in arrays[1:]:
        result = function(result, array)
    return result


def _check(op_type, tensor, reduction, fusion):
    if reduction is not None:
        if reduction not in REDUCTIONS:
            raise ValueError("{}: reduction {!r}; expected one of {}".format(op_type, reduction, ", ".join(REDUCTIONS)))
        allowed = _REDUCED[device.chip()]
    else:
        allowed = _MOVED
    if tensor.dtype.base_dtype not in allowed:
        raise TypeError("{}: dtype {} is not in {}".format(op_type, tensor.dtype.name, ", ".join(one.name for one in allowed)))
    source = tensor.op
    while source.type == "Identity" and source.inputs and source.name.endswith("/read"):
        source = source.inputs[0].op
    if source.type in _VARIABLES and op_type == "HcomAllReduce":
        recorder.lint("allreduce-of-variable", "{} is fed to an allreduce directly; put an operation between".format(source.name), node=source.name)
    if fusion == 1 and reduction not in (None, "sum"):
        recorder.lint("fusion-not-sum", "fusion=1 merges sums only, not {}".format(reduction))


@tf.RegisterGradient("NpuDoubleHcomAllReduce")
def _allreduce_gradient(op, gradient):
    group = op.get_attr("_group").decode()
    return make("HcomAllReduce", gradient, group, gradient.shape, lambda arrays, own: reduced(arrays, "sum"), reduction="sum", fusion=0)


for _other in ("HcomAllGather", "HcomBroadcast", "HcomReduce", "HcomReduceScatter", "HcomAllToAllV"):
    tf.no_gradient("NpuDouble" + _other) if hasattr(tf, "no_gradient") else tf.NotDifferentiable("NpuDouble" + _other)


def stamped(tensor, op_type):
    """Return a tensor whose node stands for an NPU operation."""
    stamp(tensor.op, _npu_op=op_type)
    return tensor
