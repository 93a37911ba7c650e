"""`python -m benchmarks.stall`: what a checkpoint costs the step loop, at full size: one training, its own journal.

A save holds up the loop for the copy of all variables to the host and a little more; the file is written while the next steps run, which it may slow
down on a CPU. Prints both, as shares of a step's time in the same run, and writes benchmarks/out/stall-tf1.json or -tf2.json. Exits with 1 where the
loop was held up, beyond the copy, for more than 5 % of a step. docs/reliability.md has figures.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

from benchmarks.child import ROOT

MOST = 0.05
DATA = ("synthetic.train_images=8", "synthetic.val_images=1", "synthetic.samples_3d=0", "synthetic.hands_3d=0")


def main(argv=None):
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stall", description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--every", type=int, default=4, help="steps between two checkpoints; default: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="over the preset ascend_perf")
    options = parser.parse_args(argv)
    folder = tempfile.mkdtemp(prefix="mtc-stall-")
    try:
        _run(["tasks.fetch", "coco", "--config", "demo"], folder, DATA)
        _run(["tasks.preprocess", "--config", "demo"], folder, DATA)
        rules = ["train.steps={}".format(390000 + options.steps), "train.snapshot_every={}".format(options.every), "snapshot.uri=none"]
        rules += ["checkpoint.keep_last=1", "storage.keep_last=1", "storage.uri=" + os.path.join(folder, "storage")]
        _run(["tasks.train", "--config", "ascend_perf"], folder, rules + options.set)
        figures = measure(os.path.join(folder, "run", "metrics.jsonl"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    out = os.path.join(ROOT, "benchmarks", "out", "stall-tf{}.json".format(figures["tensorflow"].partition(".")[0]))
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with open(out, "w", encoding="utf-8") as f:
        json.dump(figures, f, indent=2, sort_keys=True)
    for key, value in figures.items():
        print("{:32} {}".format(key, value))
    return 0 if figures["stall_beyond_copy_of_a_step"] <= MOST else 1


def measure(journal):
    """Return the figures of a journal: seconds of a step, of the loop's stalls and copies, and how much slower steps are while a file is written."""
    with open(journal, encoding="utf-8") as f:
        records = [json.loads(line) for line in f]
    steps = {record["step"]: record["seconds"] for record in records if record["kind"] == "train"}
    saves = [record for record in records if record["kind"] == "checkpoint"]
    start = next(record for record in records if record["kind"] == "start")
    after = {save["step"] + 1 for save in saves}
    first = min(steps)
    quiet = [seconds for step, seconds in steps.items() if step not in after and step != first]
    busy = [steps[step] for step in after if step in steps]
    step = statistics.median(quiet)
    # the last save is waited for on purpose, and the first one builds the graph that writes
    stalls = [save["stalled"] - save["copied"] for save in saves]
    return {
        "tensorflow": start["versions"]["tensorflow"],
        "checkpoint_mb": round(saves[-1]["bytes"] / 1e6, 1),
        "step_seconds": round(step, 3),
        "copy_seconds": round(statistics.median(save["copied"] for save in saves), 3),
        "write_seconds": round(statistics.median(save["seconds"] for save in saves), 3),
        "stall_beyond_copy_seconds": round(max(stalls), 4),
        "stall_beyond_copy_of_a_step": round(max(stalls) / step, 4),
        "step_while_writing_over_step": round(statistics.median(busy) / step, 3) if busy else None,
        "saves": len(saves),
    }


def _run(words, folder, overrides):
    command = [sys.executable, "-m", *words, "--run-dir", os.path.join(folder, "run" if words[0] == "tasks.train" else "prepare")]
    for override in list(overrides) + ["data.root=" + os.path.join(folder, "data")]:
        command += ["--set", override]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:])


if __name__ == "__main__":
    sys.exit(main())
