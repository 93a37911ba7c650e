"""The trigger form: typed parameters of the DAG, and the command line that they become.

A parameter that is left empty is not passed on, so the preset's own value holds. Everything else in the config is reached with `set`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from mtc_airflow import environment

KEYS = {
    "device": "train.device",
    "steps": "train.steps",
    "batch_size": "train.batch_size",
    "data_root": "data.root",
    "source": "fetch.source",
    "storage_uri": "storage.uri",
    "storage_endpoint": "storage.endpoint",
    "snapshot": "snapshot.uri",
}
"""Which key of the config each parameter sets."""

DRY_RUN = (
    "fetch.source=synthetic", "data.root=data/dry_run", "data.mix={coco: 1}", "synthetic.train_images=8", "synthetic.val_images=4",
    "synthetic.samples_3d=1", "synthetic.hands_3d=0", "train.only=1", "evaluation.samples=0", "previews.every=0", "report.samples=4",
    "report.pictures=1", "snapshot.uri=none", "train.start_step=0",
)  # fmt: skip
"""What a dry run sets: everything but network, device and storage is as small as it gets."""


def presets() -> list[str]:
    """Names of the presets that come with the project, and MTC_PRESET where that is a file of the user's own."""
    names = sorted(path.stem for path in (environment.project() / "mtc" / "presets").glob("*.yaml"))
    default = default_preset()
    return names if default in names else [*names, default]


def default_preset() -> str:
    """MTC_PRESET, or "demo": what a run that names no preset should do on a new machine takes minutes and no download."""
    return os.environ.get("MTC_PRESET") or "demo"


def form() -> dict[str, Param]:
    """The parameters of the DAG, in the order of the form."""
    what, how, where, rest = "What to train", "Training", "Data and storage", "Anything else"
    return {
        "preset": Param(
            default_preset(), type="string", enum=presets(), section=what, title="Preset",
            description="The config to start from: a file in mtc/presets, whose head says what it needs, how long it takes and what to expect. "
            "`demo` makes its own data and takes minutes. MTC_PRESET in the environment of Airflow changes this default; it may name a YAML file.",
        ),
        "snapshot": _optional(
            "string", section=what, title="Snapshot", minLength=1,
            description="Weights to start from: auto, none, a folder, a checkpoint prefix, an archive, file://, http(s):// or s3://. "
            "Empty: as the preset says.",
        ),
        "device": _optional(
            "string", section=how, title="Device", enum=[None, "auto", "cpu", "gpu", "npu"],
            description="Where to train. auto takes an NPU, else a GPU, else the CPU. Empty: as the preset says.",
        ),
        "steps": _optional(
            "integer", section=how, title="Last step", minimum=1, description="Number of the last training step. Empty: as the preset says."
        ),
        "batch_size": _optional("integer", section=how, title="Batch size", minimum=1, maximum=65536, description="Empty: as the preset says."),
        "world_size": Param(
            1, type="integer", minimum=1, maximum=4096, section=how, title="Processes",
            description="How many processes train together, each on a GPU or NPU of its own and with an equal part of each batch.",
        ),
        "machines": Param(
            1, type="integer", minimum=1, maximum=512, section=how, title="Machines",
            description="On how many machines, each with an equal part of the processes: as many workers must be free, and share the run's folder.",
        ),
        "data_root": _optional(
            "string", section=where, title="Data folder", minLength=1,
            description="Folder that has, or gets, train2017/, val2017/ and annotations/. A relative path counts from the project. "
            "Empty: as the preset says.",
        ),
        "source": _optional(
            "string", section=where, title="Source of COCO", minLength=1,
            description="http(s)://, s3://, file:// or a folder with the archives or with what is in them; or: synthetic. Empty: as the preset says.",
        ),
        "storage_uri": _optional(
            "string", section=where, title="Storage", minLength=1,
            description="Where checkpoints are uploaded to: a folder, file:/// or s3://bucket/prefix. Empty: as the preset says.",
        ),
        "storage_endpoint": _optional(
            "string", section=where, title="S3 endpoint", minLength=1, description="URL of an S3-compatible server. Empty: as the preset says."
        ),
        "shards": Param(
            2, type="integer", minimum=1, maximum=1000, section=where, title="Shards",
            description="Into how many tasks the making of masks is divided: as many as workers may take part. The result is the same.",
        ),
        "notify": Param(
            [], type="array", items={"type": "string", "format": "idn-email"}, section=rest, title="Mail on failure to",
            description="One address a line. Needs the connection mtc_smtp; the connection mtc_webhook is told in any case.",
        ),
        "dry_run": Param(
            False, type="boolean", section=what, title="Dry run",
            description="Try machine, memory and storage before the long run: the preset's network makes one step on a handful of synthetic samples, "
            "saves one checkpoint and uploads it. Nothing is downloaded.",
        ),
        "set": Param(
            [], type="array", items={"type": "string", "pattern": r"^\s*[a-z0-9_]+\.[A-Za-z0-9_./-]+\s*="}, section=rest, title="Overrides",
            description="One section.key=value a line, for any key of the config: train.seed=3. They go over the fields above.",
        ),
    }  # fmt: skip


