"""All numbers of the report, as the plain data that report.json holds: stable keys, null for what is not a number.

Losses and their baselines are compared on the same steps, hence on the same samples: `report.last` of them, because the loss of one batch
varies a lot. Steps that were skipped changed nothing and had no number: means leave them out.
"""

import math
import os

import numpy as np

from mtc import config as configuration
from mtc.sections import Config

PUBLISHED = {"gpu": 0.0038, "npu": 0.0043}
"""Mean of the last ten losses in the reference's README: COCO, steps 390001 to 400000 of a fine-tune, batch 1."""

MOST_NAMED = 20
"""Skipped steps and bad samples that report.json names."""

_SETTING = {
    "data": ("mix", "crop_scale_sigma", "crop_offset_sigma", "zoom_2d"),
    "model": ("kind", "width", "stages", "crop"),
    "targets": ("sigma", "limb_width"),
    "train": ("start_step", "steps", "batch_size", "lr", "lr_steps", "pof_weight"),
    "report": ("last",),
    "compat": ("mask", "crop", "distortion", "shuffle", "lr_boundary", "background_weight", "ignore_paf_2d"),
}


def collect(config, history, evaluation_figures, rows):
    """Return the figures. history: `mtc.report.history.History`; rows: of `checkpoint_table.checkpoints`."""
    start = history.starts[-1] if history.starts else {}
    figures = {
        "v": 1,
        "name": config.name,
        "loss": losses(history, config.report.last),
        "steps": {
            "first": int(history.steps[0]),
            "last": int(history.steps[-1]),
            "asked": config.train.steps,
            "recorded": len(history.steps),
            "repeated": history.repeated,
            "starts": len(history.starts),
            "status": history.end.get("status") if history.end else None,
            "early_stop": bool(history.end and history.end.get("early_stop")),
        },
        "throughput": throughput(history, config.train.batch_size, start),
        "evaluations": evaluations(history, rows),
        "skipped": {"count": int(history.skipped.sum()), "steps": [_fault(line) for _, line in sorted(history.faults.items())[:MOST_NAMED]]},
        "precision": precision(history),
        "non_finite": _fault(history.non_finite) if history.non_finite else None,
        "bad_samples": bad_samples(history),
        "requests": [{key: line.get(key) for key in ("step", "by", "action", "value")} for line in history.controls],
        "averaged": bool(config.train.ema),
        "checkpoints": rows,
        "config": configuration.to_dict(config),
        "config_changed": changed(config),
        "versions": start.get("versions", {}),
        "device": start.get("device", {}),
        "snapshot": next((s["snapshot"] for s in history.starts if s.get("snapshot")), None),
        "parameters": start.get("parameters"),
        "dead_terms": start.get("dead_terms", []),
        "profile": None,
        "pck": {"trained": None, "untrained": None, "mean_pose": None},
    }
    figures["published"] = published(config, history, figures["snapshot"])
    figures.update(evaluation_figures)
    return finite(figures)


def losses(history, last):
    """Return means over the last steps, the same of the predict-nothing baseline, and over as many first steps."""
    columns = {key: values[~history.skipped] for key, values in history.columns.items()}
    count = min(last, len(columns["loss"]))
    figures = {"last_count": count, "first_mean": _mean(columns["loss"][:count]), "non_finite": int((~np.isfinite(columns["loss"])).sum())}
    for key in ("", "_2d", "_pof"):
        figures["last_mean" + key] = _mean(columns["loss" + key][-count:])
    for key in ("baseline_2d", "baseline_pof"):
        figures[key] = _mean(columns[key][-count:])
    return figures


def evaluations(history, rows):
    """Return what held-out samples said during training, or None where nobody asked: metric, samples, scores, best, last.

    scores: [{"step", "score"}] of the metric that was used last; best: the highest score, of equals the first, with "checkpoint" (name on disk, or
    None) and "uploaded" (URI or None). rows: of `checkpoint_table.checkpoints`.
    """
    lines = [line for _, line in sorted(history.evaluations.items()) if isinstance(line.get("score"), (int, float))]
    lines = [line for line in lines if line.get("metric") == lines[-1].get("metric")]
    if not lines:
        return None
    scores = [{"step": line["step"], "score": float(line["score"])} for line in lines]
    best = dict(min(scores, key=lambda entry: (-entry["score"], entry["step"])))
    best["checkpoint"] = next((row["name"] for row in rows if row["step"] == best["step"]), None)
    best["uploaded"] = history.uploads.get(best["step"], {}).get("uri")
    return {"metric": lines[-1].get("metric"), "samples": lines[-1].get("samples"), "scores": scores, "best": best, "last": scores[-1]}


