"""The six parts of the benchmark. Each one takes a `Setting` and fills a `Record`; a number that cannot be measured gets a reason instead."""

import contextlib

from benchmarks import pairs, results
from benchmarks.pairs import Contestant
from benchmarks.setting import LABELS, Disagreement, missing, noting, started

TITLES = {
    "a": "loss and targets, forward and backward",
    "b": "input pipeline",
    "c": "full step, input included",
    "d": "what of a step is not the network",
    "e": "peak memory",
    "f": "fraction of the machine's matrix-product peak",
}
_PARITY = ["data.mix={coco: 1}"]
_MIXED = ["data.mix={coco: 1, synthetic3d: 1}"]
_DIRECTIONS = ["data.mix={coco: 1}", "compat.ignore_paf_2d=false"]
_SHAPES = ((2048, 2048, 2048), (4096, 4096, 1024), (8464, 6272, 128), (8464, 1152, 512))
"""Square, flat, and two that the network's 7 x 7 and 3 x 3 convolutions are at batch 4."""


def loss(setting, record):
    """(a) Reference shape, our plain form and our fast form in one process, on each TensorFlow."""
    batch, _ = setting.batches()
    worst = {}
    scenes = (
        ("2D, no POF (ascend_perf)", _PARITY, "loss_ratio"),
        ("2D and 3D", _MIXED, "loss_ratio"),
        ("2D directions (coco_body)", _DIRECTIONS, "loss_ratio_2d_directions"),
    )
    for which in ("tf1", "tf2"):
        if setting.pythons[which] is None:
            continue
        with noting(setting, record, "loss_ratio", "loss_ratio_2d_directions"), started(setting, record, which) as worker:
            for title, overrides, number in scenes:
                contestants, found = {}, {}
                for form in ("reference", "full_resolution", "low_resolution"):
                    options = setting.options(batch, overrides, form=form, seed=1)
                    found[form] = worker.ask("make", name=form, case="loss", options=options)
                    contestants[form] = Contestant(worker, form, warm_up=2)
                _require_agreement(title, found)
                tell = _prefixed(setting, "{}, {}".format(title, LABELS[which]))
                seconds = pairs.rounds(contestants, setting.rounds(5), turn_seconds=setting.turn(1.0), tell=tell)
                for form, values in seconds.items():
                    record.timing("loss, {}, {}, {}".format(title, form, LABELS[which]), values)
                    worker.ask("drop", name=form)
                what = "{}, {}, {{}} form over ours".format(title, LABELS[which])
                record.ratio(what.format("our plain"), seconds["full_resolution"], seconds["low_resolution"])
                ratio = record.ratio(what.format("reference"), seconds["reference"], seconds["low_resolution"])
                worst[number] = min(ratio, worst.get(number, ratio))
    for number in ("loss_ratio", "loss_ratio_2d_directions"):
        if number not in record.numbers:
            record.give(number, worst.get(number), missing("tf1"))


