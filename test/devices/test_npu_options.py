"""Options of the NPU's adapter: what is taken, how it is stored, what is refused and what is remarked on."""

import json
import os

import pytest
import tensorflow.compat.v1 as tf

from mtc.devices import npu_options, npu_values
from mtc.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KEYS = sorted(npu_options.options("910"))
MIXED = ["allow_mix_precision", "allow_mix_precision_bf16", "allow_mix_precision_fp16", "mixed_bfloat16", "mixed_float16"]
EXAMPLES = {"dump_step": "0|5|10-20", "profiling_options": '{"output": "/tmp"}', "local_device_list": "0,1"}
"""Values of keys whose form says more than their kind."""
BESIDE = {
    "enable_dump": {"dump_path": "/tmp"},
    "enable_dump_debug": {"dump_path": "/tmp"},
    "variable_placement": {"mix_compile_mode": True},
    "modify_mixlist": {"precision_mode": "allow_mix_precision"},
    "optypelist_for_implmode": {"op_select_implmode": "high_precision"},
    "input_shape": {"dynamic_dims": "1;2", "dynamic_node_type": 0},
    "dynamic_dims": {"input_shape": "x:-1,4", "dynamic_node_type": 0},
    "dynamic_node_type": {"input_shape": "x:-1,4", "dynamic_dims": "1;2"},
}
"""What has to be said with a key."""


@pytest.fixture
def mixlist(tmp_path):
    """Write a file for modify_mixlist and return its path."""

    def write(content):
        path = tmp_path / "mixlist.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def chip_of(key):
    return npu_options.options("910")[key].chips[0]


def right(key, folder):
    """Return a value that the key takes."""
    option = npu_options.options(chip_of(key))[key]
    if option.path == "file":
        path = folder / "file"
        path.write_text("{}")
        return str(path)
    if option.path:
        return str(folder)
    if option.values is not None:
        return option.values[0]
    if key in EXAMPLES:
        return EXAMPLES[key]
    return {"b": True, "i": option.most or option.least or 1, "s": "text"}[option.kind]


def stored(options):
    """Return {key: (field, value)} as a session's configuration has them after a trip through bytes."""
    config = tf.ConfigProto()
    custom = config.graph_options.rewrite_options.custom_optimizers.add()
    custom.name = "NpuOptimizer"
    npu_options.put(custom, options)
    read = tf.ConfigProto.FromString(config.SerializeToString())
    (entry,) = read.graph_options.rewrite_options.custom_optimizers
    fields = {key: value.WhichOneof("value") for key, value in entry.parameter_map.items()}
    return {key: (field, getattr(entry.parameter_map[key], field)) for key, field in fields.items()}


def refusal(options, chip="910", ours=None):
    with pytest.raises(UserError) as error:
        npu_options.check(options, chip, ours=ours)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("key", KEYS)
def test_a_right_value_is_taken_and_stored_in_the_field_that_the_adapter_reads(key, tmp_path):
    option, value = npu_options.options(chip_of(key))[key], right(key, tmp_path)
    beside = BESIDE.get(key, {})
    if key in npu_options.OURS:
        npu_options.check({}, chip_of(key), ours={key: value})
    else:
        ours = {k: v for k, v in beside.items() if k in npu_options.OURS}
        npu_options.check(dict({k: v for k, v in beside.items() if k not in ours}, **{key: value}), chip_of(key), ours=ours)
    assert stored({key: value}) == {key: (option.kind, value.encode() if option.kind == "s" else value)}


@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_another_kind_is_refused(key):
    kind = npu_options.options(chip_of(key))[key].kind
    for other in {"b": (1, 1.0, "true", None, []), "i": (True, 1.0, "1", None, [1]), "s": (True, 1, 1.5, None, ["a"], b"a")}[kind]:
        with pytest.raises(UserError, match="{}: (expected|use|set|always|has)".format(key)):
            npu_options.check({key: other}, chip_of(key))
        with pytest.raises(
            UserError, match=r"npu\.{}: expected {}, got".format(key, {"b": "true or false", "i": "a whole number", "s": "text"}[kind])
        ):
            npu_options.check({}, chip_of(key), ours={key: other})


