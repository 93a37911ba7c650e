"""`python -m benchmarks.crash --cycles 1000 --seed 1`: kills trainers in every way, and checks after each that nothing is lost.

Prints a table of what was done and what held, writes benchmarks/out/crash.json, and exits with 1 unless all of it holds: no unreadable run, no
finished checkpoint lost, final weights bit-identical to those of a run that nobody disturbed, the storage's set complete, never two writers. A
broken promise is reported with the worker's seed, which replays its choices.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:  # `python benchmarks/crash.py` works too
    sys.path.insert(0, ROOT)

SMALL_DISK = "24m"
DATA = ("synthetic.train_images=8", "synthetic.val_images=3", "synthetic.samples_3d=6", "synthetic.hands_3d=0", "synthetic.width=160")
PROMISES = (
    ("no unreadable run", "after each cycle every checkpoint directory was verified, byte by byte, and the journal was read"),
    ("no finished checkpoint lost", "none that was seen whole was missing later, but for retention, a lost machine or a flipped bit"),
    ("final weights bit-identical", "each run's last bundle has the bytes of the undisturbed run's"),
    ("sample ids in order", "each step's samples and loss, repeated ones included, are those of the undisturbed run"),
    ("remote set complete", "every remote checkpoint verified after each cycle; latest.json never turned back; nothing waits at the end"),
    ("never two writers", "locks never overlapped, fences grew, second trainers were refused by name, replaced ones left"),
    ("every flipped bit noticed", "and the checkpoint before used instead"),
)


def main(argv=None):
    """Return the exit code: 0 where all holds, 1 where something does not."""
    options = _arguments(argv)
    started = time.time()
    folder = tempfile.mkdtemp(prefix="mtc-crash-", dir=options.folder)
    try:
        root = _data(folder)
        shares = [options.cycles // options.jobs + (i < options.cycles % options.jobs) for i in range(options.jobs)]
        flips = [options.flips // options.jobs + (i < options.flips % options.jobs) for i in range(options.jobs)]
        work = [(os.path.join(folder, str(i)), root, options.seed * 1000 + i, shares[i], flips[i]) for i in range(options.jobs) if shares[i]]
        context = multiprocessing.get_context("spawn")
        with context.Pool(len(work)) as pool:
            results = pool.map(_work, work, chunksize=1)
        document = _summary(results, options, time.time() - started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.dirname(os.path.abspath(options.out)), exist_ok=True)
    with open(options.out, "w", encoding="utf-8") as f:
        json.dump(document, f, indent=2, sort_keys=True)
    print(_table(document))
    return 0 if document["holds"] else 1


def _arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__.split("\n\n")[0])
    parser.add_argument("--cycles", type=int, default=1000, help="kills and other disturbances in all; default: %(default)s")
    parser.add_argument("--flips", type=int, default=None, help="bits to flip in checkpoints; default: as many as cycles, at least 200")
    parser.add_argument("--seed", type=int, default=1, help="of all choices; default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="workers side by side; default: one a core")
    parser.add_argument("--folder", default=None, help="where the runs are made; default: the system's temporary folder")
    parser.add_argument("--out", default=os.path.join(ROOT, "benchmarks", "out", "crash.json"), help="default: %(default)s")
    options = parser.parse_args(argv)
    options.flips = max(200, options.cycles) if options.flips is None else options.flips
    if options.cycles < 1 or options.jobs < 1 or options.flips < 0:
        parser.error("--cycles and --jobs must be at least 1, --flips 0")
    return options


def _data(folder):
    """Make the data set that all runs train on; returns its root."""
    root = os.path.join(folder, "data")
    for words in (["tasks.fetch", "coco"], ["tasks.preprocess"]):
        command = [sys.executable, "-m", *words, "--config", "demo", "--run-dir", os.path.join(folder, "prepare"), "--set", "data.root=" + root]
        for override in DATA:
            command += ["--set", override]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise SystemExit("the data set cannot be made:\n" + done.stdout)
    return root


def _work(work):
    """Do a worker's share, in a process of its own. Returns its results, or what broke."""
    folder, root, seed, cycles, flip_count = work
    os.makedirs(folder)
    with _small_disk(os.path.join(folder, "disk")) as (disk, small):
        try:
            from benchmarks.crashing import flips, lives

            worker = lives.Worker(folder, disk, small, root, seed)
            try:
                exhaustive = flips.exhaustively(folder)
                results = worker.work(cycles, flip_count, lambda made: print("seed {}: {} of {} cycles".format(seed, made, cycles), flush=True))
            finally:
                worker.close()
            return dict(results, seed=seed, exhaustive=exhaustive, small_disk=small, broken=None)
        except Exception as error:
            return {"seed": seed, "broken": "{}: {}".format(type(error).__name__, error), "traceback": traceback.format_exc()}


@contextlib.contextmanager
def _small_disk(folder):
    """Yield (folder, whether it is a small file system of its own, which takes the right to mount)."""
    os.makedirs(folder)
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=" + SMALL_DISK, "mtc-crash", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
    )
    try:
        yield folder, bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder], check=False)


def _summary(results, options, seconds):
    broken = [result for result in results if result["broken"]]
    done = [result for result in results if not result["broken"]]
    document = {
        "cycles": sum(result["cycles"] for result in done),
        "asked": options.cycles,
        "seed": options.seed,
        "seconds": round(seconds, 1),
        "python": sys.version.split()[0],
        "broken": [{key: result[key] for key in ("seed", "broken", "traceback")} for result in broken],
        "small_disk": all(result["small_disk"] for result in done),
    }
    for key in ("lives", "flips", "checks", "exhaustive", "full", "replaced"):
        document[key] = sum(result[key] for result in done)
    for key in ("kinds", "points"):
        document[key] = dict(sum((collections.Counter(result[key]) for result in done), collections.Counter()))
    document["holds"] = not broken and document["cycles"] == options.cycles and document["flips"] == options.flips
    return document


def _table(document):
    rows = [("cycles", "{} in {} runs, {:.0f} s".format(document["cycles"], document["lives"], document["seconds"]))]
    rows += [("  " + kind, str(count)) for kind, count in sorted(document["kinds"].items(), key=lambda pair: -pair[1])]
    rows.append(("replaced trainers that woke up", "{}, all left without a write".format(document["replaced"])))
    rows.append(("full disks that stopped a trainer", str(document["full"])))
    rows.append(("killed at named points", "{} times at {} points".format(sum(document["points"].values()), len(document["points"]))))
    rows += [("  " + name, str(count)) for name, count in sorted(document["points"].items())]
    if not document["small_disk"]:
        rows.append(("  disk full", "not tried: no right to mount a small file system"))
    rows.append(("bits flipped", "{} at random, {} changes of every byte of a small checkpoint".format(document["flips"], document["exhaustive"])))
    rows.append(("checks of everything", str(document["checks"])))
    for name, how in PROMISES:
        rows.append((name, ("holds: " if document["holds"] else "NOT SHOWN: ") + how))
    for broken in document["broken"]:
        rows.append(("BROKEN (seed {})".format(broken["seed"]), broken["traceback"] + broken["broken"]))
    width = max(len(name) for name, _ in rows)
    return "\n".join("{:{}}  {}".format(name, width, value) for name, value in rows)


if __name__ == "__main__":
    sys.exit(main())
