"""The session's options for the NPU: which there are, which values they take, and how the real stack refuses a bad one (facts §2).

Some refusals end the process there (`Aborted`), some fail the first session.run (tf.errors.InternalError), and much is accepted in silence:
unknown keys, values of the wrong kind (which read as False, 0 or ""). That last is what lints are for.
"""

import collections
import json
import os
import re

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from npu_double import device, recorder

OPTIMIZER = "NpuOptimizer"


class Aborted(SystemExit):
    """What ends the process on the real stack (LOG(FATAL)): no test runner should die of it, but nothing that catches Exception should go on."""


Option = collections.namedtuple("Option", "kind default allowed fail note")

MIXED = ("allow_mix_precision", "allow_mix_precision_fp16", "allow_mix_precision_bf16")
MIXED_V2 = ("mixed_float16", "mixed_bfloat16", "mixed_hif8")
PRECISION = ("force_fp32", "allow_fp32_to_fp16", "force_fp16", "must_keep_origin_dtype", "cube_fp16in_fp32out", "allow_fp32_to_bf16") + MIXED
PRECISION_V2 = ("fp16", "origin", "cube_fp16in_fp32out", "cube_hif8") + MIXED_V2
IMPLEMENTATIONS = ("high_precision", "high_performance", "high_precision_for_all", "high_performance_for_all")
_SILENT, _INFERENCE = "no effect in this release", "for inference only"


def _options():
    table = {}

    def add(kind, names, default=None, allowed=None, fail="-", note=""):
        for name in names.split():
            table[name] = Option(kind, {"b": False, "i": 0, "s": ""}[kind] if default is None else default, allowed, fail, note)

    add("b", "use_off_line hcom_parallel oo_constant_folding", True)
    add("b", "enable_data_pre_proc mix_compile_mode is_tailing_optimization compile_dynamic_mode dynamic_input variable_format_optimize")
    add("b", "profiling_mode enable_dump enable_dump_debug input_batch_cpy auto_multistream_parallel_mode")
    add("b", "frozen_variable", note=_INFERENCE)
    add("i", "graph_run_mode", 1, (0, 1), "F")
    add("s", "precision_mode", "", PRECISION, "E")
    add("s", "precision_mode_v2", "", PRECISION_V2, "E")
    add("s", "modify_mixlist customize_dtypes op_precision_mode fusion_switch_file enable_scope_fusion_passes stream_max_parallel_num")
    add("s", "optypelist_for_implmode debug_dir op_debug_config op_compiler_cache_dir aoe_config_file distribute_config memory_optimization_policy")
    add("s", "oo_level", "O3")
    add("s", "optimization_switch aicore_num all_tensor_not_empty auto_tune_mode mstune_mode local_device_list profiling_options")
    add("s", "op_select_implmode", "", IMPLEMENTATIONS, "F")
    add("i", "iterations_per_loop", 1, lambda n: n >= 1, "F")
    add("i", "hccl_timeout", 1836, lambda n: device.chip() != "910" or 0 < n <= 17340, "E")
    add("i", "op_wait_timeout", 120)
    add("i", "op_execute_timeout")
    add("i", "stream_sync_timeout event_sync_timeout", -1)
    add("i", "graph_exec_timeout", 600000)
    add("i", "deterministic enable_small_channel", 0, (0, 1))
    add("i", "session_device_id", -1, lambda n: n >= 0, "F")
    add("i", "local_rank_id", -1, lambda n: 0 <= n <= 7, "F")
    add("s", "op_compiler_cache_mode", "", ("enable", "force", "disable"))
    add("s", "graph_compiler_cache_dir", "", os.path.isdir, "E")
    add("s", "work_path", "", lambda path: os.path.isdir(path) and os.access(path, os.R_OK | os.W_OK), "F")
    add("s", "jit_compile", "auto", ("auto", "true", "false"), "E")
    add("s", "dynamic_graph_execute_mode", "dynamic_execute", ("dynamic_execute", "lazy_recompile"), "E")
    add("s", "dynamic_inputs_shape_range")
    add("s", "input_shape dynamic_dims", note=_INFERENCE)
    add("i", "dynamic_node_type compile_hybrid_mode", note=_INFERENCE)
    add("s", "ac_parallel_enable quant_dumpable", "0", ("0", "1"))
    add("s", "variable_placement", "Device", ("Device", "Host"), "F")
    add("i", "graph_max_parallel_model_num", 1, lambda n: n >= 1, "E", _INFERENCE)
    add("b", "external_weight", note=_INFERENCE)
    add("i", "atomic_clean_policy", 0, (0, 1))
    add("i", "static_memory_policy", 0, (0, 2, 3, 4))
    add("i", "variable_use_1g_huge_page", 0, (0, 1, 2), "E")
    add("i", "input_fusion_size", 131072)
    add("i", "export_compile_stat topo_sorting_mode", 1)
    add("s", "shape_generalization_mode", "STRICT", ("STRICT", "FULL", "ADAPTIVE"), "E")  # STRICT of the facts; the others are to be checked (C)
    add("s", "graph_memory_max_size variable_memory_max_size", note=_SILENT)
    add("s", "aoe_mode", "", ("1", "2", "4"), "E")
    add("s", "dump_path dump_step dump_layer")
    add("s", "dump_mode", "output", ("input", "output", "all"), "F")
    add("s", "dump_debug_mode", "all", ("aicore_overflow", "atomic_overflow", "all"), "F")
    add("s", "dump_data", "tensor", ("tensor", "stats"))
    add("i", "enable_exception_dump", 2, (0, 1, 2), "E")
    add("i", "op_debug_level", 0, (0, 1, 2, 3, 4))
    table["export_compile_stat"] = table["export_compile_stat"]._replace(allowed=(0, 1, 2), fail="E")
    return table