@pytest.mark.parametrize("key", [key for key in KEYS if npu_options.options("910")[key].kind == "s"])
def test_an_empty_text_is_refused(key):
    with pytest.raises(UserError, match="{}: is empty".format(key)):
        npu_options.check({}, chip_of(key), ours={key: " "})


@pytest.mark.parametrize("key", [key for key in KEYS if npu_options.options("910")[key].values and "precision_mode" not in key])
def test_a_value_that_is_not_in_the_list_is_refused_with_the_list(key):
    option = npu_options.options(chip_of(key))[key]
    with pytest.raises(UserError, match="{}: .* is not one of {}".format(key, option.values[0])):
        npu_options.check({}, chip_of(key), ours={key: 99 if option.kind == "i" else "nonsense"})


@pytest.mark.parametrize("chip", npu_options.CHIPS)
@pytest.mark.parametrize("key", [key for key in KEYS if npu_options.options("910")[key].kind == "i"])
def test_the_limits_of_a_number_are_kept(key, chip):
    option = npu_options.options(chip)[key]
    for limit, beyond, words in ((option.least, -1, "below"), (option.most, 1, "above")):
        if limit is not None:
            npu_options.check({}, chip, ours=dict(BESIDE.get(key, {}), **{key: limit}))
            with pytest.raises(UserError, match=r"{}: -?\d+ is {} ".format(key, words)):
                npu_options.check({}, chip, ours={key: limit + beyond})
    if not option.values and option.most is None:
        with pytest.raises(UserError, match="does not fit into 64 bits"):
            npu_options.check({}, chip, ours={key: 2**63})


