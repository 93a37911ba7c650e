"""What the figures mean, in sentences: did the network learn, and what should a reader be warned of.

The rules are plain comparisons that a reader can check in report.json. A network has learned to look when it beats an answer that never looks (the
mean pose), beyond what the choice of samples explains; a loss below that of an empty answer alone does not show it.
"""

FEW_HELD_OUT = 50
FEW_TRAINING = 100
MANY_OVERFLOWS = 0.1
"""Share of the steps from which on overflows are no longer the price of finding the loss scale."""
TITLES = {"loss_2d": "the heat-map loss (loss_2d)", "loss_pof": "the POF loss (loss_pof)"}
DEAD_BECAUSE = {
    "loss_pof": "the training data has 2D labels only and compat.ignore_paf_2d is true, so nothing trains the POF branch, "
    "the loss is not even computed, and what a snapshot knew of 3D may be lost. "
    "Add a source with 3D labels to data.mix, or set compat.ignore_paf_2d=false",
}


def judge(figures):
    """Return {"learned": True, False or None (cannot be said), "headline": str, "sentences": [str]}."""
    trained, gain = figures["pck"]["trained"], figures.get("pck_gain")
    below = _ratio(figures["loss"]["last_mean_2d"], figures["loss"]["baseline_2d"])
    if trained is None or gain is None or gain["low"] is None:
        learned, headline = None, "Whether the network has learned cannot be said: there is no held-out measurement."
    elif gain["low"] > 0:
        learned, headline = True, "The network has learned to find joints: on held-out samples it beats the mean pose."
    elif gain["high"] < 0:
        learned, headline = False, "The network has not learned to find joints: on held-out samples the mean pose is better."
    else:
        learned, headline = False, "The network has not been shown to find joints: on held-out samples it is as good as the mean pose."
    if learned and not (below is not None and below < 1):
        why = "the last losses are no numbers" if figures["loss"]["last_mean_2d"] is None else "the loss is not below that of an empty answer"
        learned, headline = None, "The figures disagree: held-out joints beat the mean pose, but {}.".format(why)
    sentences = [
        _loss_sentence(figures, "2d", "Heat-map loss"),
        _pof_sentence(figures),
        _pck_sentence(figures),
        _angle_sentence(figures),
        _snapshot_sentence(figures),
        _early_stop_sentence(figures),
        _best_sentence(figures),
    ]
    return {"learned": learned, "headline": headline, "sentences": [sentence for sentence in sentences if sentence]}


def warnings(figures, damaged_checkpoints, damaged_lines):
    """Return the sentences that a reader must not miss, each naming what to do where something can be done; [] for a clean run."""
    found = []
    steps, loss, samples = figures["steps"], figures["loss"], figures.get("samples", {})
    for term in figures["dead_terms"]:
        found.append(
            "{} cannot be anything but 0 in this setting: {}.".format(
                _title(term), DEAD_BECAUSE.get(term, "nothing in the data or the config feeds it")
            )
        )
    first = figures["config"]["train"]["start_step"]
    if first and not figures["snapshot"]:
        found.append("The run counts from step {:,}, as after a snapshot, but started from initial weights.".format(first))
    if loss["last_mean_pof"] == 0 and "loss_pof" not in figures["dead_terms"]:
        found.append("The POF loss is 0 in the last {} steps.".format(loss["last_count"]))
    if steps["last"] < steps["asked"] and not steps["early_stop"]:
        how = {None: "training is going on or broke off"}.get(steps["status"], "training ended with status '{}'".format(steps["status"]))
        found.append("The run is not finished: step {:,} of {:,}; {}. Run tasks.train again to go on.".format(steps["last"], steps["asked"], how))
    if loss["non_finite"]:
        found.append("{:,} of {:,} steps have a loss that is no number: lower train.lr.".format(loss["non_finite"], steps["recorded"]))
    found += _fault_warnings(figures)
    if figures["precision"]["overflows"] > MANY_OVERFLOWS * steps["recorded"]:
        found.append(_overflow_sentence(figures) + " So many are training lost: set loss_scale.initial to the scale at the end, or lower train.lr.")
    for key, name in (("2d", "heat-map"), ("pof", "POF")):
        ratio = _ratio(loss["last_mean_" + key], loss["baseline_" + key])
        if ratio is not None and ratio >= 1 and "loss_" + key not in figures["dead_terms"]:
            found.append(
                "The {} loss is not below that of an empty answer ({:#.3g} against {:#.3g}).".format(
                    name, loss["last_mean_" + key], loss["baseline_" + key]
                )
            )
    found += _checkpoint_warnings(figures, damaged_checkpoints)
    if "held_out" in samples:
        found += _sample_warnings(figures, samples)
    if figures.get("non_finite_joints"):
        found.append("The network answers {:,} held-out joints with values that are no numbers.".format(figures["non_finite_joints"]))
    gain = figures.get("pck_gain")
    if gain and gain["low"] is not None and gain["low"] <= 0:
        found.append(
            "Held-out PCK@{} is not shown to be above the mean pose's (difference {:+.2f}, 95 % interval {:+.2f} to {:+.2f}).".format(
                gain["threshold"], gain["gain"], gain["low"], gain["high"]
            )
        )
    pof = figures.get("pof")
    if pof and pof.get("trained") is not None and pof["trained"] >= pof["mean_direction"] and "loss_pof" not in figures["dead_terms"]:
        found.append(
            "Limb directions are no better than the mean direction of the training samples ({:.0f}° against {:.0f}°).".format(
                pof["trained"], pof["mean_direction"]
            )
        )
    if damaged_lines:
        found.append("{:,} lines of metrics.jsonl could not be read and are left out.".format(damaged_lines))
    return found