OPTIONS = _options()
_MUST_BE_RIGHT_KIND = ("jit_compile", "shape_generalization_mode")
_IGNORED_IF_WRONG_KIND = ("export_compile_stat", "oo_constant_folding")
# Names of TensorFlow operations that the lists of mixed precision know by another name: the graph engine's, after fusion.
NOT_GE_NAMES = {"Sum": "ReduceSum or ReduceSumD", "Mean": "ReduceMean or ReduceMeanD", "Max": "ReduceMax or ReduceMaxD",
                "Prod": "ReduceProd or ReduceProdD",
                "FusedBatchNorm": "BatchNorm", "FusedBatchNormV3": "BatchNorm", "DepthwiseConv2dNative": "DepthwiseConv2D", "AddV2": "Add",
                "ResourceApplyAdam": "ApplyAdam", "BatchMatMulV2Grad": "BatchMatMulV2"}  # fmt: skip


def entries(config):
    """Return the custom optimizers named NpuOptimizer."""
    return [entry for entry in config.graph_options.rewrite_options.custom_optimizers if entry.name == OPTIMIZER]


def configure(config):
    """Make a ConfigProto one for the NPU, in place, as npu_config_proto does; memory optimisation goes off only where the entry was missing."""
    rewrite = config.graph_options.rewrite_options
    _examine_proto(config)
    if not entries(config):
        rewrite.custom_optimizers.add().name = OPTIMIZER
        rewrite.memory_optimization = RewriterConfig.OFF
    config.allow_soft_placement = True
    config.log_device_placement = False
    rewrite.remapping = RewriterConfig.OFF
    config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.OFF
    return config


def _examine_proto(config):
    rewrite, key = config.graph_options.rewrite_options, config.SerializeToString(deterministic=True)
    found = entries(config)
    if found and rewrite.memory_optimization != RewriterConfig.OFF:
        recorder.lint(
            "memory-optimization", "the caller added NpuOptimizer, so memory_optimization=OFF is the caller's to set, and is not set", once=key
        )
    if len(found) > 1:
        recorder.lint("two-optimizers", "NpuOptimizer is there {} times".format(len(found)), once=key)
    for entry in rewrite.custom_optimizers:
        if entry.name != OPTIMIZER and "npu" in entry.name.lower():
            recorder.lint("name-typo", "a custom optimizer is named {!r}; only {!r} is read".format(entry.name, OPTIMIZER), once=(key, entry.name))


