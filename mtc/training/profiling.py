"""Where a step's time goes: traces of single steps and their sum, `train.profile=100:110`.

TensorFlow itself writes down when each operation ran (RunOptions.FULL_TRACE): the same operations in the same order, so numbers do not change. What
it wrote stays in memory until the last of the steps, so that no step is slowed by files. At each moment in which operations run, the time is theirs
in equal shares; what is left of a step is the wait for its batch, and the rest, in which nothing ran (TensorFlow's own work, copies, Python).

On an NPU the device's own profiler takes the place of this: `npu_profiling_options`.
"""

import collections
import json
import logging
import os
import re
from typing import NamedTuple

import tensorflow.compat.v1 as tf
from tensorflow.python.client.timeline import Timeline

from mtc import files, step_ranges
from mtc.training import observed

log = logging.getLogger("mtc.training")

FOLDER, SUMMARY = "profile", "summary.json"
WAIT = "input wait"
PARTS = (WAIT, observed.FORWARD, observed.LOSS, observed.GRADIENT, observed.RANKS, observed.OPTIMISER, observed.REST)
"""Of a step, in the order in which they are shown; sums over ranks only where there are several."""

_OPERATIONS, _TYPES, _SHOWN = 20, 20, 5
_LABEL = re.compile(r"= (\w+)\(")
_MADE_BY_OPTIMISER = re.compile(r"-\d+-[A-Za-z]+-LayoutOptimizer$")


class Ran(NamedTuple):
    """An operation that ran."""

    name: str
    kind: str
    start: int
    """Microseconds."""
    end: int


class Profile:
    """Traces the steps of a range. Use as a context manager: what was traced is written when the last of them is made, or at the end."""

    def __init__(self, session, training, run_dir, steps, made, last):
        """steps: range of the steps to trace; made: the last step before this start; last: the run's last one."""
        self._session, self._training, self._steps = session, training, steps
        self._folder = os.path.join(run_dir, FOLDER)
        self._metadata, self._traced = None, []
        inside = range(max(steps.start, made + 1), min(steps.stop, last + 1))
        text = "train.profile=%d:%d: this start makes the steps %d to %d, so %s"
        if not inside:
            log.warning(text, steps.start, steps.stop, made + 1, last, "none is traced")
        elif inside != steps:
            log.warning(text, steps.start, steps.stop, made + 1, last, "only {} to {} are traced".format(inside[0], inside[-1]))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._write()

    def wants(self, number):
        """Whether a step is to be traced."""
        return number in self._steps

    def run(self, operations, feed):
        """Run the operations of a step, traced."""
        self._metadata = tf.RunMetadata()
        self._session.run(operations, feed, tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), self._metadata)

    def after(self, number, seconds, waited):
        """Take the time of a step that was made."""
        if self._metadata is not None:
            self._traced.append((number, seconds, waited, self._metadata.step_stats))
            self._metadata = None
        if number + 1 == self._steps.stop:
            self._write()

    def _write(self):
        if not self._traced:
            return
        traced, self._traced = self._traced, []
        try:
            for number, _, _, stats in traced:
                trace = Timeline(stats).generate_chrome_trace_format(show_dataflow=False)
                files.write_bytes(os.path.join(self._folder, "step-{:08d}".format(number), "trace.json"), trace.encode("utf-8"))
            summary = summarise(traced, self._training)
            files.write_bytes(os.path.join(self._folder, "summary.md"), markdown(summary).encode("utf-8"))
            files.write_json(os.path.join(self._folder, SUMMARY), summary)
        except OSError as error:  # a full disk ends no training
            log.warning("%s cannot be written: %s", self._folder, error.strerror or error)
            return
        for line in table(summary):
            log.info("%s", line)
        log.info("traces for chrome://tracing or ui.perfetto.dev, and the whole table: %s", self._folder)


def npu_profiling_options(directory):
    """Return {key: value} of the options of an NPU's session that have CANN profile all of it, into a directory that exists."""
    options = dict.fromkeys(("training_trace", "task_trace", "hccl", "aicpu"), "on")
    # Empty points: CANN finds by itself where a step's forward pass begins and its backward pass ends.
    options.update(output=os.path.abspath(directory), fp_point="", bp_point="", aic_metrics="PipeUtilization")
    return {"profiling_mode": True, "profiling_options": json.dumps(options, sort_keys=True)}