def input_pipeline(setting, record):
    """(b) Both pipelines as fast as they go, without a network behind them; the reference's on each TensorFlow, ours on the same interpreter."""
    batch, _ = setting.batches()
    variants = (
        ("exact crop", setting.options(batch, ["compat.crop=exact"])),
        ("legacy crop", setting.options(batch)),
        ("exact crop, augmented (coco_body)", setting.options(batch, preset="coco_body")),
    )
    rates, cores = {}, results.cores()
    for which in ("tf1", "tf2"):
        if setting.pythons[which] is None:
            continue
        names = ("input_ratio", "input_samples_per_s_per_core") if which == "tf1" else ()
        with contextlib.ExitStack() as stack:
            stack.enter_context(noting(setting, record, *names))
            # The reference works on 64 samples at a time and keeps 64 more: those are used up before the clock runs, and a turn is a whole load.
            load = max(1, 64 // batch) if setting.size >= 368 else 2
            contestants = {"reference": Contestant(stack.enter_context(started(setting, record, which)), "reference", 2 * load, load)}
            contestants["reference"].child.ask("make", name="reference", case="reference_input", options=setting.options(batch))
            for title, options in variants:
                contestants[title] = Contestant(stack.enter_context(started(setting, record, which)), "ours", load)
                record.facts.update(contestants[title].child.ask("make", name="ours", case="our_input", options=options))
            seconds = pairs.rounds(contestants, setting.rounds(4), turn_seconds=setting.turn(2.0), tell=_prefixed(setting, LABELS[which]))
            for title, values in seconds.items():
                record.timing("input, {}, {}".format(title, LABELS[which]), [batch / value for value in values], "samples/s")
            for title, _ in variants:
                ratio = record.ratio("{}, {}: ours over the reference, samples/s".format(title, LABELS[which]), seconds["reference"], seconds[title])
                rates.setdefault(title, (ratio, batch / pairs.summary(seconds[title])["median"] / cores))
    ratio, rate = rates.get("exact crop", (None, None))
    for number, value in (("input_ratio", ratio), ("input_samples_per_s_per_core", rate)):
        if number not in record.numbers:
            record.give(number, value, missing("tf1"))
    for name, title in (("legacy", "legacy crop"), ("augmented", "exact crop, augmented (coco_body)")):
        record.give("input_samples_per_s_per_core_" + name, rates.get(title, (None, None))[1], missing("tf1"))
        record.give("input_ratio_" + name, rates.get(title, (None, None))[0], missing("tf1"))


def step(setting, record):
    """(c) A step of the reference on TensorFlow 1.15 against ours on 1.15 and on 2.x, each in its own process."""
    small, large = setting.batches()
    names = {
        (small, "tf1"): "step_ratio_tf1",
        (small, "tf2"): "step_ratio_tf2_vs_tf1_reference",
        (large, "tf1"): "step_ratio_tf1_batch4",
        (large, "tf2"): "step_ratio_tf2_vs_tf1_reference_batch4",
    }
    if small == large:
        names = {(small, "tf1"): "step_ratio_tf1", (small, "tf2"): "step_ratio_tf2_vs_tf1_reference"}
    for batch in sorted({small, large}):
        wanted = {which: name for (size, which), name in names.items() if size == batch}
        there = [which for which in wanted if setting.pythons[which]]
        if setting.pythons["tf1"] is None:
            there = []
        for which, name in wanted.items():
            if which not in there:
                record.give(name, None, missing(which if setting.pythons["tf1"] else "tf1"))
        if not there:
            continue
        with contextlib.ExitStack() as stack:
            stack.enter_context(noting(setting, record, *(wanted[which] for which in there)))
            contestants = {}
            for label, which, case in [("reference", "tf1", "reference_step")] + [(which, which, "our_step") for which in there]:
                setting.tell("batch {}: building {}".format(batch, case))
                contestants[label] = Contestant(stack.enter_context(started(setting, record, which)), case)
                contestants[label].child.ask("make", name=case, case=case, options=setting.options(batch))
            count = setting.rounds(5 if batch == small else 3)
            seconds = pairs.rounds(contestants, count, turn_seconds=setting.turn(3.0), settle=True, tell=_prefixed(setting, "batch {}".format(batch)))
            for label, (worker, case, _, _) in contestants.items():
                setting.note_peak(batch, "tf1" if label == "reference" else label, case, worker)
            for label, values in seconds.items():
                title = "reference, TF 1.15" if label == "reference" else "ours, {}".format(LABELS[label])
                record.timing("step, batch {}, {}".format(batch, title), values)
            for which in there:
                what = "batch {}: reference on TF 1.15 over ours on {}".format(batch, LABELS[which])
                record.give(wanted[which], record.ratio(what, seconds["reference"], seconds[which]))


def beside_network(setting, record):
    """(d) Ours with input, loss and summaries against the bare network, in one process."""
    small, large = setting.batches()
    newest = "tf2" if setting.pythons["tf2"] else "tf1"
    wanted = [("tf1", small, "ascend_perf"), ("tf2", small, "ascend_perf"), (newest, small, "coco_body"), (newest, large, "ascend_perf")]
    fractions = {"ascend_perf": [], "coco_body": []}
    names = {"ascend_perf": "non_network_fraction", "coco_body": "non_network_fraction_coco_body"}
    for which, batch, preset in dict.fromkeys(wanted):
        if setting.pythons[which] is None:
            continue
        with noting(setting, record, names[preset]), started(setting, record, which) as worker:
            for case in ("our_step", "our_network"):
                worker.ask("make", name=case, case=case, options=setting.options(batch, preset=preset))
            title = "{}, batch {}, {}".format(preset, batch, LABELS[which])
            contestants = {"step": Contestant(worker, "our_step"), "network": Contestant(worker, "our_network")}
            seconds = pairs.rounds(
                contestants, setting.rounds(5 if batch == small else 3), turn_seconds=setting.turn(3.0), settle=True, tell=_prefixed(setting, title)
            )
            for label, values in seconds.items():
                record.timing("{}, {}".format(label, title), values)
            found = pairs.summary([1 - network / whole for whole, network in zip(seconds["step"], seconds["network"])])
            record.ratios.append(dict(found, what="{}: 1 - network / step".format(title)))
            fractions[preset].append(found["median"])
    for preset, name in names.items():
        if name not in record.numbers:
            record.give(name, max(fractions[preset]) if fractions[preset] else None, missing("tf1"))


def memory(setting, record):
    """(e) The resident set's high-water mark of a process that has built a training, filled its buffers and made steps.

    Those of (c) are such processes; what it has not measured, is here.
    """
    small, large = setting.batches()
    names = {large: "peak_memory_ratio_batch4"}
    names[small] = "peak_memory_ratio"
    for batch, name in sorted(names.items()):
        for which, case in (("tf1", "reference_step"), ("tf1", "our_step"), ("tf2", "our_step")):
            key, title = (batch, which, case), "memory, batch {}, {}, {}".format(batch, {"our_step": "ours"}.get(case, "reference"), LABELS[which])
            if setting.pythons[which] and key not in setting.peaks:
                setting.tell(title)
                with noting(setting, record, *([name] if which == "tf1" else [])):
                    setting.peaks[key] = _peak_memory(setting, record, which, case, setting.options(batch))
            if key in setting.peaks:
                gigabytes, record.versions[which] = setting.peaks[key]
                record.timing(title, [gigabytes], "GB")
        both = [setting.peaks.get((batch, "tf1", case), (None,))[0] for case in ("reference_step", "our_step")]
        if None not in both:
            what = "peak memory, batch {}: reference over ours, TF 1.15".format(batch)
            record.give(name, record.ratio(what, [both[0]], [both[1]]))
        elif name not in record.numbers:
            record.give(name, None, missing("tf1"))
    if small != large:
        _memory_recomputed(setting, record)


def _memory_recomputed(setting, record):
    """What an image more in the batch costs, with and without train.recompute=stages: what of the memory grows with the batch."""
    (small, large), name = setting.batches(), "memory_per_image_ratio_recompute"
    which = "tf2" if setting.pythons["tf2"] else "tf1"
    peaks = {}
    with noting(setting, record, name):
        for batch in (small, large):
            setting.tell("memory, batch {}, recomputed, {}".format(batch, LABELS[which]))
            options = setting.options(batch, ["train.recompute=stages"])
            peaks[batch], _ = _peak_memory(setting, record, which, "our_step", options)
            record.timing("memory, batch {}, ours with train.recompute=stages, {}".format(batch, LABELS[which]), [peaks[batch]], "GB")
        kept = setting.peaks[large, which, "our_step"][0] - setting.peaks[small, which, "our_step"][0]
        what = "memory of an image more in the batch: kept over recomputed, {}".format(LABELS[which])
        record.give(name, record.ratio(what, [kept / (large - small)], [(peaks[large] - peaks[small]) / (large - small)]))


def _peak_memory(setting, record, which, case, options):
    """Return (GB, versions) of a new process after two steps."""
    with started(setting, record, which) as worker:
        worker.ask("make", name=case, case=case, options=options)
        worker.ask("run", name=case, count=1)
        worker.ask("settle")
        worker.ask("run", name=case, count=1)
        return worker.ask("memory")["peak_bytes"] / 1e9, worker.versions


def peak(setting, record):
    """(f) FLOP of a step over its time, against the best matrix product of the same process between the steps."""
    if setting.pythons["tf2"] is None:
        record.give("fraction_of_peak", None, missing("tf2"))
        return
    _, batch = setting.batches()
    with noting(setting, record, "fraction_of_peak"), started(setting, record, "tf2") as worker:
        flop = {"step": batch * worker.ask("make", name="step", case="our_step", options=setting.options(batch))["flop_per_image"]}
        for shape in _SHAPES:
            shape = shape if setting.size >= 368 else [side // 16 for side in shape]
            name = "{} x {} x {}".format(*shape)
            flop[name] = worker.ask("make", name=name, case="matrix_product", options=setting.options(1, shape=list(shape)))["flop"]
        contestants = {name: Contestant(worker, name) for name in flop}
        seconds = pairs.rounds(
            contestants, setting.rounds(5), turn_seconds=setting.turn(0.5), settle=True, tell=_prefixed(setting, "batch {}".format(batch))
        )
        rates = {name: [flop[name] / value / 1e9 for value in values] for name, values in seconds.items()}
        for name, values in rates.items():
            record.timing(
                "step, batch {}, {:.1f} GFLOP an image".format(batch, flop["step"] / batch / 1e9) if name == "step" else name, values, "GFLOP/s"
            )
        best = [max(values[i] for name, values in rates.items() if name != "step") for i in range(len(rates["step"]))]
        found = dict(pairs.summary([a / b for a, b in zip(rates["step"], best)]), what="step over the best matrix product of its round")
        record.ratios.append(found)
        record.give("fraction_of_peak", found["median"])


PARTS = {"a": loss, "b": input_pipeline, "c": step, "d": beside_network, "e": memory, "f": peak}


def _prefixed(setting, prefix):
    return lambda text: setting.tell("{}: {}".format(prefix, text))


def _require_agreement(title, found):
    for figure, most in (("loss", 1e-4), ("largest_gradient", 1e-3)):
        values = {form: facts[figure] for form, facts in found.items()}
        if not max(values.values()) - min(values.values()) <= most * max(values.values()):  # NaN is no agreement
            raise Disagreement("{}: the forms of the loss disagree ({}: {}), so their times cannot be compared".format(title, figure, values))
