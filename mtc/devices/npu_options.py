"""What may be said to CANN's TF Adapter: the options of a session, which are entries of NpuOptimizer's `parameter_map`.

The adapter ignores a key that it does not know, and reads a value of the wrong kind as false, 0 or "" (protocol buffers have a field for each
kind), both without a word; what it does notice ends the process at the first step. So everything is checked here, before TensorFlow
starts, against `npu_options.json`: a table of all keys with kind, values, default, chips and source (the adapter's `util/npu_attrs.cc` and the pages
`session_config/` of its manual). docs/ascend.md shows that table.
"""

import dataclasses
import difflib
import functools
import json
import os
import re
from typing import Any, List, NamedTuple, Optional

from mtc.devices import npu_rules, npu_values
from mtc.errors import UserError

CHIPS = ("910", "910B")
"""The first is also called 910A; the second is in the Atlas A2 products."""

OURS = {
    "use_off_line": "set by train.device: npu is True, cpu is False",
    "graph_run_mode": "always 1, training; leave it out",
    "precision_mode": "use npu.precision_mode instead",
    "precision_mode_v2": "use npu.precision_mode instead, which takes the names of both",
    "iterations_per_loop": "use npu.iterations_per_loop instead",
    "enable_data_pre_proc": "use npu.iterations_per_loop instead: it is on where loops need it",
    "deterministic": "use train.deterministic instead",
    "is_tailing_optimization": "has to agree with the optimizer, which is made without it; leave it out",
    "session_device_id": "set the environment variable ASCEND_DEVICE_ID instead, which differs from rank to rank",
    "remapping": "is no option of the adapter but of TensorFlow, and always off on the NPU; leave it out",
    "memory_optimization": "is no option of the adapter but of TensorFlow, and always off on the NPU; leave it out",
}
"""What this program sets itself, and what to use instead."""

_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "npu_options.json")
_KINDS = {"b": (bool, "true or false"), "i": (int, "a whole number"), "f": (float, "a number"), "s": (str, "text")}


@dataclasses.dataclass(frozen=True)
class Option:
    """One key of `parameter_map`, on one chip."""

    kind: str
    """Field of the protocol buffer that the adapter reads: b, i, f or s."""
    default: Any
    """What the adapter takes without the key; None: not established, or nothing."""
    meaning: str
    since: str
    """Age of the adapter that has it: "2021-02 or before", "after 2021-02" or "not established"."""
    fails: str
    """What the adapter does with a value that it finds wrong: "silent", "error" at the first step, "abort" of the process."""
    source: str
    values: Optional[List[Any]] = None
    least: Optional[int] = None
    most: Optional[int] = None
    multiple: int = 1
    pattern: str = ""
    path: str = ""
    """"file", "folder" or "writable folder": it has to be there."""
    chips: List[str] = dataclasses.field(default_factory=lambda: list(CHIPS))
    remark: str = ""
    """What is to be said to whoever sets it to something else than the default; its subject is the key."""


class PrecisionMode(NamedTuple):
    """In which type each operator computes."""

    keys: List[str]
    """precision_mode, precision_mode_v2 or both: where the adapter takes it."""
    cube: str
    """Type of convolutions and matrix products."""
    vector: str
    """Type of all else."""
    loss_scale: str
    """"needed", "advised" or "no": whether gradients pass through fp16, which loses those below 6e-8 and caps those above 65504."""
    meaning: str
    remark: str

    @property
    def mixed(self):
        """Whether lists of operators decide: what modify_mixlist can change."""
        return "by operator list" in self.vector

    @property
    def key(self):
        """The key of `parameter_map` to set."""
        return self.keys[0]


def options(chip):
    """Return {key: `Option`} of all keys, those that the chip does not know too."""
    assert chip in CHIPS, chip
    found = {}
    for key, declared in _read()["options"].items():
        fields = {name: value for name, value in declared.items() if name != "per_chip"}
        found[key] = Option(**dict(fields, **declared.get("per_chip", {}).get(chip, {})))
    return found


def precision_modes(chip):
    """Return {mode: `PrecisionMode`} of the modes that the chip has, those of precision_mode and those of precision_mode_v2."""
    assert chip in CHIPS, chip
    modes = {}
    for name, declared in _read()["precision_modes"].items():
        if chip in declared["chips"]:
            remark = declared.get("remark", {}).get(chip, "")
            modes[name] = PrecisionMode(declared["keys"], declared["cube"], declared["vector"], declared["loss_scale"], declared["note"], remark)
    return modes


