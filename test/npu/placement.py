"""Where the operations of a graph would run on an Ascend 910, as far as the facts say (`ascend910_ops.json`, from facts §6).

`falls` lists what does not run on the AI Cores. Operations whose type is not in the list are among it: not knowing is not approval. Only hardware can
tell the real placement (facts §10.6).
"""

import collections
import functools
import json
import os

import tensorflow.compat.v1 as tf

Fall = collections.namedtuple("Fall", "name type where why")

_DTYPE_ATTRIBUTES = ("T", "SrcT", "dtype", "Tparams", "type", "Tin")


@functools.lru_cache(maxsize=None)
def table():
    """Return the list as {"ops": {type: group}, ...}."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "ascend910_ops.json"), encoding="utf-8") as f:
        content = json.load(f)
    content["ops"] = {}
    for group in content["groups"]:
        for name in group["ops"]:
            assert name not in content["ops"], "{} is listed twice".format(name)
            content["ops"][name] = group
    return content


def falls(graph, fetches, feeds=()):
    """Return [(op name, op type, where, why)] for what fetching `fetches` would run elsewhere than on the AI Cores.

    fetches, feeds: tensors, operations or names, nested in lists or dicts as you like. where: "aicpu", "tf_kernel", "host" (see the list), "unknown"
    (type not in the list), "unsupported" (a dtype that the NPU does not know) or "dynamic" (a shape that is not static; where it begins).
    Constant subgraphs are folded there and pass, as do input pipelines.
    """
    found = []
    fed = _tensors(graph, feeds)
    operations = subgraph(_operations(graph, fetches), fed)
    for tensor in fed:
        if not _known_shape(tensor) and any(consumer.name in operations for consumer in tensor.consumers()):
            found.append(
                Fall(tensor.op.name, tensor.op.type, "dynamic", "what is fed has shape {}: a new graph for every shape".format(tensor.shape))
            )
    pipeline = set()
    for operation in operations.values():
        if operation.type == "MakeIterator":
            pipeline |= set(subgraph([operation]))
    folded = _folded(operations)
    functions = Functions(graph)
    for name, operation in operations.items():
        if name in pipeline or _is_pipeline(operation.type):
            continue
        op_type = npu_op(operation) or operation.type
        dtypes = [tensor.dtype.base_dtype.name for tensor in list(operation.inputs) + list(operation.outputs)]
        constant = [name in folded for name in (tensor.op.name for tensor in operation.inputs)]
        for where, why in _judge(op_type, dtypes, _attributes(operation.node_def), name in folded, constant):
            found.append(Fall(name, op_type, where, why))
        if name not in folded and _begins_dynamic(operation, folded):
            shapes = ", ".join(str(tensor.shape) for tensor in operation.outputs)
            found.append(Fall(name, op_type, "dynamic", "shape {} is not static: a new graph for every shape".format(shapes)))
        for inner, definition in functions.inside(operation.node_def):
            inner_type = npu_op_of(definition) or definition.op
            for where, why in _judge(inner_type, [], _attributes(definition), False, None):
                found.append(Fall("{}/{}".format(name, inner), inner_type, where, why))
    return found


def subgraph(operations, fed=()):
    """Return {name: operation} of all that running `operations` runs, in the order found; it ends at the tensors `fed`."""
    fed = {tensor.name for tensor in fed}
    found, waiting = collections.OrderedDict(), list(operations)
    while waiting:
        operation = waiting.pop()
        if operation.name in found:
            continue
        found[operation.name] = operation
        waiting += [tensor.op for tensor in operation.inputs if tensor.name not in fed] + list(operation.control_inputs)
    return found


def npu_op(operation):
    """Return the type of NPU operation that a node of the test double stands for, or None."""
    return npu_op_of(operation.node_def) if operation.type in ("PyFunc", "EagerPyFunc", "Identity") else None


def npu_op_of(definition):
    """As `npu_op`, of a NodeDef."""
    return definition.attr["_npu_op"].s.decode() if "_npu_op" in definition.attr else None


def _judge(op_type, dtypes, attributes, folded, constant):
    """Yield (where, why) for one node. constant: whether each input is, None where that is not known."""
    if _is_pipeline(op_type):
        return
    named = [attributes[key] for key in _DTYPE_ATTRIBUTES if key in attributes]
    bad = sorted(set(dtypes + named) & set(table()["unsupported_dtypes"]))
    if bad:
        yield "unsupported", "{} is not supported".format(", ".join(bad))
        return
    group = table()["ops"].get(op_type)
    if folded:
        return
    if group is None:
        yield "unknown", "this type is not in ascend910_ops.json"
        return
    note = group.get("note", "")
    if group["where"] != "aicore":
        if group["where"] in ("aicpu", "tf_kernel", "host"):
            yield group["where"], note or table()["where"][group["where"]]
        return
    dtype = named[0] if named else None
    if dtype is not None and "dtypes" in group and dtype not in group["dtypes"]:
        yield group["otherwise"], "the AI Core kernel does not take {}".format(dtype)
    elif "output_dtypes" in group and attributes.get("output_type", "int64") not in group["output_dtypes"]:
        yield group["otherwise"], "the AI Core kernel does not return {}".format(attributes.get("output_type", "int64"))
    elif constant is not None and not all(constant[index] for index in group.get("constant_inputs", ())):
        yield group["otherwise"], "an input that the AI Core kernel needs constant is not"


def _is_pipeline(op_type):
    return "Dataset" in op_type or table()["ops"].get(op_type, {}).get("where") == "pipeline"


def _attributes(definition):
    """Return the dtypes among a node's attributes: {name: dtype's name}."""
    return {
        key: tf.as_dtype(value.type).base_dtype.name for key, value in definition.attr.items() if value.WhichOneof("value") == "type" and value.type
    }


_NEVER_FOLDED = ("Placeholder", "PlaceholderWithDefault", "VariableV2", "Variable", "VarHandleOp", "NoOp", "PyFunc", "IteratorGetNext")


def _folded(operations):
    """Return the names of the nodes whose values do not depend on anything that changes."""
    state, opened = {}, set()
    for start in operations.values():
        stack = [start]
        while stack:
            operation = stack[-1]
            if operation.name in state:
                stack.pop()
                continue
            opened.add(operation.name)
            if operation.type in ("Shape", "ShapeN", "Size", "Rank"):
                state[operation.name] = all(tensor.shape.is_fully_defined() for tensor in operation.inputs)
                continue
            missing = [tensor.op for tensor in operation.inputs if tensor.op.name not in state and tensor.op.name in operations]
            if missing and operation.type not in _NEVER_FOLDED and not any(op.name in opened for op in missing):
                stack += missing
                continue
            pure = operation.type not in _NEVER_FOLDED and not _is_stateful(operation) and (operation.inputs or operation.type == "Const")
            state[operation.name] = bool(pure) and all(state.get(tensor.op.name, False) for tensor in operation.inputs)
    return {name for name, constant in state.items() if constant}


def _is_stateful(operation):
    return operation.op_def is not None and operation.op_def.is_stateful or operation.type in ("Enter", "Merge", "NextIteration")


def _begins_dynamic(operation, folded):
    """Whether an output's shape is not static though those of the inputs are, or could be: TensorFlow leaves some open that follow from constants."""
    unknown = [tensor for tensor in operation.outputs if not _known_shape(tensor) and operation.type != "BroadcastGradientArgs"]
    if not unknown:
        return False
    if operation.type in table()["dynamic"] or not operation.inputs:
        return True
    if any(not tensor.shape.is_fully_defined() for tensor in operation.inputs if tensor.op.name not in folded and tensor.dtype != tf.resource):
        return False  # it began before
    decisive = [tensor for tensor in operation.inputs if tensor.dtype.base_dtype in (tf.int32, tf.int64)]
    return not decisive or not all(tensor.op.name in folded for tensor in decisive)


