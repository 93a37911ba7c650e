"""`python -m benchmarks.scaling`, or `make scaling`: how a training scales over ranks, measured on networks with a delay and a rate, and predicted.

Ranks are processes of `python -m tasks.train` on this machine, each in a network namespace of its own (`benchmarks.scaling_network`). Of every case:
the step; its computation alone, by as many trainings side by side that know nothing of each other; its communication alone
(`benchmarks.scaling_rank`). Writes raw figures to benchmarks/out/scaling.json and prints their tables; with --page it measures nothing and renews
docs/scaling.md by them. Needs root and iproute2.
"""

import argparse
import contextlib
import datetime
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import results, scaling_page
from benchmarks.child import ROOT
from benchmarks.scaling_network import DEVICE, Link, Network, check
from mtc import files
from mtc.errors import UserError
from mtc.training.ranks.world import VARIABLES

LINKS = (Link("unlimited", None, 0.0), Link("10 Gbit/s, 0.1 ms", 10e9, 1e-4), Link("1 Gbit/s, 1 ms", 1e9, 1e-3), Link("200 Mbit/s, 5 ms", 2e8, 5e-3))
SWEPT = LINKS[2]
"""The network of the sweep of pieces."""
BUCKETS, USUAL, WHOLE = (0.25, 1.0, 4.0, 16.0, 1024.0), 4.0, 1024.0
"""Sizes of pieces in MB; the usual one is the default of distributed.bucket_mb; the last is larger than all gradients: one piece."""

LOCAL_BATCH = 2
MODEL = ("model.width=0.5", "model.stages=2", "model.crop=64")
DATA = ("synthetic.train_images=24", "synthetic.val_images=1", "synthetic.samples_3d=0", "synthetic.hands_3d=0", "synthetic.width=160")
HOW = (
    "train.threads=1",
    "train.device=cpu",
    "train.snapshot_every=1000000",
    "train.lr=1e-4",
    "train.lr_steps=",
    "data.workers=1",
    "data.cache_mb=64",
    "data.mix={coco: 1}",
    "evaluation.samples=0",
    "previews.every=0",
    "distributed.patience=180",
)
"""One thread a rank, whatever their number, so that the same work is compared."""
_LONGEST = 600.0
"""Seconds after which a case has failed."""