def precision(history):
    """Return {"name", "changes", "overflows", "loss_scale"}: train.precision of the last start; [[step after which it was another one, that one]];
    how many steps overflowed; the last step's loss scale, or None where the loss was not scaled. Runs of earlier versions were in float32.
    """
    names = [(start["step"], start.get("precision", "fp32")) for start in history.starts]
    changes = [[step, name] for (_, before), (step, name) in zip(names, names[1:]) if name != before]
    scale = float(history.columns["loss_scale"][-1])
    name = names[-1][1] if names else "fp32"
    return {"name": name, "changes": changes, "overflows": len(history.overflows), "loss_scale": scale if math.isfinite(scale) else None}


def bad_samples(history):
    """Return how many samples could not be used, of which source, and the first of them."""
    by_source = {}
    for line in history.bad_samples:
        by_source[line.get("source")] = by_source.get(line.get("source"), 0) + 1
    examples = [{key: line.get(key) for key in ("source", "name", "reason")} for line in history.bad_samples[:MOST_NAMED]]
    return {"count": len(history.bad_samples), "by_source": by_source, "examples": examples}


def throughput(history, batch_size, start):
    """Return images and seconds a step: the median of the steps that are not the first of a start, and the time of all steps together.

    mfu: the network's FLOP over what the device's matrix products would have done in that time; waiting: share of the time without a batch
    at hand; stalled: time that the loop was held up by checkpoints over the time of the steps. None where the run's journal does not tell. start: the
    newest start line.
    """
    seconds = history.columns["seconds"]
    training_seconds = float(np.nansum(seconds))
    stalls = [line["stalled"] for line in history.checkpoints.values() if isinstance(line.get("stalled"), (int, float))]
    always = {"training_seconds": training_seconds, "stalled": sum(stalls) / training_seconds if stalls and training_seconds else None}
    steady = seconds[~history.first_of_start & np.isfinite(seconds) & (seconds > 0)]
    if not len(steady):
        nothing = dict.fromkeys(("images_per_second", "seconds_per_step", "mfu", "waiting"))
        return dict(nothing, steps_measured=0, **always)
    median = float(np.median(steady))
    waited = history.columns["waited"]
    told = ~history.first_of_start & np.isfinite(seconds) & (seconds > 0) & np.isfinite(waited)
    flop, peak = start.get("flop_per_image"), start.get("device", {}).get("flop_per_second")
    return dict(
        always,
        images_per_second=batch_size / median,
        seconds_per_step=median,
        steps_measured=len(steady),
        mfu=batch_size / median * flop / peak if flop and peak else None,
        waiting=float(waited[told].sum() / seconds[told].sum()) if told.any() else None,
    )


def published(config, history, snapshot):
    """Return the reference's numbers and why this run's are not comparable with them, if so."""
    reference, own = configuration.to_dict(configuration.load("ascend_full")), configuration.to_dict(config)
    reasons = [
        "{}.{} is {}, there {}".format(section, key, own[section][key], reference[section][key])
        for section, keys in sorted(_SETTING.items())
        for key in keys
        if own[section][key] != reference[section][key]
    ]
    if config.fetch.source == "synthetic":
        reasons.append("the images are synthetic, there COCO 2017")
    if not snapshot:
        reasons.append("training began from initial weights, there from the snapshot of step 390000")
    if history.steps[-1] != reference["train"]["steps"] and not any(reason.startswith("train.steps") for reason in reasons):
        reasons.append("the last step is {}, there {}".format(history.steps[-1], reference["train"]["steps"]))
    return dict(PUBLISHED, comparable=not reasons, not_comparable_because=reasons)


def changed(config):
    """Return {section.key: default} of all keys whose value is not the default."""
    own, default = configuration.to_dict(config), configuration.to_dict(Config())
    return {
        "{}.{}".format(section, key): default[section][key]
        for section, keys in own.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
        if value != default[section][key]
    }


def finite(value):
    """Return the same plain data with None for numbers that JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _fault(line):
    """Return {"step", "path"} of a step without numbers; path: of what it left behind, in the run directory, or None."""
    path = line.get("path")
    return {"step": line["step"], "path": "/".join(os.path.normpath(path).split(os.sep)[-2:]) if path else None}


def _mean(values):
    """Return the mean; NaN if one value is none, so that a broken step shows."""
    return float(values.mean()) if len(values) else float("nan")