def _known_shape(tensor):
    return tensor.shape.is_fully_defined() or tensor.dtype.base_dtype in (tf.string, tf.resource, tf.variant)


class Functions:
    """The bodies of a graph's functions, which version 2 of control flow is made of."""

    def __init__(self, graph):
        self._graph, self._bodies = graph, None

    def body(self, name):
        """Return the nodes of a function."""
        if self._bodies is None:
            self._bodies = {function.signature.name: function for function in self._graph.as_graph_def().library.function}
        return self._bodies[name].node_def if name in self._bodies else ()

    def inside(self, definition, seen=()):
        """Yield (name, node) of all nodes in the functions that a node calls, and in those they call."""
        names = [function.name for value in definition.attr.values() for function in [value.func] + list(value.list.func) if function.name]
        for name in names:
            if name in seen:
                continue
            for node in self.body(name):
                yield node.name, node
                for inner, found in self.inside(node, tuple(seen) + (name,)):
                    yield "{}/{}".format(node.name, inner), found


def _flat(things):
    if isinstance(things, dict):
        things = list(things.values())
    if isinstance(things, (list, tuple, set)):
        return [one for thing in things for one in _flat(thing)]
    return [] if things is None else [things]


def _operations(graph, fetches):
    elements = [graph.as_graph_element(fetch, allow_tensor=True, allow_operation=True) for fetch in _flat(fetches)]
    return [element if isinstance(element, tf.Operation) else element.op for element in elements]


def _tensors(graph, feeds):
    return [graph.as_graph_element(feed, allow_tensor=True, allow_operation=False) for feed in _flat(feeds)]