def describe(config):
    """Return a ConfigProto's settings that matter here as plain data, the kinds of values included."""
    rewrite = config.graph_options.rewrite_options
    memory = rewrite.memory_optimization
    return {
        "custom_optimizers": [
            {"name": entry.name, "parameters": {key: [value.WhichOneof("value"), _raw(value)] for key, value in sorted(entry.parameter_map.items())}}
            for entry in rewrite.custom_optimizers
        ],
        "remapping": RewriterConfig.Toggle.Name(rewrite.remapping),
        # The vendor's own code writes RewriterConfig.OFF here, though that is a value of another enumeration (MANUAL of this one).
        "memory_optimization": "OFF" if memory == RewriterConfig.OFF else RewriterConfig.MemOptType.Name(memory),
        "allow_soft_placement": config.allow_soft_placement,
        "log_device_placement": config.log_device_placement,
        "global_jit_level": config.graph_options.optimizer_options.global_jit_level,
    }


def _raw(value):
    kind = value.WhichOneof("value")
    raw = getattr(value, kind) if kind in ("b", "i", "s", "f") else str(value)
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw


def on_npu(config):
    """Whether a session of this configuration hands its graphs to the NPU."""
    if config is None or not entries(config):
        return False
    given = {key: value for entry in entries(config) for key, value in entry.parameter_map.items()}
    return given["use_off_line"].b if "use_off_line" in given else True


def effective(config):
    """Return ({key: value in force}, keys that were given). Wrong kinds read as False, 0 or "", as there."""
    values, given = {key: option.default for key, option in OPTIONS.items()}, {}
    for entry in entries(config):
        for key, value in sorted(entry.parameter_map.items()):
            if key not in OPTIONS:
                recorder.lint("unknown-option", "option {!r} is not read by the adapter".format(key), key=key)
                continue
            kind = value.WhichOneof("value")
            given[key] = kind
            if kind != OPTIONS[key].kind:
                recorder.lint("wrong-kind", "option {}: stored in .{}, read from .{}".format(key, kind, OPTIONS[key].kind), key=key)
                if key in _IGNORED_IF_WRONG_KIND:
                    continue
            raw = getattr(value, OPTIONS[key].kind)
            values[key] = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    return values, given


def check(config):
    """Do what the first session.run of a session does with its options: return those in force, or fail as the real stack does.

    Errors: tf.errors.InternalError, Aborted.
    """
    _examine_proto(config)
    if config.graph_options.rewrite_options.remapping != RewriterConfig.OFF:
        recorder.lint("remapping", "remapping is not switched off")
    values, given = effective(config)
    for key in _MUST_BE_RIGHT_KIND:
        if key in given and given[key] != "s":
            _error("option {} has to be a string (.s)".format(key))
    for key in given:
        option, value = OPTIONS[key], values[key]
        if option.allowed is not None and not (option.allowed(value) if callable(option.allowed) else value in option.allowed):
            _refuse(
                option.fail,
                "option {}={!r} is not allowed{}".format(
                    key, value, "" if callable(option.allowed) else "; expected one of {}".format(option.allowed)
                ),
            )
        if option.note:
            recorder.lint("no-effect" if option.note == _SILENT else "inference-option", "option {}: {}".format(key, option.note), key=key)
    _cross(values, given)
    recorder.note("event", api="options", values=values, given=sorted(given))
    return values


def mixed(values):
    """Whether a mode of mixed precision is in force."""
    return values["precision_mode"] in MIXED or values["precision_mode_v2"] in MIXED_V2