def precision_mode(name, chip, where="npu.precision_mode"):
    """Return the `PrecisionMode` of that name. Errors: UserError where there is none, or the chip has not got it."""
    modes = precision_modes(chip)
    if name in modes:
        return modes[name]
    if name in _read()["precision_modes"]:
        raise UserError("{}: '{}' is not for the {}; use one of {}".format(where, name, chip, ", ".join(modes)))
    raise UserError("{}: '{}' is not one of {}{}".format(where, name, ", ".join(modes), _nearest(name, modes)))


def check(given, chip, where="npu.options", ours=None):
    """Refuse options that the adapter would ignore, misread or die of.

    given: the user's, {key: bool, int, float or str}; ours: what this program adds ({"precision_mode": …, "iterations_per_loop": …}), which the
    rules between keys need to know. Errors: UserError.
    """
    table = options(chip)
    for key, value in given.items():
        if key in OURS:
            raise UserError("{}.{}: {}".format(where, key, OURS[key]))
        _check_one(table, key, value, chip, where)
    for key, value in (ours or {}).items():
        _check_one(table, key, value, chip, "npu")
    together = dict(given, **(ours or {}))
    for broken in [_mixlist_without_a_mixed_mode(together, chip)] + [rule(together) for rule in npu_rules.RULES]:
        if broken:
            raise UserError("{}.{}".format(where, broken))


def remarks(given, chip, ours=None):
    """Return sentences about checked options that are allowed, but do nothing or are unwise in a training."""
    table, together = options(chip), dict(given, **(ours or {}))
    found = []
    for key in given:
        if table[key].remark and given[key] != table[key].default:
            found.append("{}={} {}".format(key, _shown(given[key]), table[key].remark))
    name, mode = _mode(together, chip)
    if mode.remark:
        found.append("precision mode {}: {}".format(name, mode.remark))
    for key, needs in npu_rules.IDLE_WITHOUT.items():
        if key in given and not any(together.get(need) for need in needs):
            found.append("{} does nothing without {}".format(key, " or ".join(needs)))
    if "customize_dtypes" in given and name in ("must_keep_origin_dtype", "origin"):
        found.append("customize_dtypes does nothing in precision mode {}".format(name))
    if together.get("op_compiler_cache_mode") == "force":
        found.append("op_compiler_cache_mode=force compiles all operators again at each start, and must not be used by several ranks at once")
    if together.get("op_compiler_cache_mode") == "disable":
        found.append("op_compiler_cache_mode=disable makes each start compile all operators, which takes minutes to tens of minutes")
    hccl = together.get("hccl_timeout", table["hccl_timeout"].default)
    for key in ("stream_sync_timeout", "event_sync_timeout"):
        if key in given and 0 <= given[key] <= 1000 * hccl:
            found.append("{}={} ms ends before hccl_timeout={} s does: with several devices make it longer".format(key, given[key], hccl))
    if "modify_mixlist" in given:
        found += npu_values.strange_lists(given["modify_mixlist"])
    return found


def put(custom_optimizer, given):
    """Write checked options, the user's or ours, into the `parameter_map` of a custom optimizer (RewriterConfig.CustomGraphOptimizer)."""
    table = options(CHIPS[0])  # kinds are the same on all chips
    for key, value in given.items():
        kind = table[key].kind
        assert isinstance(value, _KINDS[kind][0]), (key, value)
        setattr(custom_optimizer.parameter_map[key], kind, value.encode() if kind == "s" else value)


def markdown(name):
    """Return a table of docs/ascend.md: "modes" (of precision) or "options"."""
    return {"modes": _modes_table, "options": _options_table}[name]()


def _modes_table():
    lines = ["| mode | chips | convolutions, matrix products | all else | loss scale | |", "|---|---|---|---|---|---|"]
    for name, mode in _read()["precision_modes"].items():
        chips = ", ".join(mode["chips"]) or "none of these"
        lines.append("| `{}` | {} | {} | {} | {} | {} |".format(name, chips, mode["cube"], mode["vector"], mode["loss_scale"], mode["note"]))
    return "\n".join(lines) + "\n"


