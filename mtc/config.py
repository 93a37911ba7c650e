"""The configuration of a run: presets as YAML files, and `section.key=value` overrides, read into the typed sections of `mtc.sections`.

A preset (`mtc/presets/NAME.yaml`) or a file of the user's gives other values than the defaults; `--set` goes over both. Unknown keys and
values of a wrong type are refused with the nearest valid name. The result is plain data: it is written to the run directory as `config.json`
and read back from there.
"""

import dataclasses
import difflib
import os
import re
import typing
from typing import Optional

import yaml

from mtc import files, step_ranges
from mtc.errors import UserError
from mtc.sections import Config

MOST_PARTS = 64
"""Of a batch, by train.micro_batch: each has its own copy of the network's operations in the graph."""
MOST_FUSED = 8
"""Sums that HCCL makes of the gradients, by npu.gradient_fusion."""

_CREDENTIALS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]*@")

PRESETS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "presets")


def presets():
    """Names of the presets that come with the project."""
    return sorted(name[: -len(".yaml")] for name in os.listdir(PRESETS) if name.endswith(".yaml"))


def load(preset_or_file, overrides=()):
    """Return the `Config` of a preset's name or a YAML/JSON file, with `section.key=value` overrides.

    Errors: UserError names the file or override, the key, and the nearest valid name.
    """
    path = os.path.join(PRESETS, preset_or_file + ".yaml")
    name = preset_or_file
    if not os.path.isfile(path):
        path = preset_or_file
        name = os.path.splitext(os.path.basename(path))[0]
        if not os.path.isfile(path):
            raise UserError(
                "config '{}' is neither a preset ({}) nor a file{}".format(preset_or_file, ", ".join(presets()), _nearest(preset_or_file, presets()))
            )
    try:
        with open(path, encoding="utf-8") as f:
            values = yaml.safe_load(f) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError("config {} cannot be read: {}".format(path, _one_line(error))) from None
    config = from_dict(values, path, name=name)
    for override in overrides:
        _override(config, override)
    check(config)
    return config


def from_dict(values, source, name="custom"):
    """Return the `Config` of nested dictionaries; `source` names them in errors."""
    if not isinstance(values, dict):
        raise UserError("{}: expected sections with keys, got {}".format(source, _kind(values)))
    config = Config(name=name)
    sections = _sections(config)
    for section, keys in values.items():
        if section == "name":
            config.name = _convert(str, keys, "{}: name".format(source))
            continue
        if section not in sections:
            raise UserError("{}: unknown section '{}'{}".format(source, section, _nearest(section, sections)))
        if not isinstance(keys, dict):
            raise UserError("{}: section '{}' must hold keys, got {}".format(source, section, _kind(keys)))
        for key, value in keys.items():
            _assign(config, section, key, value, source)
    return config


def to_dict(config):
    """Return nested dictionaries of plain values."""
    return dataclasses.asdict(config)


def read(path):
    """Return the checked `Config` of a run directory's config.json, or None where there is none."""
    try:
        values = files.read_json(path)
    except (ValueError, OSError) as error:
        raise UserError("{} cannot be read: {}".format(path, _one_line(error))) from None
    if values is None:
        return None
    config = from_dict(values, path)
    check(config)
    return config


def identity(config):
    """Return the part of a config that makes a run what it is: a run directory and its checkpoints keep to it."""
    values = to_dict(config)
    train = {key: values["train"][key] for key in ("start_step", "batch_size", "seed", "pof_weight", "ema")}
    data = {key: value for key, value in values["data"].items() if key not in ("root", "workers", "prefetch", "cache_mb", "max_bad_fraction")}
    sections = {key: values[key] for key in ("model", "targets", "augment", "compat")}
    del sections["compat"]["loss"]  # another way to the same numbers
    return dict(sections, train=train, data=data)


def completed_identity(found):
    """Return an `identity` that an earlier version has written, with the defaults of the keys that it did not know."""
    known = identity(Config())
    return {section: dict(known.get(section, {}), **found.get(section, {})) for section in set(known) | set(found)}


def difference(old, new):
    """Return "section.key was A, is B" for the first difference of two nested dictionaries, or "" where they are equal."""
    for section in sorted(set(old) | set(new)):
        before, after = old.get(section), new.get(section)
        if before != after:
            if isinstance(before, dict) and isinstance(after, dict):
                return "{}.{}".format(section, difference(before, after))
            return "{} was {}, is {}".format(section, before, after)
    return ""


