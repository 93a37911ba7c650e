"""The configuration of a run: typed sections, presets as YAML files, `section.key=value` overrides.

Every key is declared here once, with its type, default and meaning. A preset (`mtc/presets/NAME.yaml`) or a file of the user's gives other
values; `--set` goes over both. Unknown keys and values of a wrong type are refused with the nearest valid name. The result is plain data:
it is written to the run directory as `config.json` and read back from there.
"""

import dataclasses
import difflib
import os
import typing
from dataclasses import dataclass, field
from typing import Dict, List, Optional

import yaml

from mtc import files
from mtc.errors import UserError

PRESETS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "presets")


def choice(default, *values):
    """Declare a string key that takes only these values."""
    return field(default=default, metadata={"choices": values})


def bounded(default, least, most=None):
    """Declare a number that is at least `least` and at most `most`."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass
class Data:
    """What is trained on, and how it is cropped."""

    root: str = "data/coco2017"
    """Folder with train2017/, val2017/ and annotations/; preprocessing adds mask2017/, COCO.json and COCO_val.json."""
    mix: Dict[str, int] = field(default_factory=lambda: {"coco": 1})
    """How many of `sum(mix)` consecutive samples come from each source: coco (2D labels), synthetic3d (3D labels), synthetic_hand (3D labels)."""
    crop_scale_sigma: float = bounded(0.1, 0, 1)
    """Jitter of the crop's scale: exp of a normal truncated at two sigma. 0: none."""
    crop_offset_sigma: float = bounded(0.1, 0, 1)
    """Jitter of the crop's centre in half sizes of the person: a normal truncated at two sigma. 0: none."""
    zoom_2d: float = bounded(1.8, 1, 10)
    """Side of the crop over twice the farthest joint, for 2D samples."""
    zoom_3d: float = bounded(1.5, 1, 10)
    """The same for 3D samples, in 3D units."""
    workers: int = bounded(0, 0, 256)
    """Threads that decode and crop. 0: one a core. Any number gives the same stream of samples."""
    prefetch: int = bounded(4, 1, 1024)
    """Batches that are made ready ahead of the step."""


@dataclass
class Synthetic:
    """The synthetic data set that `fetch.source=synthetic` makes."""

    seed: int = bounded(1, 0)
    train_images: int = bounded(600, 1, 1000000)
    """Images of train2017; each holds one to `people` people."""
    val_images: int = bounded(100, 1, 1000000)
    samples_3d: int = bounded(600, 0, 1000000)
    """People with 3D labels (source synthetic3d)."""
    hands_3d: int = bounded(0, 0, 1000000)
    """Hands with 3D labels (source synthetic_hand)."""
    people: int = bounded(3, 1, 30)
    """Most labelled people in an image."""
    width: int = bounded(320, 64, 640)
    """Longer side of an image in pixels."""


@dataclass
class Model:
    """The network (CPM, two branches)."""

    kind: str = choice("body", "body", "hand")
    width: float = bounded(1.0, 0.01, 4)
    """Multiplier of every hidden layer's channels; 1 is the published network."""
    stages: int = bounded(6, 1, 20)
    """All stages, the first one included; the published network has 6."""
    crop: int = bounded(368, 32, 2048)
    """Side of the square input in pixels, divisible by 8."""


@dataclass
class Targets:
    """What the network should answer, in pixels of the crop."""

    sigma: float = bounded(7.0, 0.1, 1000)
    """Standard deviation of a joint's peak in a heat-map."""
    limb_width: float = bounded(8.0, 0.1, 1000)
    """Half-width of a limb in a part orientation field."""


@dataclass
class Snapshot:
    """Weights to start from: a TensorFlow checkpoint with the reference's variable names."""

    uri: str = "auto"
    """auto: the one checkpoint in snapshots/, if any. none: start from initial weights. Or a folder, a checkpoint prefix, an archive,
    file://, http(s):// or s3://."""
    sha256: str = ""
    """SHA-256 of the archive, checked after the download. Empty: not checked."""
    adam: bool = True
    """Take over Adam's moments too, where the snapshot has them."""
    discard: List[str] = field(default_factory=list)
    """Leave out variables whose name contains one of these."""
    rename: Dict[str, str] = field(default_factory=dict)
    """Replace the first occurrence of each key in a name: {"body/CPM": "CPM"}."""


@dataclass
class Train:
    """The training loop."""

    start_step: int = bounded(0, 0)
    """Number of the step before the first one of this run."""
    steps: int = bounded(400000, 1)
    """Number of the last step."""
    batch_size: int = bounded(1, 1, 65536)
    lr: List[float] = field(default_factory=lambda: [1e-4, 1e-5])
    """Learning rates, one more than `lr_steps`."""
    lr_steps: List[int] = field(default_factory=lambda: [100000])
    """The learning rate changes after each of these steps."""
    pof_weight: float = bounded(1.0, 0)
    """Weight of the POF loss beside the heat-map loss."""
    snapshot_every: int = bounded(5000, 1)
    """Steps between two checkpoints; the last step always makes one."""
    log_every: int = bounded(10, 1)
    """Steps between two log lines. The losses of all steps are in metrics.jsonl."""
    seed: int = bounded(0, 0)
    """Seed of initial weights, order of samples and jitter."""
    device: str = choice("auto", "auto", "cpu", "gpu", "npu")
    threads: int = bounded(0, 0, 1024)
    """TensorFlow's threads on the CPU. 0: one a core."""