def notes(figures):
    """Return the sentences that are good to know and nothing to worry about."""
    steps, found = figures["steps"], []
    if steps["starts"] > 1:
        again = " {:,} steps after the last checkpoint were trained again.".format(steps["repeated"]) if steps["repeated"] else ""
        found.append("Training was started {} times; the first step of each start does not count in the throughput.{}".format(steps["starts"], again))
    precision = figures["precision"]
    if 0 < precision["overflows"] <= MANY_OVERFLOWS * steps["recorded"]:
        found.append(_overflow_sentence(figures))
    for step, name in precision["changes"]:
        found.append("After step {:,}, train.precision was changed to {}.".format(step, name))
    lasting = {"steps": "another last step, {:,}", "lr_factor": "{:g} times the scheduled learning rate"}
    for asked in figures["requests"]:
        if asked["action"] in lasting:
            text = "After step {:,}, {} asked for {}."
            found.append(text.format(asked["step"], asked["by"] or "somebody", lasting[asked["action"]].format(asked["value"])))
    if figures.get("evaluated_step") is not None:
        averages = ", of the moving averages of its weights (train.ema={:g})".format(figures["config"]["train"]["ema"]) if figures["averaged"] else ""
        found.append("Held-out figures are of the checkpoint of step {:,}{}.".format(figures["evaluated_step"], averages))
    return found


def metric_title(metric):
    """Return what a reader calls an `evaluation.metric`."""
    return {"pck": "PCK@0.1", "auc": "area under the PCK curve"}.get(metric, str(metric))


def _overflow_sentence(figures):
    precision = figures["precision"]
    text = "{:,} of {:,} steps changed no weight: their gradient overflowed with the loss scale{}."
    end = "" if precision["loss_scale"] is None else ", which was {:,.0f} at the end".format(precision["loss_scale"])
    return text.format(precision["overflows"], figures["steps"]["recorded"], end)


def _fault_warnings(figures):
    """Return the sentences on steps without numbers and on samples that could not be used."""
    found, fatal, skipped, bad = [], figures["non_finite"], figures["skipped"], figures["bad_samples"]
    if fatal:
        left = "its batch is in {}".format(fatal["path"]) if fatal["path"] else "its batch could not be saved"
        found.append("Step {:,} was not made, because its loss or gradient was no number, and training ended there: {}.".format(fatal["step"], left))
    if skipped["count"]:
        one = skipped["count"] == 1
        what = "was skipped: its loss or gradient was" if one else "were skipped: their loss or gradient was"
        places = [fault["path"] for fault in skipped["steps"] if fault["path"]]
        left = "The batch is in {}".format(_some(places)) if one else "The batches are in {}".format(_some(places))
        text = "{:,} of {:,} steps {} no number. {}; lower train.lr if it happens again."
        found.append(text.format(skipped["count"], figures["steps"]["recorded"], what, left if places else "No batch could be saved"))
    if bad["count"]:
        text = "{:,} sample{} could not be used ({}), and {} replaced by the next one of the same source: {}."
        sources = ", ".join("{:,} of {}".format(count, source) for source, count in sorted(bad["by_source"].items(), key=str))
        named = ["{} ({})".format(sample["name"], sample["reason"]) for sample in bad["examples"]]
        named = "; ".join(named[:3]) + ("; and {:,} more".format(bad["count"] - 3) if bad["count"] > 3 else "")
        found.append(text.format(bad["count"], "s" if bad["count"] > 1 else "", sources, "were" if bad["count"] > 1 else "was", named))
    return found


