"""The tables of docs/scaling.md, made of the raw figures of `benchmarks.scaling`: page and data cannot disagree.

A table stands between `<!-- NAME: made by ... -->` and `<!-- end -->`; what is around it is written by hand. The figures of the page are kept
beside it, in docs/scaling.json.
"""

import functools
import math
import os
import re
import statistics

from benchmarks import scaling_model, scaling_predictions
from benchmarks.child import ROOT
from benchmarks.scaling_model import Case, Layer
from mtc import files
from mtc.errors import UserError

PAGE, FIGURES = os.path.join(ROOT, "docs", "scaling.md"), os.path.join(ROOT, "docs", "scaling.json")
_BLOCK = re.compile(r"(<!-- (\w+): made by [^\n]* -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)
USUAL = 4.0
"""MB of a piece, unless the sweep says otherwise."""


def renew(path):
    """Renew the tables of docs/scaling.md, and the figures beside it, by those of a file.

    Errors: UserError where there are none, or they were measured with --quick.
    """
    document = files.read_json(path)
    if document is None:
        raise UserError("{} does not exist: measure first (make scaling)".format(path))
    if document["settings"]["quick"]:
        raise UserError("{} was measured with --quick, which is not for a page".format(path))
    files.write_json(FIGURES, document)
    with open(PAGE, encoding="utf-8") as f:
        text = f.read()
    files.write_bytes(PAGE, page(text, document).encode("utf-8"))


def page(text, document):
    """Return the page with the tables of a document in place of those it has."""
    made = blocks(document)
    return _BLOCK.sub(lambda found: found.group(1) + made[found.group(2)] + "\n" + found.group(4), text)


def tables(document):
    """Return what a terminal shows after a measurement."""
    made = blocks(document)
    return "\n\n".join(made[name] for name in ("machine", "cables", "measured", "sweep", "fit"))


def blocks(document):
    """Return {name: Markdown} of all tables."""
    full = [Layer(*row) for row in document["networks"]["full"]]
    made = {"machine": _machine(document), "cables": _cables(document), "measured": _measured(document), "sweep": _sweep(document)}
    made["fit"] = _fit(document)
    made["published"] = _published()
    made.update({"predictions": _predictions(full), "limits": _limits(full), "remedies": _remedies(full), "caution": _caution(full)})
    return made


def cases(document):
    """Return the `scaling_model.Case`s of a document: communication alone, and steps."""
    found, machine_cores = [], document["machine"]["cores"]
    for kind in ("communication", "steps"):
        for row in document[kind]:
            link, ranks = document["links"][row["link"]], row["ranks"]
            compute = document["computation"].get(str(ranks), {}).get("seconds", 0.0)
            if kind == "steps" and not compute:
                continue
            found.append(
                Case(
                    ranks=ranks,
                    rate=link["rate"] or math.inf,
                    delay=link["delay"],
                    bucket=row["bucket_mb"] * 1e6,
                    crowd=max(1.0, ranks / machine_cores),
                    seconds=row["seconds"],
                    compute=compute if kind == "steps" else 0.0,
                    link=row["link"],
                )
            )
    return found


def overlap(step, compute, communication):
    """Return which part of the shorter one is hidden behind the longer one: 1 all of it, 0 none; below 0 where they hinder each other."""
    return (compute + communication - step) / min(compute, communication)


def _machine(document):
    facts, settings = document["machine"], document["settings"]
    layers = [Layer(*row) for row in document["networks"]["measured"]]
    work = [layer.flop for layer in layers]
    text = "Measured {}{}: {}, {} cores, load {:g} at the start; TensorFlow {tensorflow} on Python {python}. "
    text = text.format(
        document["date"],
        " with --quick" if settings["quick"] else "",
        facts.get("cpu", facts["system"]),
        facts["cores"],
        facts["load_average"][0],
        **document["versions"],
    )
    text += "The network: {}; {:.1f} MB of gradients, {:.2f} GFLOP an image; {} images a rank, one thread a rank, medians of {} steps."
    return text.format(
        ", ".join(settings["model"]),
        sum(layer.weights + layer.biases for layer in layers) / 1e6,
        (3 * sum(work) - work[0]) / 1e9,
        settings["local_batch"],
        settings["steps"],
    )


def _cables(document):
    rows = []
    for name, link in document["links"].items():
        for ranks, found in sorted(link.get("measured", {}).items(), key=lambda pair: int(pair[0])):
            rows.append([name, ranks, _ms(2 * link["delay"]), _ms(found["round_trip"]), _rate(link["rate"]), _rate(found["rate"]), found["how"]])
    return _table(["network", "ranks", "round trip, asked for", "measured", "rate, asked for", "measured", "made by"], rows)


def _measured(document):
    head = [
        "ranks",
        "network",
        "step (quartiles)",
        "computation alone",
        "communication alone",
        "exposed",
        "overlap",
        "MB sent a step",
        "images/s",
        "of one rank's",
    ]
    rows, batch = [], document["settings"]["local_batch"]
    one = document["computation"].get("1", {}).get("seconds")
    if one:
        rows.append(["1", "", _ms(one), _ms(one), "0", "0", "", "0", "{:.2f}".format(batch / one), "1"])
    sums = {(row["ranks"], row["link"], row["bucket_mb"]): row for row in document["communication"]}
    for row in document["steps"]:
        found = sums.get((row["ranks"], row["link"], row["bucket_mb"]))
        alone = document["computation"].get(str(row["ranks"]), {}).get("seconds")
        if row["bucket_mb"] != USUAL or not found or not alone:
            continue
        images = row["ranks"] * batch / row["seconds"]
        rows.append(
            [
                str(row["ranks"]),
                row["link"],
                "{} ({} to {})".format(_ms(row["seconds"]), *map(_ms, row["quartiles"])),
                _ms(alone),
                _ms(found["seconds"]),
                "{:.0%}".format((row["seconds"] - alone) / row["seconds"]),
                "{:.2f}".format(overlap(row["seconds"], alone, found["seconds"])),
                "{:.1f}".format(found["bytes_sent"] / 1e6),
                "{:.2f}".format(images),
                "{:.2f}".format(images * one / batch) if one else "",
            ]
        )
    return _table(head, rows)


def _sweep(document):
    steps = {(row["ranks"], row["link"], row["bucket_mb"]): row["seconds"] for row in document["steps"]}
    layers = [Layer(*row) for row in document["networks"]["measured"]]
    rows = []
    for row in document["communication"]:
        pieces = scaling_model.timeline(layers, 0.0, functools.partial(scaling_model.cut, bucket=row["bucket_mb"] * 1e6))[0]
        step = steps.get((row["ranks"], row["link"], row["bucket_mb"]))
        size = "one piece" if row["bucket_mb"] >= 1024 else "{:g} MB".format(row["bucket_mb"])
        rows.append([str(row["ranks"]), row["link"], size, str(len(pieces)), _ms(row["seconds"]), _ms(step) if step else ""])
    return _table(["ranks", "network", "`distributed.bucket_mb`", "pieces", "communication alone", "step"], rows)


def _fit(document):
    found, layers = cases(document), [Layer(*row) for row in document["networks"]["measured"]]
    if not found:
        return "Nothing to fit: one rank alone was measured."
    fit = scaling_model.fitted(found, layers)
    text = (
        "Fitted: a hop of a piece costs {:.2f} ms of work and waits for {:.1f} one-way delays; {:.2f} bits on the wire for a bit of a gradient; "
        "{:.2f} ns of a core a byte (gRPC, copies, sums: {:.2f} GB/s at most); {} under way at a time; {:.0%} of the ideal overlap is reached."
    ).format(
        1e3 * fit.message,
        fit.trips,
        fit.wire,
        1e9 * fit.byte,
        1e-9 / fit.byte,
        "all pieces are" if math.isinf(fit.in_flight) else "1 piece is" if fit.in_flight == 1 else "{:g} pieces are".format(fit.in_flight),
        fit.overlap,
    )
    rows = []
    for kind, chosen in (("communication alone", [c for c in found if not c.compute]), ("steps", [c for c in found if c.compute])):
        rows.append([kind, "the same cases", "", str(len(chosen))] + _errors(scaling_model.errors(chosen, layers, fit)))
    for what, group in (("network", lambda case: case.link), ("number of ranks", lambda case: case.ranks)):
        if len({group(case) for case in found}) < 2:
            continue
        for value, apart in scaling_model.held_out(found, layers, group).items():
            rows.append(["all", "held out, by " + what, str(value), str(len(apart))] + _errors(apart))
    return text + "\n\n" + _table(["cases", "fitted to", "which", "number", "median error", "largest error"], rows)


def _errors(errors):
    sizes = [abs(error) for error in errors]
    return ["{:.0%}".format(statistics.median(sizes)), "{:.0%}".format(max(sizes))] if sizes else ["", ""]


def _published():
    rows = [[system.name, *source] for system in scaling_predictions.SYSTEMS for source in system.sources]
    assumed = scaling_predictions.ASSUMED
    for what, value in (
        ("MFU of the step, at any batch", "{:.0%}".format(assumed.mfu)),
        ("part of a link's rate that sums reach", "{:.0%}".format(assumed.link)),
        ("part of the ideal overlap that is reached", "{:.0%}".format(assumed.overlap)),
        ("spread of a device's step; all wait for the slowest", "{:.0%} standard deviation".format(assumed.spread)),
    ):
        rows.append(["both", what, value, "assumed"])
    for system in scaling_predictions.SYSTEMS:
        hops = "{:g} µs in a server, {:g} µs between".format(system.hop_inside * 1e6, system.hop_between * 1e6)
        rows += [[system.name, "a hop", hops, "assumed"], [system.name, "pieces", system.cut, "this project"]]
    return _table(["device", "figure", "value", "source"], rows)


def _predictions(layers):
    rows = []
    for system in scaling_predictions.SYSTEMS:
        for batch in scaling_predictions.BATCHES:
            for devices in (1,) + scaling_predictions.DEVICES:
                found = scaling_predictions.predict(layers, system, devices, batch)
                times = [_ms(found.step), _ms(found.compute), _ms(found.communication)]
                images = "{:,.0f}".format(found.images)
                rows.append([system.name, str(batch), str(devices), str(batch * devices)] + times + [images, "{:.0%}".format(found.efficiency)])
    head = ["device", "batch a device", "devices", "whole batch", "step", "computation", "communication", "images/s", "efficiency"]
    return _table(head, rows)


def _limits(layers):
    rows = []
    for system in scaling_predictions.SYSTEMS:
        for batch in scaling_predictions.BATCHES:
            found = scaling_predictions.bound_from(layers, system, batch)
            rows.append([system.name, "batch {} a device: communication takes longer than computation".format(batch), _from(found)])
        for devices in scaling_predictions.DEVICES:
            found = scaling_predictions.batch_for(layers, system, devices, 0.8)
            rows.append([system.name, "batch a device for 80 % efficiency on {} devices".format(devices), str(found or "none up to 1024")])
        cores = "{:.1f} cores a server".format(scaling_predictions.cores(layers, system))
        rows.append([system.name, "input pipeline at {} samples/s a core".format(scaling_predictions.SAMPLES_A_CORE), cores])
    return _table(["device", "limit", "where"], rows)


def _from(devices):
    return "from {} devices on".format(devices) if devices else "nowhere up to 4096 devices"


def _remedies(layers):
    """1024 devices at batch 8: what each change brings."""
    halving = functools.partial(scaling_predictions.hierarchical, between="halving")
    half = scaling_predictions.ASSUMED._replace(bytes_an_element=2)

    def bucket(megabytes):
        return functools.partial(scaling_model.cut, bucket=megabytes * 1e6)

    three = functools.partial(scaling_model.cut_by_shares, shares=(45, 45, 10))
    changes = [
        ("as it is", {}),
        ("one flat ring", {"algorithm": scaling_predictions.flat}),
        ("between servers: halving and doubling, not a ring", {"algorithm": halving}),
        ("pieces of 4 MB", {"cutting": bucket(4)}),
        ("pieces of 16 MB", {"cutting": bucket(16)}),
        ("pieces of 64 MB", {"cutting": bucket(64)}),
        ("three pieces of 45, 45 and 10 %", {"cutting": three}),
        ("gradients of 2 bytes", {"assumed": half}),
        ("64 MB, halving and doubling, 2 bytes", {"cutting": bucket(64), "algorithm": halving, "assumed": half}),
        ("batch 32 a device in place of 8", {"batch": 32}),
    ]
    rows = []
    for what, options in changes:
        row = [what]
        for system in scaling_predictions.SYSTEMS:
            found = scaling_predictions.predict(layers, system, 1024, **dict({"batch": 8}, **options))
            row += [_ms(found.step), _ms(found.communication), "{:.0%}".format(found.efficiency)]
        rows.append(row)
    head = [what.format(system.name) for system in scaling_predictions.SYSTEMS for what in ("{}: step", "communication", "efficiency")]
    return _table(["1024 devices, batch 8 a device"] + head, rows)


def _caution(layers):
    """1024 devices at batch 8: what each assumption changes."""
    assumed, rows = scaling_predictions.ASSUMED, []
    changes = [("as assumed", assumed)]
    changes += [("MFU {:.0%}".format(value), assumed._replace(mfu=value)) for value in (0.15, 0.45)]
    changes += [("links at {:.0%}".format(value), assumed._replace(link=value)) for value in (0.35, 0.9)]
    changes += [("overlap {:.0%}".format(value), assumed._replace(overlap=value)) for value in (0.0, 1.0)]
    changes += [("spread {:.0%}".format(value), assumed._replace(spread=value)) for value in (0.0, 0.05)]
    for what, other in changes:
        row = [what]
        for system in scaling_predictions.SYSTEMS:
            found = scaling_predictions.predict(layers, system, 1024, 8, assumed=other)
            row += [_ms(found.step), "{:,.0f}".format(found.images), "{:.0%}".format(found.efficiency)]
        rows.append(row)
    for factor, what in ((0.5, "hops in half the time"), (2, "hops in twice the time")):
        row = [what]
        for system in scaling_predictions.SYSTEMS:
            other = system._replace(hop_inside=system.hop_inside * factor, hop_between=system.hop_between * factor)
            found = scaling_predictions.predict(layers, other, 1024, 8)
            row += [_ms(found.step), "{:,.0f}".format(found.images), "{:.0%}".format(found.efficiency)]
        rows.append(row)
    head = [what.format(system.name) for system in scaling_predictions.SYSTEMS for what in ("{}: step", "images/s", "efficiency")]
    return _table(["1024 devices, batch 8 a device"] + head, rows)


def _table(head, rows):
    lines = ["| {} |".format(" | ".join(head)), "|" + "---|" * len(head)]
    return "\n".join(lines + ["| {} |".format(" | ".join(row)) for row in rows])


def _ms(seconds):
    milliseconds = 1e3 * seconds
    return "{:.0f} ms".format(milliseconds) if milliseconds >= 100 else "{:.3g} ms".format(milliseconds)


def _rate(rate):
    if not rate:
        return "no limit"
    return "{:.3g} Gbit/s".format(rate / 1e9) if rate >= 1e9 else "{:.0f} Mbit/s".format(rate / 1e6)
