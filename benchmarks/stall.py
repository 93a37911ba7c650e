"""`python -m benchmarks.stall`: what a checkpoint costs the step loop, at full size: one training, its own journal.

A save holds up the loop for the copy of all variables to the host and a little more; the file is written while the next steps run, which it may slow
down on a CPU. Prints both, as shares of a step's time in the same run, and writes benchmarks/out/stall-tf1.json or -tf2.json. Exits with 1 where the
loop was held up, beyond the copy, for more than 5 % of a step, or where the SIGTERM that ends the training needs more than 5 s from the end of the
step under way to the checkpoint being whole. docs/reliability.md has figures.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.child import ROOT
from mtc import files

MOST, MOST_OF_A_STOP = 0.05, 5.0
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
        rules = ["train.steps=400000", "train.snapshot_every={}".format(options.every), "snapshot.uri=none"]
        rules += ["checkpoint.keep_last=1", "storage.keep_last=1", "storage.uri=" + os.path.join(folder, "storage")]
        stop = _train_and_stop(_command(["tasks.train", "--config", "ascend_perf"], folder, rules + options.set), folder, 390000 + options.steps)
        figures = dict(measure(os.path.join(folder, "run", "metrics.jsonl"), 390000 + options.steps), **stop)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    out = os.path.join(ROOT, "benchmarks", "out", "stall-tf{}.json".format(figures["tensorflow"].partition(".")[0]))
    files.write_json(out, figures)
    for key, value in figures.items():
        print("{:32} {}".format(key, value))
    return 0 if figures["stall_beyond_copy_of_a_step"] <= MOST and figures["stop_to_saved_seconds"] <= MOST_OF_A_STOP else 1


def measure(journal, last):
    """Return the figures of a journal up to a step: seconds of a step, of the loop's stalls and copies, and how much slower steps are while a file is
    written.
    """
    records = [record for record in _records(journal) if record.get("step", 0) <= last]
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


def _train_and_stop(command, folder, last):
    """Train, send SIGTERM in the midst of the step after `last`, and return how long the stop took from that step's end."""
    journal = os.path.join(folder, "run", "metrics.jsonl")
    manifest = os.path.join(folder, "run", "checkpoints", "step-{:08d}".format(last + 1), "MANIFEST.json")
    with open(os.path.join(folder, "out.txt"), "w+", encoding="utf-8") as out:
        trainer = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        try:
            _wait_for(lambda: _last(journal, "train") >= last, trainer, out)
            made = time.monotonic()
            _wait_for(lambda: _last(journal, "checkpoint") >= last, trainer, out)  # what the stop is not to wait for
            time.sleep(max(0.0, made + 0.5 - time.monotonic()))
            trainer.send_signal(signal.SIGTERM)
            _wait_for(lambda: _last(journal, "train") > last, trainer, out)
            ended = time.monotonic()
            _wait_for(lambda: os.path.exists(manifest), trainer, out)
            saved = time.monotonic()
            if trainer.wait(timeout=120) != 3:
                raise _ending(trainer, out)
        finally:
            trainer.kill()
    return {"stop_to_saved_seconds": round(saved - ended, 3), "stop_to_exit_seconds": round(time.monotonic() - ended, 3)}


def _wait_for(seen, trainer, out):
    """Return once seen() is true; end with what the trainer has printed where it ended before."""
    while not seen():
        if trainer.poll() is not None:
            raise _ending(trainer, out)
        time.sleep(0.02)


def _ending(trainer, out):
    """What to raise for a trainer that has ended otherwise than asked for."""
    out.seek(0)
    return SystemExit("the trainer ended with {}\n{}".format(trainer.returncode, out.read()[-3000:]))


def _last(journal, kind):
    return max((record["step"] for record in _records(journal) if record["kind"] == kind), default=0)


def _records(journal):
    try:
        with open(journal, encoding="utf-8") as f:
            return [json.loads(line) for line in f if line.endswith("\n")]
    except FileNotFoundError:
        return []


def _run(words, folder, overrides):
    done = subprocess.run(_command(words, folder, overrides), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:])


def _command(words, folder, overrides):
    command = [sys.executable, "-m", *words, "--run-dir", os.path.join(folder, "run" if words[0] == "tasks.train" else "prepare")]
    for override in list(overrides) + ["data.root=" + os.path.join(folder, "data")]:
        command += ["--set", override]
    return command


if __name__ == "__main__":
    sys.exit(main())