def _checkpoint_warnings(figures, damaged):
    found, rows, last = [], figures["checkpoints"], figures["steps"]["last"]
    if not rows:
        found.append("There is no good checkpoint on disk, so the trained network could not be evaluated.")
    pending = [row["name"] for row in rows if row["remote"] == "missing"]
    if pending:
        found.append("Not uploaded to the storage: {}.".format(_some(pending)))
    if damaged:
        found.append("Incomplete or damaged checkpoints: {}. They are not used.".format(_some(damaged)))
    if figures.get("evaluated_step") is not None and figures["evaluated_step"] != last:
        found.append("The newest good checkpoint is of step {:,}, the last recorded step is {:,}.".format(figures["evaluated_step"], last))
    best = (figures["evaluations"] or {}).get("best")
    if best and not best["checkpoint"] and not best["uploaded"]:
        hint = "" if figures["config"]["checkpoint"]["keep_best"] else ": checkpoint.keep_best above 0 keeps the best"
        found.append("No good checkpoint of step {:,}, the best on held-out samples, is left{}.".format(best["step"], hint))
    return found


def _sample_warnings(figures, samples):
    found = []
    if samples["held_out"] == 0:
        found.append("There are no held-out samples: accuracy could not be measured.")
    elif samples["held_out"] < FEW_HELD_OUT:
        found.append("Only {} held-out samples: the accuracy is a rough estimate.".format(samples["held_out"]))
    if samples["training"] < FEW_TRAINING:
        found.append("Only {} training samples: the network may have learned them by heart.".format(samples["training"]))
    return found


def _loss_sentence(figures, key, title):
    mean, baseline = figures["loss"]["last_mean_" + key], figures["loss"]["baseline_" + key]
    ratio = _ratio(mean, baseline)
    if ratio is None:
        return "{} over the last {} steps: {}.".format(title, figures["loss"]["last_count"], "no number" if mean is None else "{:#.3g}".format(mean))
    return "{} {:#.3g} over the last {} steps: {:.0f} % of the {:#.3g} that an empty answer gets on the same samples.".format(
        title, mean, figures["loss"]["last_count"], 100 * ratio, baseline
    )


def _pof_sentence(figures):
    if "loss_pof" in figures["dead_terms"]:
        return "The POF branch was not trained: its loss is 0 by construction."
    return _loss_sentence(figures, "pof", "POF loss")


def _pck_sentence(figures):
    pck, gain = figures["pck"], figures.get("pck_gain")
    if not pck["trained"] or not gain or pck["trained"]["0.1"] is None:
        return ""
    interval = " (95 % interval {:+.2f} to {:+.2f})".format(gain["low"], gain["high"]) if gain["low"] is not None else ""
    trained, mean_pose, untrained = (pck[name]["0.1"] for name in ("trained", "mean_pose", "untrained"))
    return (
        "PCK@0.1 on {:,} held-out samples: {:.2f}, against {:.2f} for the mean pose of the training samples and {:.2f} untrained; "
        "{:+.2f} over the mean pose{}.".format(figures["samples"]["held_out"], trained, mean_pose, untrained, gain["gain"], interval)
    )


def _angle_sentence(figures):
    pof = figures.get("pof")
    if not pof or pof.get("trained") is None:
        return ""
    return (
        "Limb directions in 3D are off by {:.0f}° on average, against {:.0f}° for the mean direction of the training samples "
        "({:,} held-out 3D samples).".format(pof["trained"], pof["mean_direction"], pof["samples"])
    )


def _snapshot_sentence(figures):
    if not figures["snapshot"]:
        return ""
    return "Training began from a snapshot, so the accuracy says what the network can do, not what this run added to it."


def _early_stop_sentence(figures):
    steps = figures["steps"]
    if not steps["early_stop"]:
        return ""
    patience, gain = (figures["config"]["evaluation"][key] for key in ("patience", "min_gain"))
    return "Training stopped early, as it was asked to: after step {:,} of {:,}, {} evaluations in a row had brought no gain{}.".format(
        steps["last"], steps["asked"], patience, " of more than {:g}".format(gain) if gain else ""
    )


def _best_sentence(figures):
    found = figures["evaluations"]
    if not found:
        return ""
    best, last, title = found["best"], found["last"], metric_title(found["metric"])
    if best["step"] == last["step"]:
        which = "the last of {:,} evaluations".format(len(found["scores"])) if len(found["scores"]) > 1 else "the only evaluation"
        return "During training, held-out {} was {:.3f} after step {:,}, {} and the best.".format(title, best["score"], best["step"], which)
    if best["checkpoint"]:
        where = "its checkpoint is checkpoints/{}".format(best["checkpoint"])
    else:
        where = "its checkpoint is only in the storage: {}".format(best["uploaded"]) if best["uploaded"] else "no good checkpoint of it is left"
    text = "During training, held-out {} was best after step {:,} ({:.3f}), not after the last evaluated one, step {:,} ({:.3f}); {}."
    return text.format(title, best["step"], best["score"], last["step"], last["score"], where)


def _ratio(value, baseline):
    return value / baseline if value is not None and baseline else None


def _title(term):
    title = TITLES.get(term, "the loss term {}".format(term))
    return title[0].upper() + title[1:]


def _some(names, most=3):
    return ", ".join(names[:most]) + (" and {} more".format(len(names) - most) if len(names) > most else "")