@pytest.mark.parametrize("key", sorted(npu_options.OURS))
def test_what_the_program_sets_itself_is_refused_with_what_to_use(key):
    assert refusal({key: "anything"}) == "npu.options.{}: {}".format(key, npu_options.OURS[key])


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("sump_mode", "dump_mode"),
        ("sfusion_switch_file", "fusion_switch_file"),
        ("precison_mode", "precision_mode"),
        ("hccl_time_out", "hccl_timeout"),
        ("op_compile_cache_dir", "op_compiler_cache_dir"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(key, nearest):
    expected = "npu.options.{}: the adapter knows no such option, and would ignore it; did you mean '{}'?"
    assert refusal({key: 1}) == expected.format(key, nearest)


def test_an_unknown_key_like_none_is_refused_without_a_guess():
    assert refusal({"zzzz": 1}) == "npu.options.zzzz: the adapter knows no such option, and would ignore it"


@pytest.mark.parametrize(
    ("options", "advice"),
    [({"aoe_mode": 2}, 'got 2; write "2", in quotes'), ({"jit_compile": True}, 'got True; write "true", in quotes')],
)
def test_a_text_that_yaml_reads_as_something_else_is_refused_with_how_to_write_it(options, advice):
    assert refusal(options).endswith(advice)


@pytest.mark.parametrize("key", [key for key in KEYS if npu_options.options("910")[key].path])
def test_a_path_to_nothing_is_refused(key, tmp_path):
    assert refusal({key: str(tmp_path / "none")}).startswith("npu.options.{}: there is no ".format(key))


def test_a_path_of_another_sort_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "there is no file" in refusal({"customize_dtypes": str(tmp_path)})
    assert "there is no folder" in refusal({"graph_compiler_cache_dir": str(tmp_path / "file")})


def test_a_path_without_rights_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(npu_values.os, "access", lambda path, mode: False)
    assert "cannot be written by this user" in refusal({"work_path": str(tmp_path)})
    assert "cannot be read by this user" in refusal({"customize_dtypes": str(tmp_path / "file")})
    assert "dump_path: '{}' cannot be written".format(tmp_path) in refusal({"enable_dump": True, "dump_path": str(tmp_path)})


@pytest.mark.parametrize(
    ("options", "on_910", "on_910b"),
    [
        ({"input_batch_cpy": True}, "not for the 910, only for the 910B", ""),
        ({"aoe_mode": "1"}, "", "aoe_mode: 1 is not one of 2, 4 on the 910B"),
        ({"aoe_mode": "3"}, "aoe_mode: 3 is not one of 1, 2, 4 on the 910", "aoe_mode: 3 is not one of 2, 4 on the 910B"),
        ({"dump_debug_mode": "aicore_overflow"}, "", "aicore_overflow is not one of all on the 910B"),
        ({"hccl_timeout": 17340}, "", ""),
        ({"hccl_timeout": 17408}, "17408 is above 17340", ""),
        ({"hccl_timeout": 1800}, "1800 is no multiple of 68, and the 910 would take 1768", ""),
        ({"hccl_timeout": 0}, "0 is below 68", ""),
    ],
)
def test_what_the_chips_differ_in(options, on_910, on_910b):
    for chip, refused in (("910", on_910), ("910B", on_910b)):
        if refused:
            assert refused in refusal(options, chip)
        else:
            npu_options.check(options, chip)


@pytest.mark.parametrize(
    ("options", "ours", "sentence"),
    [
        ({}, {"precision_mode": "force_fp32", "precision_mode_v2": "fp16"}, "precision_mode: excludes precision_mode_v2"),
        ({"optypelist_for_implmode": "Pooling"}, {}, "optypelist_for_implmode: needs op_select_implmode beside it"),
        ({"enable_dump": True}, {}, "enable_dump: needs dump_path, a folder that exists and can be written"),
        ({"enable_dump_debug": True}, {}, "enable_dump_debug: needs dump_path"),
        ({"enable_dump": True, "dump_path": "/nowhere"}, {}, "dump_path: there is no folder '/nowhere'; enable_dump needs it"),
        ({"enable_dump": True, "enable_dump_debug": True, "dump_path": "/tmp"}, {}, "enable_dump: excludes enable_dump_debug"),
        ({"input_shape": "x:1"}, {}, "input_shape: needs dynamic_dims and dynamic_node_type beside it"),
        ({"dynamic_dims": "1;2", "dynamic_node_type": 0}, {}, "dynamic_dims: needs input_shape beside it"),
        ({"compile_dynamic_mode": True, "dynamic_input": True}, {}, "compile_dynamic_mode: excludes dynamic_input"),
        (
            {"compile_dynamic_mode": True, "input_shape": "x:1", "dynamic_dims": "1", "dynamic_node_type": 0},
            {},
            "compile_dynamic_mode: excludes dynamic_dims",
        ),
        ({"mix_compile_mode": True}, {"iterations_per_loop": 10}, "mix_compile_mode: goes with npu.iterations_per_loop=1 only, and that is 10"),
        ({"dynamic_graph_execute_mode": "lazy_recompile"}, {"iterations_per_loop": 2}, "lazy_recompile goes with npu.iterations_per_loop=1 only"),
        ({"variable_placement": "Host"}, {}, "variable_placement: Host needs mix_compile_mode=true"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(options, ours, sentence):
    assert refusal(options, ours=ours).startswith("npu.options.")
    assert sentence in refusal(options, ours=ours)


@pytest.mark.parametrize(
    ("options", "ours"),
    [
        ({"enable_dump": False}, {}),
        ({"enable_dump_debug": True, "dump_path": "/tmp"}, {}),
        ({"mix_compile_mode": True, "variable_placement": "Host"}, {"iterations_per_loop": 1}),
        ({"mix_compile_mode": False}, {"iterations_per_loop": 10}),
        ({"compile_dynamic_mode": False, "dynamic_input": True}, {}),
    ],
)
def test_keys_that_go_together_are_taken(options, ours):
    npu_options.check(options, "910", ours=ours)


@pytest.mark.parametrize("chip", npu_options.CHIPS)
def test_lists_of_operators_go_with_the_mixed_modes_only(chip, mixlist):
    options = {"modify_mixlist": mixlist({"black-list": {"to-add": ["ReduceSumD", "ReduceSum"]}})}
    for name, mode in npu_options.precision_modes(chip).items():
        if name in MIXED:
            npu_options.check(options, chip, ours={mode.key: name})
        else:
            sentence = "goes with a mixed precision mode only, and npu.precision_mode is {}".format(name)
            assert sentence in refusal(options, chip, {mode.key: name})
    default = {"910": "allow_fp32_to_fp16", "910B": "must_keep_origin_dtype"}[chip]
    assert "npu.precision_mode is {}".format(default) in refusal(options, chip)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"black-list": {}} // why', "is not JSON (which has no comments)"),
        ("[]", "expected {"),
        ({"black-list": ["Add"]}, "expected {"),
        ({"black-list": {"to-add": "Add"}}, "expected {"),
        ({"white-list": {"to-add": [1]}}, "expected {"),
        ({"black-list": {"to-add": ["Mul", "Add"]}, "white-list": {"to-add": ["Add"]}}, "adds Add to both lists"),
    ],
)
def test_a_file_of_operators_that_cannot_be_meant_is_refused(content, sentence, mixlist):
    assert sentence in refusal({"modify_mixlist": mixlist(content)}, ours={"precision_mode": "allow_mix_precision"})


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ("0|x", "'x' in '0|x' is neither a step nor a range"),
        ("0||1", "'' in"),
        ("20-10", "the range '20-10' does not ascend"),
        ("|".join(["1"] * 101), "101 steps and ranges are more than 100"),
    ],
)
def test_steps_of_a_dump_that_cannot_be_read_are_refused(steps, sentence):
    assert sentence in refusal({"dump_step": steps})