def main(argv=None):
    """Return the exit code: 0, 1 where a case failed, 2 on a user's mistake."""
    options = arguments(argv)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if options.page:
            scaling_page.renew(options.out)
            return 0
        check()
        document = measure(options)
        files.write_json(options.out, document)
        print("\n{}\n\n{}".format(scaling_page.tables(document), options.out), flush=True)
        return 0
    except UserError as error:
        print("error: {}".format(error), file=sys.stderr)
        return 2
    except CaseFailed as error:
        print("error: {}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


class CaseFailed(RuntimeError):
    """A process of a case ended otherwise than it should have."""


def measure(options):
    """Return the document of raw figures, which `scaling_page` reads."""
    started = time.time()

    def tell(text):
        print("[{:5.0f} s] {}".format(time.time() - started, text), flush=True)

    links = [LINKS[0], SWEPT] if options.quick else list(LINKS)
    buckets = (1.0, 4.0, 1024.0) if options.quick else BUCKETS
    several = [count for count in options.ranks if count > 1]
    document = {"v": 1, "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "machine": results.machine()}
    document["settings"] = {"quick": options.quick, "local_batch": LOCAL_BATCH, "model": list(MODEL), "steps": options.steps, "ranks": options.ranks}
    document["links"] = {link.name: {"rate": link.rate, "delay": link.delay} for link in links}
    document["networks"], document["versions"] = _networks()
    document.update(computation={}, communication=[], steps=[])
    folder = tempfile.mkdtemp(prefix="mtc-scaling-")
    try:
        tell("making a data set")
        prepare(folder)
        for count in options.ranks:
            tell("{} x computation alone".format(count))
            document["computation"][str(count)] = _summary(alone(folder, count, options.steps))
        for count in several:
            for link in links:
                tell("{} ranks, {}: communication alone".format(count, link.name))
                cable, sums, how = communication(count, link, buckets, max(5, options.steps // 2))
                document["links"][link.name].setdefault("measured", {})[str(count)] = dict(cable, how=how)
                for found in sums:
                    row = {"ranks": count, "link": link.name, "bucket_mb": found["bucket_mb"], "bytes_sent": found["bytes_sent"]}
                    document["communication"].append(dict(row, **_summary(found["times"])))
                swept = [bucket for bucket in buckets if bucket != USUAL and link is SWEPT]
                for bucket in [USUAL] + swept:
                    tell("{} ranks, {}: training, pieces of {:g} MB".format(count, link.name, bucket))
                    row = {"ranks": count, "link": link.name, "bucket_mb": bucket}
                    document["steps"].append(dict(row, **_summary(train(folder, count, link, bucket, options.steps))))
            files.write_json(options.out, document)  # kept, should a case of more ranks fail
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return document


def prepare(folder):
    """Make the data set of all trainings."""
    for words in (["tasks.fetch", "coco"], ["tasks.preprocess"]):
        command = [sys.executable, "-m", *words, "--config", "demo", "--run-dir", os.path.join(folder, "prepare")]
        for override in DATA + ("data.root=" + os.path.join(folder, "data"),):
            command += ["--set", override]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise CaseFailed("the data set cannot be made: {}".format(done.stdout.decode("utf-8", "replace")[-2000:]))


def train(folder, ranks, link, bucket, steps):
    """Return the seconds of a training's steps after its warm-up, as rank 0 sees them."""
    run = os.path.join(folder, "run-{}-{}-{:g}".format(ranks, LINKS.index(link) if link in LINKS else "x", bucket))
    warm_up = _warm_up(steps)
    settings = [
        "train.batch_size={}".format(LOCAL_BATCH * ranks),
        "train.steps={}".format(steps + warm_up),
        "distributed.bucket_mb={:g}".format(bucket),
    ]
    with Network(ranks, link) as network, contextlib.ExitStack() as stack:
        processes = []
        for rank in range(ranks):
            own = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": network.address(0), "MASTER_PORT": 29500}
            out = stack.enter_context(open("{}-{}.txt".format(run, rank), "w+b"))
            command = _command(folder, run, settings)
            processes.append((network.start(rank, command, cwd=ROOT, env=_environment(own), stdout=out, stderr=subprocess.STDOUT), out))
        _wait(processes)
    return _seconds(run, warm_up, steps)


def alone(folder, count, steps):
    """Return the seconds of the steps of `count` trainings side by side, each of the batch that a rank has."""
    warm_up = _warm_up(steps)
    settings = ["train.batch_size={}".format(LOCAL_BATCH), "train.steps={}".format(steps + warm_up + steps // 2)]  # the last go on while others end
    runs = [os.path.join(folder, "alone-{}-{}".format(count, number)) for number in range(count)]
    with contextlib.ExitStack() as stack:
        processes = []
        for run in runs:
            out = stack.enter_context(open(run + ".txt", "w+b"))
            environment = _environment({"LOCAL_WORLD_SIZE": count})
            process = subprocess.Popen(_command(folder, run, settings), cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
            stack.callback(_end, process)
            processes.append((process, out))
        _wait(processes)
    return [seconds for run in runs for seconds in _seconds(run, warm_up, steps)]


def communication(ranks, link, buckets, repeats):
    """Return (what the cable is like, sums: [{"bucket_mb", "times", "bytes_sent"}], what made the delay) of the gradients' sums alone."""
    with Network(ranks, link) as network, tempfile.TemporaryFile() as first, contextlib.ExitStack() as stack:
        hosts = ",".join(network.address(rank) for rank in range(ranks))
        command = [sys.executable, "-m", "benchmarks.scaling_rank", "--hosts", hosts, "--buckets", ",".join("{:g}".format(b) for b in buckets)]
        command += ["--repeats", str(repeats), "--device", DEVICE, "--probe-bytes", str(int(min(link.rate or 4e9, 4e9) / 8 / 2))]
        for override in MODEL + HOW:
            command += ["--set", override]
        processes = []
        for rank in range(ranks):
            errors = stack.enter_context(tempfile.TemporaryFile())
            streams = {"stdout": subprocess.DEVNULL if rank else first, "stderr": errors}
            environment = _environment({"LOCAL_WORLD_SIZE": ranks})
            processes.append((network.start(rank, command + ["--rank", str(rank)], cwd=ROOT, env=environment, **streams), errors))
        _wait(processes)
        first.seek(0)
        found = json.loads(first.read().decode("utf-8").strip().splitlines()[-1])
        return found["cable"], found["sums"], network.how


def _networks():
    """Return ({"measured" and "full": [[layer, bytes of weights, bytes of biases, FLOP of the forward pass of an image]]}, versions)."""
    from mtc import quiet

    quiet.import_tensorflow()
    import tensorflow.compat.v1 as tf

    from mtc import config as configuration
    from mtc.nets import cpm
    from mtc.skeleton import SKELETONS

    found = {}
    for name, preset, overrides in (("measured", "demo", MODEL), ("full", "ascend_perf", ())):
        config = configuration.load(preset, list(overrides))
        layers = cpm.plan(SKELETONS[config.model.kind], config.model.stages, config.model.width)
        sizes = [4 * layer.kernel**2 * layer.inputs * layer.outputs for layer in layers]
        flop = [cpm.forward_flop([layer], config.model.crop) for layer in layers]
        found[name] = [[layer.name, size, 4 * layer.outputs, work] for layer, size, work in zip(layers, sizes, flop)]
    return found, {"tensorflow": tf.__version__, "python": sys.version.split()[0]}


def _command(folder, run, settings):
    command = [sys.executable, "-m", "tasks.train", "--config", "demo", "--run-dir", run]
    own = ["data.root=" + os.path.join(folder, "data"), "storage.uri=" + os.path.join(folder, "storage"), "snapshot.uri=none"]
    for override in list(MODEL + HOW) + own + settings:
        command += ["--set", override]
    return command


def _environment(own):
    """Return this process's environment for a rank: with what makes it one, without what others have set to that end, and without proxies."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    for name in VARIABLES:
        kept.pop(name, None)
    return dict(kept, CUDA_VISIBLE_DEVICES="", TF_CPP_MIN_LOG_LEVEL="2", **{name: str(value) for name, value in own.items()})


def _wait(processes):
    """Return once all have ended well. processes: [(process, file with its output)]. Errors: CaseFailed."""
    until = time.monotonic() + _LONGEST
    while any(process.poll() is None for process, _ in processes):
        bad = [pair for pair in processes if pair[0].poll()]
        if bad or time.monotonic() > until:
            break
        time.sleep(0.05)
    for process, out in processes:
        if process.poll():
            out.seek(0)
            text = out.read().decode("utf-8", "replace")[-2000:]
            raise CaseFailed("{} ended with {}:\n{}".format(" ".join(process.args[:12]), process.returncode, text))
    if any(process.poll() is None for process, _ in processes):
        raise CaseFailed("a case did not end within {:g} s".format(_LONGEST))


def _end(process):
    if process.poll() is None:
        process.kill()
    process.wait()


def _warm_up(steps):
    return max(3, steps // 5)


def _seconds(run, warm_up, steps):
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as f:
        records = [json.loads(line) for line in f]
    made = [record["seconds"] for record in records if record["kind"] == "train"]
    return made[warm_up : warm_up + steps]


def _summary(values):
    """Return {"seconds": median, "quartiles", "count"}."""
    ordered = sorted(values)
    quartiles = [ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]]
    return {"seconds": round(statistics.median(values), 6), "quartiles": [round(value, 6) for value in quartiles], "count": len(values)}


def arguments(argv):
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1 and 2 ranks, two networks, few steps: for a first look, not for a claim")
    parser.add_argument("--ranks", type=_counts, help="numbers of ranks, separated by commas (default: 1,2,4; with --quick 1,2)")
    parser.add_argument("--steps", type=_positive, help="steps of a training that are measured (default: 30; with --quick 10)")
    parser.add_argument(
        "--out", default=os.path.join(ROOT, "benchmarks", "out", "scaling.json"), help="where figures are kept (default: %(default)s)"
    )
    parser.add_argument("--page", action="store_true", help="measure nothing: renew the tables of docs/scaling.md by the figures of --out")
    options = parser.parse_args(argv)
    options.ranks = options.ranks or ([1, 2] if options.quick else [1, 2, 4])
    options.steps = options.steps or (10 if options.quick else 30)
    return options


def _counts(text):
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError("'{}': expected numbers of ranks such as 1,2,4".format(text)) from None
    if counts[0] < 1 or counts[-1] > 16:
        raise argparse.ArgumentTypeError("'{}': this machine can stand for 1 to 16 ranks".format(text))
    return counts


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("{} is below 1".format(number))
    return number


if __name__ == "__main__":
    sys.exit(main())