def summarise(traced, training):
    """Return the summary of [(number, seconds, seconds of waiting, StepStats)] as plain data: means of a step, in ms and as shares of it."""
    known = training.observed.parts(training.graph)
    layers = {tensor.op.name: layer for layer, outputs in training.observed.activations.items() for tensor in outputs}
    parts, types, operations, calls = (collections.Counter() for _ in range(4))
    for _, seconds, waited, stats in traced:
        parts[WAIT] += 1000 * waited
        free = 1000 * (seconds - waited)
        for ran, milliseconds in shares(operations_of(stats)):
            name, part = _found(ran.name, known)
            parts[part] += milliseconds
            types[ran.kind] += milliseconds
            operations[name, ran.kind, part] += milliseconds
            calls[ran.kind] += 1
            free -= milliseconds
        parts[observed.REST] += max(0.0, free)
    count = len(traced)
    whole = sum(1000 * seconds for _, seconds, _, _ in traced)

    def figures(milliseconds):
        return {"ms": round(milliseconds / count, 4), "share": round(milliseconds / whole, 5)}

    return {
        "v": 1,
        "steps": [traced[0][0], traced[-1][0]],
        "count": count,
        "ms": round(whole / count, 4),
        "parts": [dict(figures(parts[part]), part=part) for part in PARTS if part != observed.RANKS or parts[part]],
        "types": [dict(figures(ms), type=kind, calls=round(calls[kind] / count, 1)) for kind, ms in types.most_common(_TYPES)],
        "operations": [
            dict(figures(ms), name=name, layer=layers.get(name, ""), type=kind, part=part)
            for (name, kind, part), ms in operations.most_common(_OPERATIONS)
        ],
    }


def operations_of(stats):
    """Return [`Ran`] of a StepStats. Of a GPU its streams count, in which kernels ran, not the time in which they were sent there."""
    streams = any("/stream:all" in device.device for device in stats.dev_stats)
    found = []
    for device in stats.dev_stats:
        if streams and "GPU:" in device.device and "/stream:all" not in device.device:
            continue
        for node in device.node_stats:
            name, label = node.node_name, node.timeline_label
            if "/stream:all" in device.device:  # "[...]@@name:Type#id=..." or "name:Type"
                name, _, kind = (label.partition("@@")[2].partition("#")[0] if "@@" in label else name).partition(":")
            else:
                kind = _LABEL.search(label).group(1) if _LABEL.search(label) else ""
            start = node.all_start_micros + node.op_start_rel_micros
            found.append(Ran(name, kind or "unknown", start, max(start, node.all_start_micros + node.op_end_rel_micros)))
    return found


def shares(ran):
    """Return [(`Ran`, its milliseconds)]: a moment in which n operations run counts 1/n for each, so that their sum is the time with any."""
    events = sorted([(one.start, 1, i) for i, one in enumerate(ran)] + [(one.end, 0, i) for i, one in enumerate(ran)])
    # What one operation gets between two events is the same for all that run: its own sum is the difference of two readings of this clock.
    clock, before, running, begun, made = 0.0, 0, 0, {}, [0.0] * len(ran)
    opened = set()
    for moment, starts, i in events:
        if running:
            clock += (moment - before) / running
        before = moment
        if starts:
            if ran[i].end > ran[i].start:
                begun[i] = clock
                opened.add(i)
                running += 1
        elif i in opened:
            made[i] = (clock - begun[i]) / 1000.0
            running -= 1
    return list(zip(ran, made))


def table(summary):
    """Return the lines that the log has of a summary."""
    first, last = summary["steps"]
    yield "profile of steps {} to {}: {:.1f} ms a step".format(first, last, summary["ms"])
    for entry in summary["parts"]:
        yield "  {:<16} {:>10.1f} ms {:>6.1f} %".format(entry["part"], entry["ms"], 100 * entry["share"])
    kinds = ["{} {:.0f} %".format(entry["type"], 100 * entry["share"]) for entry in summary["types"][:_SHOWN]]
    yield "  most by {}".format(", ".join(kinds))


def markdown(summary):
    """Return the summary as a page."""
    first, last = summary["steps"]
    lines = ["# Where a step's time goes", "", "Steps {} to {}, {:.1f} ms a step on average.".format(first, last, summary["ms"])]
    lines += ["", "| part | ms | % |", "|---|---:|---:|"]
    lines += ["| {} | {:.2f} | {:.1f} |".format(entry["part"], entry["ms"], 100 * entry["share"]) for entry in summary["parts"]]
    lines += ["", "## By type of operation", "", "| type | calls | ms | % |", "|---|---:|---:|---:|"]
    lines += ["| {} | {:g} | {:.2f} | {:.1f} |".format(e["type"], e["calls"], e["ms"], 100 * e["share"]) for e in summary["types"]]
    lines += ["", "## The longest operations", "", "| operation | type | part | ms | % |", "|---|---|---|---:|---:|"]
    for e in summary["operations"]:
        name = "`{}`{}".format(e["name"], ", the output of " + e["layer"] if e["layer"] else "")
        lines.append("| {} | {} | {} | {:.2f} | {:.1f} |".format(name, e["type"], e["part"], e["ms"], 100 * e["share"]))
    return "\n".join(lines) + "\n"


def chosen(config):
    """Return the range of steps that train.profile names, or None."""
    return step_ranges.span(config.train.profile, "train.profile")


def _found(name, known):
    """Return (name, part) of an operation that ran; TensorFlow's graph optimiser makes some of its own, most named after ours."""
    if name in known:
        return name, known[name]
    short = _MADE_BY_OPTIMISER.sub("", name)
    while "/" in short and short not in known:
        short = short.partition("/")[2]
    return name, known.get(short, observed.REST)