def test_a_hundred_steps_of_a_dump_are_taken():
    npu_options.check({"dump_step": "|".join(["1-2"] * 100)}, "910")


@pytest.mark.parametrize(("text", "sentence"), [("{output: x}", "not JSON"), ("[1]", "expected JSON like")])
def test_options_of_a_profile_that_cannot_be_read_are_refused(text, sentence):
    assert sentence in refusal({"profiling_options": text})


@pytest.mark.parametrize(
    ("chip", "options", "ours", "sentence"),
    [
        ("910", {"graph_memory_max_size": "27917287424"}, {}, "graph_memory_max_size=27917287424 has no effect any more"),
        ("910", {"frozen_variable": True}, {}, "frozen_variable=true is for inference only"),
        ("910", {"enable_small_channel": 1}, {}, "enable_small_channel=1 is advised for ResNets only"),
        ("910", {"op_debug_level": 2}, {}, "switches the cache of compiled operators off"),
        ("910", {"op_compiler_cache_mode": "force"}, {}, "must not be used by several ranks at once"),
        ("910", {"op_compiler_cache_mode": "disable"}, {}, "makes each start compile all operators"),
        ("910", {"dump_step": "1"}, {}, "dump_step does nothing without enable_dump or enable_dump_debug"),
        ("910", {"profiling_options": "{}", "profiling_mode": False}, {}, "profiling_options does nothing without profiling_mode"),
        ("910", {"stream_sync_timeout": 60000}, {}, "stream_sync_timeout=60000 ms ends before hccl_timeout=1836 s does"),
        (
            "910",
            {"customize_dtypes": __file__},
            {"precision_mode": "must_keep_origin_dtype"},
            "customize_dtypes does nothing in precision mode must_keep",
        ),
        ("910", {}, {"precision_mode": "force_fp16"}, "precision mode force_fp16: is meant for inference"),
        ("910", {}, {"precision_mode_v2": "origin"}, "precision mode origin: the cores of the 910 have no fp32 convolution"),
    ],
)
def test_what_does_nothing_or_is_unwise_is_remarked_on(chip, options, ours, sentence):
    npu_options.check(options, chip, ours=ours)
    assert sentence in "\n".join(npu_options.remarks(options, chip, ours))