@dataclass
class Storage:
    """Where checkpoints are uploaded to while training goes on."""

    uri: str = "storage"
    """A folder, file:///… or s3://bucket/prefix; the run's name is added. Credentials of S3: the usual AWS_* variables."""
    endpoint: str = ""
    """URL of an S3-compatible server. Empty: AWS."""
    region: str = ""


@dataclass
class Fetch:
    """Where the data set comes from."""

    source: str = "http://images.cocodataset.org"
    """Base of the archives: http(s)://, s3://, file:// or a folder (with the archives, or with the extracted train2017/, val2017/,
    annotations/); or: synthetic."""
    manifest: str = "official"
    """Sizes and SHA-256 of the archives: official (COCO 2017), a JSON file or URL; none: not checked."""


@dataclass
class Report:
    """The final report."""

    last: int = bounded(10, 1)
    """The headline loss is the mean over this many last steps (reference: 10)."""
    samples: int = bounded(200, 1)
    """Most held-out samples to evaluate."""
    pictures: int = bounded(8, 0, 64)
    """Held-out samples to draw."""


@dataclass
class Compat:
    """Switches between what is right and what the reference does; see docs/differences.md."""

    mask: str = choice("miss", "miss", "all")
    """miss: ignore unlabelled people. all: count only pixels of people (the Ascend port)."""
    crop: str = choice("exact", "exact", "legacy")
    """legacy: the reference's crop, up to 0.8 px away from its own labels."""
    distortion: str = choice("exact", "exact", "legacy")
    """legacy: x²y² instead of xy in the tangential distortion."""
    shuffle: bool = True
    """False: samples in file order (the Ascend port)."""
    lr_boundary: str = choice("exact", "exact", "legacy")
    """exact: step lr_steps[i] is the last with lr[i]. legacy: of two learning rates the first holds one step longer."""
    background_weight: float = bounded(-1.0, -1)
    """Weight of the background heat-map in the loss. -1: 0 for the body, 1 for the hand."""
    ignore_paf_2d: bool = False
    """True: 2D-only samples give no POF loss at all."""


@dataclass
class Config:
    """A whole run."""

    name: str = "custom"
    data: Data = field(default_factory=Data)
    synthetic: Synthetic = field(default_factory=Synthetic)
    model: Model = field(default_factory=Model)
    targets: Targets = field(default_factory=Targets)
    snapshot: Snapshot = field(default_factory=Snapshot)
    train: Train = field(default_factory=Train)
    storage: Storage = field(default_factory=Storage)
    fetch: Fetch = field(default_factory=Fetch)
    report: Report = field(default_factory=Report)
    compat: Compat = field(default_factory=Compat)


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
    train = {key: values["train"][key] for key in ("start_step", "batch_size", "seed", "pof_weight")}
    data = {key: value for key, value in values["data"].items() if key not in ("root", "workers", "prefetch")}
    return {"model": values["model"], "targets": values["targets"], "compat": values["compat"], "train": train, "data": data}


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
    """Refuse values that contradict each other."""
    if config.model.crop % 8:
        raise UserError("model.crop={}: must be divisible by 8".format(config.model.crop))
    if len(config.train.lr) != len(config.train.lr_steps) + 1:
        raise UserError(
            "train.lr has {} values and train.lr_steps {}: one learning rate more than steps is needed".format(
                len(config.train.lr), len(config.train.lr_steps)
            )
        )
    if any(not rate > 0 for rate in config.train.lr):
        raise UserError("train.lr={}: learning rates must be above 0".format(config.train.lr))
    if config.train.lr_steps != sorted(set(config.train.lr_steps)):
        raise UserError("train.lr_steps={}: must grow".format(config.train.lr_steps))
    if config.train.steps <= config.train.start_step:
        raise UserError("train.steps={}: must be above train.start_step={}".format(config.train.steps, config.train.start_step))
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
        raise UserError("--set {}: expected section.key=value".format(text))
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
        raise UserError("{}: unknown key '{}.{}'{}".format(source, section, key, _nearest(key, known)))
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
    elif kind is bool:
        if isinstance(value, bool):
            return value
    elif kind is str:
        if isinstance(value, str):
            return value
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value == int(value):
            return int(value)
        if isinstance(value, str):
            number = _number(value)
            if number is not None and number == int(number):
                return int(number)
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and _number(value) is not None:
            return float(value)
        if isinstance(value, str) and _number(value) is not None:
            return _number(value)
    name = {bool: "true or false", str: "text", int: "a whole number", float: "a number", list: "a list", dict: "keys with values"}[origin or kind]
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