def _options_table():
    lines = ["| key | type | values | default | since | |", "|---|---|---|---|---|---|"]
    first, second = (options(chip) for chip in CHIPS)
    for key, option in first.items():
        if key in OURS:
            continue
        meaning = option.meaning + (". It {}".format(option.remark) if option.remark else "")
        if option.chips != list(CHIPS):
            meaning += ". Only for the {}".format(", ".join(option.chips))
        values = _of_chips(_domain(option), _domain(second[key]))
        default = _of_chips(_default(option), _default(second[key]))
        kind = {"b": "true, false", "i": "whole number", "f": "number", "s": "text"}[option.kind]
        lines.append("| `{}` | {} | {} | {} | {} | {} |".format(key, kind, values, default, option.since, meaning.replace("|", "\\|")))
    return "\n".join(lines) + "\n"


@functools.lru_cache(maxsize=None)
def _read():
    with open(_PATH, encoding="utf-8") as f:
        return json.load(f)


def _check_one(table, key, value, chip, where):
    """Refuse an unknown key, a chip without it, and a value that is wrong by itself."""
    name = "{}.{}".format(where, key)
    if key not in table:
        raise UserError("{}: the adapter knows no such option, and would ignore it{}".format(name, _nearest(key, table)))
    option = table[key]
    if chip not in option.chips:
        raise UserError("{}: not for the {}, only for the {}; leave it out".format(name, chip, ", ".join(option.chips)))
    expected, words = _KINDS[option.kind]
    if not isinstance(value, expected) or isinstance(value, bool) is not (expected is bool):
        advice = ""
        if option.kind == "s" and isinstance(value, (bool, int, float)):
            advice = '; write "{}", in quotes'.format(_shown(value))
        raise UserError("{}: expected {}, got {}{}".format(name, words, "nothing" if value is None else repr(value), advice))
    if option.kind == "s" and not value.strip():
        raise UserError("{}: is empty; give it a value or leave it out".format(name))
    if key.startswith("precision_mode"):
        precision_mode(value, chip, name)
    if option.values is not None and value not in option.values:
        listed = ", ".join(_shown(allowed) for allowed in option.values)
        raise UserError("{}: {} is not one of {} on the {}{}".format(name, _shown(value), listed, chip, _nearest(value, option.values)))
    if option.least is not None and value < option.least:
        raise UserError("{}: {} is below {}, the least on the {}".format(name, value, option.least, chip))
    if option.most is not None and value > option.most:
        raise UserError("{}: {} is above {}, the most on the {}".format(name, value, option.most, chip))
    if option.kind == "i" and abs(value) >= 2**63:
        raise UserError("{}: {} does not fit into 64 bits".format(name, value))
    if option.multiple != 1 and value % option.multiple:
        near = value - value % option.multiple
        raise UserError("{}: {} is no multiple of {}, and the {} would take {}".format(name, value, option.multiple, chip, near))
    if option.pattern and not re.fullmatch(option.pattern, value):
        raise UserError("{}: '{}' does not have the form {}".format(name, value, option.meaning.rpartition(": ")[2]))
    broken = npu_values.path(value, option.path) if option.path else ""
    if not broken and key in npu_values.FORMS:
        broken = npu_values.FORMS[key](value)
    if broken:
        raise UserError("{}: {}".format(name, broken))


def _mixlist_without_a_mixed_mode(said, chip):
    name, mode = _mode(said, chip)
    if "modify_mixlist" not in said or mode.mixed:
        return ""
    mixed = ", ".join(other for other, known in precision_modes(chip).items() if known.mixed)
    return "modify_mixlist: goes with a mixed precision mode only, and npu.precision_mode is {}; set it to one of {}".format(name, mixed)


def _mode(said, chip):
    """Return the (name, `PrecisionMode`) that a session with these options computes in."""
    name = said.get("precision_mode") or said.get("precision_mode_v2") or options(chip)["precision_mode"].default
    return name, precision_modes(chip)[name]


def _domain(option):
    """What an option may be, for the table; "" where its type says all."""
    if option.values is not None:
        return ", ".join("`{}`".format(_shown(value)) for value in option.values)
    if option.path:
        return "existing " + option.path if option.path != "writable folder" else "existing folder, writable"
    if option.least is None:
        return ""
    text = "{} and more".format(option.least) if option.most is None else "{} to {}".format(option.least, option.most)
    return text + (", multiples of {}".format(option.multiple) if option.multiple != 1 else "")


def _default(option):
    return "" if option.default is None else "`{}`".format(_shown(option.default))


def _of_chips(*texts):
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join("{}: {}".format(chip, text or "none") for chip, text in zip(CHIPS, texts))


def _shown(value):
    """Return a value as YAML has it, text without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nearest(name, known):
    close = difflib.get_close_matches(str(name), [str(one) for one in known], n=1, cutoff=0.5)
    return "; did you mean '{}'?".format(close[0]) if close else ""