@pytest.mark.parametrize(
    ("chip", "options", "ours"),
    [
        ("910", {}, {}),
        ("910B", {}, {"precision_mode": "must_keep_origin_dtype"}),
        ("910", {"enable_small_channel": 0, "frozen_variable": False, "op_debug_level": 0}, {}),
        ("910", {"stream_sync_timeout": 3600000, "hccl_timeout": 1836}, {"precision_mode": "allow_mix_precision"}),
        ("910", {"enable_dump": False, "op_compiler_cache_mode": "enable"}, {}),
    ],
)
def test_what_is_well_chosen_is_not_remarked_on(chip, options, ours):
    assert npu_options.remarks(options, chip, ours) == []


def test_lists_of_operators_with_unknown_names_are_remarked_on(mixlist):
    options = {"modify_mixlist": mixlist({"blacklist": {"to-add": []}, "white-list": {"to_add": ["Add"]}})}
    npu_options.check(options, "910", ours={"precision_mode": "allow_mix_precision"})
    blacklist, to_add = npu_options.remarks(options, "910", {"precision_mode": "allow_mix_precision"})
    assert "'blacklist'" in blacklist
    assert "'white-list.to_add'" in to_add


def test_fifteen_precision_modes_are_known_and_each_chip_has_its_own():
    with open(os.path.join(ROOT, "mtc", "devices", "npu_options.json"), encoding="utf-8") as f:
        assert len(json.load(f)["precision_modes"]) == 15
    old, new = npu_options.precision_modes("910"), npu_options.precision_modes("910B")
    assert len(old) == 10
    assert set(new) - set(old) == {"allow_fp32_to_bf16", "allow_mix_precision_bf16", "mixed_bfloat16"}
    assert sorted(name for name, mode in new.items() if mode.mixed) == MIXED


def test_a_mixed_mode_of_fp16_needs_a_loss_scale_and_bf16_does_not():
    modes = npu_options.precision_modes("910B")
    assert {name: modes[name].loss_scale for name in MIXED} == {
        "allow_mix_precision": "needed",
        "allow_mix_precision_fp16": "needed",
        "mixed_float16": "needed",
        "allow_mix_precision_bf16": "no",
        "mixed_bfloat16": "no",
    }
    assert {mode.cube: mode.loss_scale for mode in modes.values() if "fp16" not in mode.cube} == {"fp32": "no", "bf16": "no"}


@pytest.mark.parametrize("chip", npu_options.CHIPS)
def test_each_mode_is_taken_under_its_key(chip):
    for name, mode in npu_options.precision_modes(chip).items():
        npu_options.check({}, chip, ours={mode.key: name})
        assert stored({mode.key: name}) == {mode.key: ("s", name.encode())}
        for key in {"precision_mode", "precision_mode_v2"} - set(mode.keys):
            assert "is not one of" in refusal({}, chip, {key: name})


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mixed_bfloat16", "npu.precision_mode: 'mixed_bfloat16' is not for the 910; use one of allow_fp32_to_fp16"),
        ("cube_hif8", "'cube_hif8' is not for the 910"),
        ("allow_mix_precison", "did you mean 'allow_mix_precision'?"),
    ],
)
def test_a_mode_that_the_chip_has_not_got_is_refused(name, sentence):
    with pytest.raises(UserError) as error:
        npu_options.precision_mode(name, "910")
    assert sentence in str(error.value)


def test_every_option_says_where_it_is_from_and_what_a_wrong_value_does():
    for chip in npu_options.CHIPS:
        for key, option in npu_options.options(chip).items():
            assert option.kind in "bifs", key
            assert option.fails in ("silent", "error", "abort", "abort or error"), key
            assert option.since in ("2021-02 or before", "after 2021-02", "not established"), key
            assert option.meaning, key
            assert "npu_attrs.cc" in option.source, key
            assert set(option.chips) <= set(npu_options.CHIPS), key