def check(config):
    """Refuse values that contradict each other or say nothing."""
    step_ranges.span(config.train.profile, "train.profile")
    step_ranges.chosen(config.dump.steps, "dump.steps")
    if config.model.crop % 8:
        raise UserError("model.crop={}: must be divisible by 8".format(config.model.crop))
    if len(config.train.lr) != len(config.train.lr_steps) + 1:
        raise UserError(
            "train.lr has {} values and train.lr_steps {}: one learning rate more than steps is needed".format(
                len(config.train.lr), len(config.train.lr_steps)
            )
        )
    if config.train.batch_size % config.train.replicas:
        raise UserError("train.replicas={}: must divide train.batch_size={}".format(config.train.replicas, config.train.batch_size))
    if config.train.micro_batch and config.train.batch_size // config.train.replicas % config.train.micro_batch:
        what = "train.batch_size={}".format(config.train.batch_size)
        if config.train.replicas > 1:
            what += " / train.replicas={}".format(config.train.replicas)
        raise UserError("train.micro_batch={}: must divide {}".format(config.train.micro_batch, what))
    shares = config.npu.gradient_fusion
    if shares and (len(shares) > MOST_FUSED or min(shares) < 0 or sum(shares) != 100):
        text = "npu.gradient_fusion={}: at most {} shares of 0 or more that add up to exactly 100, in percent"
        raise UserError(text.format(shares, MOST_FUSED))
    per_run = config.npu.iterations_per_loop
    for name, count in (
        ("train.steps - train.start_step", config.train.steps - config.train.start_step),
        ("train.only", config.train.only),
        ("train.snapshot_every", config.train.snapshot_every),
        ("previews.every", config.previews.every),
    ):
        if count % per_run:
            raise UserError("npu.iterations_per_loop={}: must divide {}={}".format(per_run, name, count))
    if config.evaluation.patience and not config.evaluation.samples:
        raise UserError("evaluation.patience={}: needs evaluation.samples above 0".format(config.evaluation.patience))
    if config.train.micro_batch and config.train.batch_size // config.train.micro_batch > MOST_PARTS:
        text = "train.micro_batch={}: train.batch_size={} would go through the network in more than {} parts: choose a larger micro batch"
        raise UserError(text.format(config.train.micro_batch, config.train.batch_size, MOST_PARTS))
    for where, uri in (
        ("storage.uri", config.storage.uri),
        ("storage.endpoint", config.storage.endpoint),
        ("fetch.source", config.fetch.source),
        ("fetch.manifest", config.fetch.manifest),
        ("snapshot.uri", config.snapshot.uri),
    ):
        if _CREDENTIALS.match(uri):
            raise UserError(
                "{}: credentials do not belong into a URL, which is kept in config.json: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for S3, "
                "~/.netrc for http".format(where)
            )
    if any(not rate > 0 for rate in config.train.lr):
        raise UserError("train.lr={}: learning rates must be above 0".format(config.train.lr))
    if config.train.lr_steps != sorted(set(config.train.lr_steps)):
        raise UserError("train.lr_steps={}: must grow".format(config.train.lr_steps))
    if config.train.steps <= config.train.start_step:
        raise UserError("train.steps={}: must be above train.start_step={}".format(config.train.steps, config.train.start_step))
    if -1 < config.compat.background_weight < 0:
        raise UserError("compat.background_weight={}: must be -1 (the default of the skeleton) or 0 and more".format(config.compat.background_weight))
    if config.augment.flip and config.model.kind == "hand":
        raise UserError("augment.flip={}: a hand network is trained on left hands, right ones mirrored; set it to 0".format(config.augment.flip))
    if config.augment.rotate and config.compat.crop == "legacy":
        raise UserError("augment.rotate={}: the reference's crop does not turn; set it to 0, or compat.crop=exact".format(config.augment.rotate))
    known = {"body": ("coco", "synthetic3d"), "hand": ("synthetic_hand",)}[config.model.kind]
    for source, ratio in config.data.mix.items():
        if source not in known:
            raise UserError(
                "data.mix: unknown source '{}' for model.kind={}{}; known: {}".format(
                    source, config.model.kind, _nearest(source, known), ", ".join(known)
                )
            )
        if ratio < 0:
            raise UserError("data.mix: {}={}: must be 0 or more".format(source, ratio))
    if not sum(config.data.mix.values()):
        raise UserError("data.mix={}: at least one source needs a share above 0".format(config.data.mix))


