"""Which options of the NPU's adapter go together: what of it ends a session at its first step, and what does nothing alone.

From the adapter's checks (`util/npu_attrs.cc`) and the manual's pages of the keys; `mtc.devices.npu_options` has the keys.
"""

from mtc.devices.npu_values import path


def _one_precision_mode(said):
    return "precision_mode: excludes precision_mode_v2; set one of them" if "precision_mode" in said and "precision_mode_v2" in said else ""


def _types_have_an_implementation(said):
    alone = "optypelist_for_implmode" in said and "op_select_implmode" not in said
    return "optypelist_for_implmode: needs op_select_implmode beside it" if alone else ""


def _a_dump_has_a_folder(said):
    asked = [key for key in ("enable_dump", "enable_dump_debug") if said.get(key)]
    if len(asked) > 1:
        return "enable_dump: excludes enable_dump_debug; set one of them"
    if asked and "dump_path" not in said:
        return "{}: needs dump_path, a folder that exists and can be written".format(asked[0])
    broken = path(said["dump_path"], "writable folder") if asked else ""
    return "dump_path: {}; {} needs it".format(broken, asked[0]) if broken else ""


def _profiles_are_whole(said):
    trio = ("input_shape", "dynamic_dims", "dynamic_node_type")
    missing = [key for key in trio if key not in said]
    return "{}: needs {} beside it".format([k for k in trio if k in said][0], " and ".join(missing)) if 0 < len(missing) < 3 else ""


def _one_way_to_vary_shapes(said):
    other = [key for key in ("dynamic_dims", "dynamic_input") if said.get(key)]
    return "compile_dynamic_mode: excludes {}; set one of them".format(other[0]) if said.get("compile_dynamic_mode") and other else ""


def _loops_stay_on_the_device(said):
    loop = said.get("iterations_per_loop", 1)
    if loop > 1 and said.get("mix_compile_mode"):
        return "mix_compile_mode: goes with npu.iterations_per_loop=1 only, and that is {}".format(loop)
    if loop > 1 and said.get("dynamic_graph_execute_mode") == "lazy_recompile":
        return "dynamic_graph_execute_mode: lazy_recompile goes with npu.iterations_per_loop=1 only, and that is {}".format(loop)
    return ""


def _variables_on_the_host_are_mixed(said):
    alone = said.get("variable_placement") == "Host" and not said.get("mix_compile_mode")
    return "variable_placement: Host needs mix_compile_mode=true beside it" if alone else ""


RULES = (
    _one_precision_mode,
    _types_have_an_implementation,
    _a_dump_has_a_folder,
    _profiles_are_whole,
    _one_way_to_vary_shapes,
    _loops_stay_on_the_device,
    _variables_on_the_host_are_mixed,
)
"""Rules between keys: each takes all options and returns "key: what is wrong and what to do", or ""."""

_DUMPS = ("enable_dump", "enable_dump_debug")
IDLE_WITHOUT = {
    "dump_path": _DUMPS,
    "dump_step": _DUMPS,
    "dump_mode": _DUMPS,
    "dump_data": _DUMPS,
    "dump_layer": _DUMPS,
    "dump_debug_mode": ("enable_dump_debug",),
    "profiling_options": ("profiling_mode",),
    "aoe_config_file": ("aoe_mode",),
    "work_path": ("aoe_mode",),
    "distribute_config": ("aoe_mode",),
    "dynamic_graph_execute_mode": ("dynamic_input",),
    "dynamic_inputs_shape_range": ("dynamic_input",),
}
"""What a key is for: without any of these it does nothing."""
