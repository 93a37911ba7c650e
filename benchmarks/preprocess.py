"""`python -m benchmarks.preprocess`: preparing all of COCO's train2017, simulated, and a straightforward loop over pycocotools beside it.

Makes annotations with COCO's statistics (`benchmarks.coco`; about 240 MB), prepares them by `tasks.preprocess` in a process of its own, with masks as
run lengths and as PNGs, and lets the loop do the same work on a part of the same images, in turns with ours on the same part, so that the ratio is of
one run on one machine. Also says what loads faster, a mask of run lengths or a PNG, and where the time goes. Writes benchmarks/out/preprocess.json.
Exits with 1 where the whole takes more than 180 s or 1.5 GB.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

from benchmarks import coco, results
from benchmarks.child import ROOT
from mtc import files

MOST_SECONDS, MOST_MB = 180.0, 1500.0
PART = 1 / 16
TURNS = 3
LOADED = 2000


def main(argv=None):
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preprocess", description=__doc__.split("\n\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of train2017; below 1 for a first look (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes; default: one a core")
    parser.add_argument("--folder", help="where to work; default: a temporary folder")
    options = parser.parse_args(argv)
    folder = tempfile.mkdtemp(prefix="mtc-preprocess-", dir=options.folder)
    try:
        figures = measure(folder, options.share, options.workers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    files.write_json(os.path.join(ROOT, "benchmarks", "out", "preprocess.json"), figures)
    for key, value in sorted(figures.items()):
        print("{:36} {}".format(key, value))
    good = figures["seconds_full_train2017"] <= MOST_SECONDS and figures["peak_rss_mb"] <= MOST_MB
    return 0 if good or options.share < 1 else 1


def measure(folder, share, workers):
    """Return the figures."""
    whole, part = os.path.join(folder, "whole"), os.path.join(folder, "part")
    tell("making annotations like COCO's")
    made = coco.write(whole, "train", share)
    coco.write(whole, "val", share / 24, 1, 10**6)
    coco.write(part, "train", share * PART)
    coco.write(part, "val", share * PART / 24, 1, 10**6)
    figures = {"cores": results.cores(), "python": sys.version.split()[0]}
    figures.update({"annotations_" + key: value for key, value in made.items()})
    for store in ("png", "rle"):
        tell("preparing the whole, masks as " + store)
        seconds, megabytes, told = ours(whole, store, workers)
        name = "" if store == "rle" else "_png"
        figures["seconds_full_train2017" + name] = round(seconds / share, 1)
        figures["peak_rss_mb" + name] = round(megabytes, 1)
        figures["images_per_second" + name] = told["images_per_second"]
        figures["record_count"] = told["train"]["records"]
    tell("what loads faster")
    figures.update(loading(whole))
    figures.update(parts(part))
    times = {"loop": [], "rle": [], "png": []}
    for turn in range(TURNS):
        tell("{} of {}: the loop over pycocotools, and ours".format(turn + 1, TURNS))
        times["loop"].append(loop(part))
        for store in ("rle", "png"):
            times[store].append(ours(part, store, workers)[0])
    fastest = {name: min(values) for name, values in times.items()}
    figures["seconds_of_part"] = {name: round(value, 2) for name, value in fastest.items()}
    figures["ratio_to_pycocotools_loop"] = round(fastest["loop"] / fastest["rle"], 2)
    figures["ratio_to_pycocotools_loop_png"] = round(fastest["loop"] / fastest["png"], 2)
    return figures


def ours(root, store, workers):
    """Prepare a data set in a process of its own; return (seconds, peak MB of its memory and its workers', the step's figures)."""
    shutil.rmtree(os.path.join(root, "mask2017"), ignore_errors=True)
    run = os.path.join(root, "run")
    command = [sys.executable, "-m", "tasks.preprocess", "--force", "--run-dir", run]
    for override in ("data.root=" + root, "data.mask_store=" + store, "data.workers={}".format(workers)):
        command += ["--set", override]
    started = time.perf_counter()
    with open(os.path.join(root, "log"), "w", encoding="utf-8") as log, subprocess.Popen(command, cwd=ROOT, stderr=log) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.05)
    seconds = time.perf_counter() - started
    if process.returncode:
        with open(os.path.join(root, "log"), encoding="utf-8") as log:
            raise SystemExit(log.read())
    with open(os.path.join(run, "steps", "preprocess.json"), encoding="utf-8") as f:
        return seconds, peak, json.load(f)["figures"]


def memory(pid):
    """Return the MB that a process and its children have resident, all together; pages that they share count for each."""
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            with open("/proc/{0}/task/{0}/children".format(one), encoding="ascii") as f:
                waiting += [int(child) for child in f.read().split()]
            with open("/proc/{}/statm".format(one), encoding="ascii") as f:
                total += int(f.read().split()[1])
        except OSError:  # it has just ended
            continue
    return total * resource.getpagesize() / 2.0**20


def loop(root):
    """Do the same work as one writes it down at first: pycocotools' COCO, annToMask, cv2.imwrite; return the seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "benchmarks.preprocess_loop", root], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def loading(root):
    """Return the microseconds that a mask takes to load in each form, in turns, files in the page cache."""
    from mtc.coco import annotations, masks
    from mtc.data import image_files

    stored = masks.read_store(root, "train", "miss")
    folder = os.path.join(root, "pngs")
    os.makedirs(folder)
    index = annotations.index(os.path.join(root, "annotations", "person_keypoints_train2017.json"))
    pngs, regions = [], []
    with open(index.path, "rb") as f:
        for number in range(0, len(index.images), max(1, len(index.images) // LOADED)):
            image = index.image(f, number, annotations.Findings())
            masks.write_image(folder, "train", image)
            pngs.append(os.path.join(folder, masks.file_name("train", "miss", image.id)))
            regions.append(stored[image.id])
    best = {}
    for _ in range(TURNS):
        for name, wanted in (("rle", regions), ("png", pngs)):
            started = time.perf_counter()
            for one in wanted:
                image_files.read_mask(one)
            best[name] = min(best.get(name, 1e9), (time.perf_counter() - started) / len(wanted) * 1e6)
    return {"microseconds_to_load_a_mask": {name: round(value, 1) for name, value in best.items()}}


def parts(root):
    """Return the seconds that each part of the work takes in one process, for the images of a part."""
    from mtc.coco import annotations, masks, records

    clock, spent = time.perf_counter, {}
    started = clock()
    index = annotations.index(os.path.join(root, "annotations", "person_keypoints_train2017.json"))
    spent["finding where everything lies in the file"] = clock() - started
    started = clock()
    with open(index.path, "rb") as f:
        images = [index.image(f, number, annotations.Findings()) for number in range(len(index.images))]
    spent["parsing and checking annotations"] = clock() - started
    started = clock()
    for rank, image in enumerate(images):
        for one in records.select_of(image, rank, dict.fromkeys(records.RULES, 0)):
            records.line(one)
    spent["records"] = clock() - started
    started = clock()
    for image in images:
        masks.line(image)
    spent["masks as run lengths"] = clock() - started
    folder = os.path.join(root, masks.FOLDER)
    os.makedirs(folder, exist_ok=True)
    started = clock()
    for image in images:
        masks.write_image(folder, "train", image)
    spent["masks as PNGs"] = clock() - started
    return {"seconds_in_one_process_of_a_part": {name: round(value, 2) for name, value in spent.items()}}


def tell(text):
    """Say what is going on."""
    print("[{:5.0f} s] {}".format(time.perf_counter() - _STARTED, text), file=sys.stderr, flush=True)


_STARTED = time.perf_counter()

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