def evaluation_form() -> dict[str, Param]:
    """The parameters of the DAG that evaluates."""
    return {
        "checkpoint": _optional(
            "string", title="Checkpoint", minLength=1,
            description="Address of a checkpoint, …/<run>/checkpoints/step-…; a folder, file:// or s3://. Empty: what a training has just made.",
        ),
        "run_dir": _optional(
            "string", title="Its run directory", minLength=1, description="Whose config.json says what network it is. Empty: that of the training."
        ),
        "samples": Param(4000, type="integer", minimum=1, title="Held-out samples", description="Most samples to evaluate."),
        "set": Param(
            [], type="array", items={"type": "string"}, title="Overrides", description="One section.key=value a line, over the training's own."
        ),
        "notify": Param([], type="array", items={"type": "string", "format": "idn-email"}, title="Mail on failure to"),
    }  # fmt: skip


def of_form(context) -> list[str]:
    """What a step of a training is told: the `--config` and `--set` arguments of the run's parameters."""
    return arguments(context["params"])


def machines(values: Mapping[str, Any]) -> tuple[int, int]:
    """(machines, processes on each). Errors: AirflowFailException where they cannot be equal."""
    size, count = values.get("world_size") or 1, values.get("machines") or 1
    if size % count:
        raise AirflowFailException(f"world_size={size} cannot be divided equally among machines={count}: change one of them")
    return count, size // count


def launcher(values: Mapping[str, Any], run_dir: Path, machine: int = 0) -> list[str]:
    """What stands before the arguments of a training of several processes, for one of its machines; nothing for a training of one process."""
    count, ranks = machines(values)
    if count * ranks == 1:
        return []
    words = ["--ranks", str(ranks)]
    if count > 1:
        words += ["--nodes", str(count), "--node-rank", str(machine), "--meet-in", str(run_dir / "ranks" / "meeting.json")]
        words += ["--record", record_of(machine)] if machine else []
    return [*words, "--"]


def record_of(machine: int) -> str:
    """Name of the record that a training leaves of a machine which is not the first."""
    return f"train_machine_{machine}"


def of_checkpoint(context) -> list[str]:
    """What an evaluation is told: the checkpoint of the parameters, or of the newest event of the asset that started the run."""
    values = context["params"]
    events = [event for found in (context.get("triggering_asset_events") or {}).values() for event in found]
    made = dict(events[-1].extra) if events else {}
    run_dir = values["run_dir"] or made.get("run_dir")
    checkpoint = values["checkpoint"] or made.get("uploaded") or made.get("checkpoint")
    if not run_dir or not checkpoint:
        raise AirflowFailException(
            "there is no checkpoint to evaluate: give 'checkpoint' and 'run_dir', or let a training of mtc_train start this run"
        )
    words = ["--config", os.path.join(run_dir, "config.json"), "--checkpoint", checkpoint, "--set", f"report.samples={values['samples']}"]
    for override in values["set"] or []:
        words += ["--set", override.strip()]
    return words


def arguments(values: Mapping[str, Any]) -> list[str]:
    """The `--config` and `--set` arguments of a step for the values of the form."""
    words = ["--config", values["preset"]]
    for override in overrides(values):
        words += ["--set", override]
    return words


def overrides(values: Mapping[str, Any]) -> list[str]:
    """One "section.key=value" for each parameter that was given."""
    given = [f"{key}={_as_yaml(values[name])}" for name, key in KEYS.items() if values.get(name) is not None]
    given += [override.strip() for override in values.get("set") or []]
    return given + list(DRY_RUN if values.get("dry_run") else ())


def refuse_unknown(context) -> None:
    """Fail a run whose `--conf` holds keys that no parameter has: Airflow takes any key, and a typo would train with the defaults.

    A hook for `pre_execute`. Errors: AirflowFailException names the key and the nearest valid one; or processes that machines cannot share equally.
    """
    machines(context.get("params") or {})
    known = list(form())
    for key in context["dag_run"].conf or {}:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "any key of the config goes into 'set'"
            raise AirflowFailException(f"unknown parameter '{key}'; {hint} Known: {', '.join(known)}")


def _optional(kind: str, **schema: Any) -> Param:
    return Param(None, type=["null", kind], **schema)


def _as_yaml(value: Any) -> str:
    """A value as `--set` reads it: YAML, in which plain words, paths and URLs stand for themselves and other text is quoted."""
    text = str(value)
    return text if re.fullmatch(r"[A-Za-z0-9_.:/@~+-]+", text) else json.dumps(text, ensure_ascii=False)