def _cross(values, given):
    """What no option breaks alone."""
    if "precision_mode" in given and "precision_mode_v2" in given:
        _error("precision_mode and precision_mode_v2 are both set")
    if device.chip() == "910" and (
        "bf16" in values["precision_mode"] or "bfloat16" in values["precision_mode_v2"] or "hif8" in values["precision_mode_v2"]
    ):
        _error("precision mode {} is not for the 910".format(values["precision_mode"] or values["precision_mode_v2"]))
    if values["graph_run_mode"] == 1 and (values["precision_mode"] == "force_fp16" or values["precision_mode_v2"] == "fp16"):
        recorder.lint("fp16-training", "precision mode force_fp16 (fp16) is meant for inference")
    if values["modify_mixlist"]:
        if not mixed(values):
            _error("modify_mixlist without a mode of mixed precision")
        _read_mixlist(values["modify_mixlist"])
    if values["optypelist_for_implmode"] and not values["op_select_implmode"]:
        _refuse("F", "optypelist_for_implmode without op_select_implmode")
    if values["enable_dump"] or values["enable_dump_debug"]:
        path = values["dump_path"]
        if not path or not os.path.isdir(path) or not os.access(path, os.R_OK | os.W_OK):
            _error("dump_path={!r} is no directory that can be read and written".format(path))
        if values["enable_dump"] and values["enable_dump_debug"]:
            recorder.lint("both-dumps", "enable_dump and enable_dump_debug exclude each other")
    if values["dump_step"]:
        _check_steps(values["dump_step"])
    if device.chip() != "910" and values["dump_debug_mode"] != "all":
        _refuse("F", "dump_debug_mode={}: a {} has only 'all'".format(values["dump_debug_mode"], device.chip()))
    three = [key for key in ("input_shape", "dynamic_dims", "dynamic_node_type") if key in given]
    if three and len(three) < 3:
        _refuse("F", "input_shape, dynamic_dims and dynamic_node_type go together; given are {}".format(", ".join(three)))
    if values["compile_dynamic_mode"] and (values["dynamic_dims"] or values["dynamic_input"]):
        _error("compile_dynamic_mode together with dynamic_dims or dynamic_input")
    if values["variable_placement"] == "Host" and not values["mix_compile_mode"]:
        _refuse("F", "variable_placement=Host needs mix_compile_mode")
    if "local_rank_id" in given and not re.match(r"^\d(,\d)*$", values["local_device_list"] or "0"):
        _refuse("F", "local_device_list={!r} is no list as 0,1".format(values["local_device_list"]))
    if values["iterations_per_loop"] > 1:
        if values["dynamic_input"] and values["dynamic_graph_execute_mode"] == "lazy_recompile":
            _error("iterations_per_loop={} with lazy_recompile".format(values["iterations_per_loop"]))
        if not values["enable_data_pre_proc"]:
            recorder.lint("loop-without-sink", "iterations_per_loop={} without enable_data_pre_proc".format(values["iterations_per_loop"]))
        if values["mix_compile_mode"]:
            recorder.lint("loop-in-mix-mode", "iterations_per_loop={} with mix_compile_mode".format(values["iterations_per_loop"]))
    if "hccl_timeout" in given and device.chip() == "910" and values["hccl_timeout"] % 68:
        recorder.lint("hccl-timeout", "hccl_timeout={} is rounded down to {}".format(values["hccl_timeout"], values["hccl_timeout"] // 68 * 68))


def _check_steps(text):
    parts = text.split("|")
    ranges = [re.match(r"^(\d+)(?:-(\d+))?$", part) for part in parts]
    if len(parts) > 100 or not all(ranges) or any(found.group(2) and int(found.group(2)) <= int(found.group(1)) for found in ranges):
        _error("dump_step={!r}: expected numbers and ascending ranges joined by |, at most 100".format(text))


def _read_mixlist(path):
    """Read a file of modify_mixlist: {"black-list"|"white-list": {"to-add"|"to-remove": [names]}}."""
    try:
        with open(path, encoding="utf-8") as f:
            content = json.load(f)
        lists = {
            (colour, what): list(names)
            for colour, changes in content.items()
            for what, names in changes.items()
            if colour in ("black-list", "white-list", "gray-list") and what in ("to-add", "to-remove")
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        _error("modify_mixlist={}: {}".format(path, error))
    for name in sorted(set(lists.get(("black-list", "to-add"), ())) & set(lists.get(("white-list", "to-add"), ()))):
        recorder.lint("mixlist-both", "{} is added to both lists".format(name), key=name)
    for name in sorted({name for names in lists.values() for name in names} & set(NOT_GE_NAMES)):
        recorder.lint("mixlist-name", "{} is a name of TensorFlow; the list knows {}".format(name, NOT_GE_NAMES[name]), key=name)
    recorder.note("event", api="mixlist", path=path, lists={"{} {}".format(*key): names for key, names in lists.items()})


def _refuse(fail, message):
    if fail == "F":
        recorder.note("event", api="options.aborted", message=message)
        raise Aborted("NPU: " + message)
    if fail == "E":
        _error(message)
    recorder.lint("odd-value", message)


def _error(message):
    recorder.note("event", api="options.failed", message=message)
    raise tf.errors.InternalError(None, None, "NPU: " + message)
