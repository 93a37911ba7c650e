"""What one session.run hands to the device: its part of the graph, a digest of it that ranks can compare, and what is wrong with it (facts §10.4)."""

import collections
import hashlib
import importlib.util
import itertools
import os
import sys

from npu_double import recorder

_numbers = itertools.count()
_CHECKPOINT = ("SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename", "Save", "Restore", "SaveSlices", "RestoreSlice")
_RANDOM = (
    "RandomUniform",
    "RandomStandardNormal",
    "TruncatedNormal",
    "RandomUniformInt",
    "RandomShuffle",
    "Multinomial",
    "RandomGamma",
    "RandomPoissonV2",
)


def _placement():
    """Return test/npu/placement.py, which need not be on the path of a program that has the double on its own."""
    if "test.npu.placement" in sys.modules:
        return sys.modules["test.npu.placement"]
    if "_npu_placement" not in sys.modules:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "placement.py")
        spec = importlib.util.spec_from_file_location("_npu_placement", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["_npu_placement"] = module
        spec.loader.exec_module(module)
    return sys.modules["_npu_placement"]


def subgraph(operations, fed=()):
    """Return all operations that running these runs, where the tensors `fed` are given: {name: operation}."""
    return _placement().subgraph(operations, fed)


def part(operations):
    """Return "input" (the host's data pipeline), "checkpoint" (saving and restoring) or "compute"; for the digest, and whether lints are due."""
    found = {operation.type for operation in operations.values()}
    if found & set(_CHECKPOINT):
        return "checkpoint"
    if "MakeIterator" in found and not found & {"Assign", "AssignVariableOp"}:
        return "input"
    return "compute"


def types(graph, operations):
    """Return how many nodes there are of each type, those in functions included: {type: number}; of NPU operations by their own type."""
    functions, counts = _placement().Functions(graph), collections.Counter()
    for operation in operations.values():
        counts[_npu_op(operation) or operation.type] += 1
        if "Dataset" not in operation.type:
            counts.update(_placement().npu_op_of(definition) or definition.op for _, definition in functions.inside(operation.node_def))
    return counts


def digest(graph, operations):
    """Return a digest of the sorted nodes: names, types, inputs and attributes. Data pipelines stay on the host and do not count."""
    host = set()
    for operation in operations.values():
        if operation.type == "MakeIterator":
            host |= set(subgraph([operation]))
    functions, names = _placement().Functions(graph), sorted(set(operations) - host)
    return _digest([operations[name].node_def for name in names], functions), len(names)


def _digest(definitions, functions):
    """Return a digest of nodes; functions count by what is in them, for their names number what a process made before."""
    whole = hashlib.sha256()
    for given in sorted(definitions, key=lambda definition: definition.name):
        definition = type(given)()
        definition.CopyFrom(given)
        if "_npu_op" in definition.attr and "token" in definition.attr:
            del definition.attr["token"]  # numbers Python functions of this process
        definition.device = ""
        for value in definition.attr.values():
            for function in [value.func] if value.HasField("func") else list(value.list.func):
                function.name = _digest(functions.body(function.name), functions)
        line = definition.SerializeToString(deterministic=True)
        whole.update(len(line).to_bytes(8, "big") + line)
    return whole.hexdigest()[:16]


def graphs_differ(journal_a, journal_b):
    """Return how the session runs of two ranks differ, "" if they do not.

    Compared are, in order, the runs that go to the NPU, by what was fetched and fed and by the digest of its graph, with their numbers of loops.
    Checkpoints (only one rank may write them) and data pipelines (on the host, sharded by rank) may differ.
    """
    runs = [
        [entry for entry in journal if entry["kind"] == "run" and entry["device"] == "npu" and entry["part"] == "compute"]
        for journal in (journal_a, journal_b)
    ]
    for number, (a, b) in enumerate(zip(*runs)):
        if a["signature"] != b["signature"]:
            return "run {}: one fetches {}, the other {}".format(number, _names(journal_a, a), _names(journal_b, b))
        if a["graph"] != b["graph"]:
            return "run {} of {}: the graphs differ ({} and {} nodes, {} and {}){}".format(
                number, _names(journal_a, a), a["nodes"], b["nodes"], a["graph"], b["graph"], _difference(journal_a, journal_b, a, b)
            )
        if a["loops"] != b["loops"]:
            return "run {} of {}: {} and {} iterations a run".format(number, _names(journal_a, a), a["loops"], b["loops"])
    if len(runs[0]) != len(runs[1]):
        longer, journal = (runs[0], journal_a) if len(runs[0]) > len(runs[1]) else (runs[1], journal_b)
        number = min(map(len, runs))
        return "{} and {} runs: only one makes run {}, of {}".format(len(runs[0]), len(runs[1]), number, _names(journal, longer[number]))
    return ""


def _names(journal, run):
    for entry in journal:
        if entry["kind"] == "graph" and entry["signature"] == run["signature"]:
            return ", ".join(entry["fetches"][:5]) + (", ..." if len(entry["fetches"]) > 5 else "")
    return run["signature"]


def _difference(journal_a, journal_b, a, b):
    """Say which operation types are more frequent on one side."""
    counts = []
    for journal, run in ((journal_a, a), (journal_b, b)):
        (entry,) = [entry for entry in journal if entry["kind"] == "graph" and entry["graph"] == run["graph"]][:1]
        counts.append(collections.Counter(entry["types"]))
    text = [
        "{} {} {}".format(name, counts[0][name], counts[1][name])
        for name in sorted(set(counts[0]) | set(counts[1]))
        if counts[0][name] != counts[1][name]
    ]
    return ": " + ", ".join(text) if text else ": same numbers of each type"


def examine(graph, fetched, fed, operations, looping):
    """Lint a fetched subgraph: each finding once for a graph. Nothing is raised."""
    counts = types(graph, operations)
    found = _placement().falls(graph, fetched, fed)
    # What only initialises, or reads, may take its time.
    severity = "warning" if trains(counts) else "info"
    for name, op_type, where, why in found:
        rule = {"unknown": "unknown-operator", "dynamic": "dynamic-shape", "unsupported": "unsupported-dtype"}.get(where, "not-on-ai-core")
        told = {"node": name, "op_type": op_type, "where": where, "severity": severity}
        _tell(graph, rule, "{} ({}): {}: {}".format(name, op_type, where, why), (name, severity), **told)
    if counts["IsFinite"] + counts["IsNan"] + counts["IsInf"]:
        _tell(graph, "is-finite", "IsFinite, IsNan and IsInf say nothing where the device saturates")
    if counts["Switch"] + counts["Merge"] and any(fall.where == "dynamic" for fall in found):
        _tell(graph, "v1-control-flow", "Switch and Merge (control flow of version 1) with dynamic shapes are not supported")
    if counts["NpuGetFloatStatusV2"] > 1:
        _tell(graph, "two-loss-scales", "one run reads the one overflow register {} times".format(counts["NpuGetFloatStatusV2"]))
    if looping and any(output.dtype.base_dtype.name == "string" for operation in operations.values() for output in operation.outputs):
        _tell(graph, "strings-in-loop", "tensors of strings in a run of several iterations")
    if "MakeIterator" in counts and counts["Assign"] + counts["AssignVariableOp"]:
        _tell(graph, "initializers-with-iterator", "variables and an iterator are initialised in one run: variables on the device would read as 0")
    if trains(counts):
        drawn = sorted(name for name, operation in operations.items() if operation.type in _RANDOM)
        if drawn:
            _tell(graph, "random-in-training", "random numbers are drawn on the AI CPU in a training step: {}".format(", ".join(drawn)))
        odd = {name: sizes for name, sizes in ((name, _odd_channels(operation)) for name, operation in operations.items()) if sizes}
        if odd:
            message = "{} convolutions have channels that are padded to a multiple of 16".format(len(odd))
            _tell(graph, "channels", message, severity="info", convolutions=odd)


def saved(graph, operations):
    """Lint a checkpoint: the state of a loss scale belongs into it."""
    missing = sorted(set(getattr(graph, "_npu_double_scale", ())) - set(operations))
    if missing and any(operation.type in ("SaveV2", "Save") for operation in operations.values()):
        _tell(graph, "loss-scale-not-saved", "{} are not saved: a resumed run starts with another loss scale".format(", ".join(missing)))


def trains(counts):
    """Whether nodes of these types make a training step: an optimizer updates variables."""
    return any(name.startswith(("Apply", "ResourceApply")) for name in counts)


def _odd_channels(operation):
    if operation.type != "Conv2D" or operation.inputs[1].shape.ndims != 4:
        return []
    return [size for size in operation.inputs[1].shape.as_list()[2:] if size is not None and size % 16]


def _tell(graph, rule, message, what="", **facts):
    facts.setdefault("severity", "warning")
    if not hasattr(graph, "_npu_double_number"):
        graph._npu_double_number = next(_numbers)
    recorder.lint(rule, message, once=(graph._npu_double_number, what), **facts)


def _npu_op(operation):
    return _placement().npu_op(operation)