def _override(config, text):
    target, equals, value = text.partition("=")
    section, dot, key = target.strip().partition(".")
    if not equals or not dot:
        homes = [name for name in _sections(config) if target.strip() in _types(getattr(config, name))]
        hint = "; did you mean '{}.{}'?".format(homes[0], target.strip()) if homes else ""
        raise UserError("--set {}: expected section.key=value{}".format(text, hint))
    source = "--set {}".format(text)
    if section not in _sections(config):
        raise UserError("{}: unknown section '{}'{}".format(source, section, _nearest(section, _sections(config))))
    key, dot, entry = key.partition(".")
    try:
        parsed = yaml.safe_load(value) if value.strip() else ""
    except yaml.YAMLError as error:
        raise UserError("{}: {}".format(source, _one_line(error))) from None
    known = _types(getattr(config, section))
    if dot:
        if key not in known or getattr(known[key], "__origin__", None) is not dict:
            raise UserError("{}: '{}.{}' has no entries{}".format(source, section, key, _nearest(key, known)))
        parsed = dict(getattr(getattr(config, section), key), **{entry: parsed})
    elif known.get(key) is str and not isinstance(parsed, str):
        parsed = value.strip()
    _assign(config, section, key, parsed, source)


def _assign(config, section, key, value, source):
    part = getattr(config, section)
    known = _types(part)
    if key not in known:
        names = ["{}.{}".format(section, name) for name in known]
        raise UserError("{}: unknown key '{}.{}'{}".format(source, section, key, _nearest("{}.{}".format(section, key), names)))
    where = "{}: {}.{}".format(source, section, key)
    value = _convert(known[key], value, where)
    declared = {f.name: f.metadata for f in dataclasses.fields(part)}[key]
    if "choices" in declared and value not in declared["choices"]:
        raise UserError("{}: '{}' is not one of {}{}".format(where, value, ", ".join(declared["choices"]), _nearest(value, declared["choices"])))
    if declared.get("least") is not None and value < declared["least"]:
        raise UserError("{}: {} is below {}".format(where, value, declared["least"]))
    if declared.get("most") is not None and value > declared["most"]:
        raise UserError("{}: {} is above {}".format(where, value, declared["most"]))
    setattr(part, key, value)


def _convert(kind, value, where):
    """Return `value` as `kind`; numbers written as text (YAML reads 1e-4 as text) are taken, other changes of type are refused."""
    origin = getattr(kind, "__origin__", None)
    if origin is list:
        if isinstance(value, str) and value:
            value = [part.strip() for part in value.split(",")]
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            value = [value]
        if isinstance(value, list):
            return [_convert(kind.__args__[0], item, where) for item in value]
        if value in ("", None):
            return []
    elif origin is dict:
        if isinstance(value, dict):
            return {_convert(str, k, where): _convert(kind.__args__[1], v, "{}.{}".format(where, k)) for k, v in value.items()}
        if value in ("", None):
            return {}
    elif kind is typing.Any:
        if isinstance(value, (bool, int, str)) or isinstance(value, float) and _number(value) is not None:
            return value
    elif kind is bool:
        if isinstance(value, bool):
            return value
    elif kind is str:
        if isinstance(value, str):
            return value
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, (float, str)):
            number = _number(value)
            if number is not None and number == int(number):
                return int(number)
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and _number(value) is not None:
            return float(value)
        if isinstance(value, str) and _number(value) is not None:
            return _number(value)
    name = {
        typing.Any: "true or false, a number or text",
        bool: "true or false",
        str: "text",
        int: "a whole number",
        float: "a number",
        list: "a list (1,2,3)",
        dict: "keys with values ({a: 1, b: 2})",
    }[origin or kind]
    raise UserError("{}: expected {}, got {}".format(where, name, _kind(value)))


def _number(value) -> Optional[float]:
    """Return a finite number, else None."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _sections(config):
    return [f.name for f in dataclasses.fields(config) if dataclasses.is_dataclass(getattr(config, f.name))]


def _types(part):
    return typing.get_type_hints(type(part))


def _nearest(name, known):
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return "; did you mean '{}'?".format(close[0]) if close else ""


def _kind(value):
    return "nothing" if value is None else "'{}'".format(value) if isinstance(value, str) else repr(value)


def _one_line(error):
    return " ".join(str(error).split())
