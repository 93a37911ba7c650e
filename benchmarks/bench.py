"""`python -m benchmarks.bench`, or `make bench`: measures ours against the reference's shape; writes benchmarks/out/bench.json and prints its tables.

Figures are medians of paired rounds (`benchmarks.pairs`) of processes that sleep while another one has its turn (`benchmarks.child`), one for each
case, on TensorFlow 1.15 (the interpreter MTC_PYTHON) and 2.x (.venv-train2 beside it). How to read them: docs/performance.md.
"""

import argparse
import os
import subprocess
import sys
import time

from benchmarks import data, parts, results, setting, table
from benchmarks.child import ROOT
from mtc.errors import UserError


def main(argv=None):
    """Return the exit code: 0, 1 where a number that was asked for could not be measured, 2 on a user's mistake."""
    options = arguments(argv)
    try:
        return run(options, interpreters(_candidates()))
    except UserError as error:
        print("error: {}".format(error), file=sys.stderr)
        return 2


def run(options, pythons):
    """Measure the parts that are asked for, one after another. pythons: {"tf1": path or None, "tf2": path or None}. Returns the exit code."""
    started = time.time()

    def tell(text):
        print("[{:5.0f} s] {}".format(time.time() - started, text), flush=True)

    for which, python in pythons.items():
        tell("{}: {}".format(setting.LABELS[which], python or "not found"))
    root, images = None, None
    if set(options.only) - {"a"}:
        tell("preparing images")
        root, images = data.prepare(os.path.dirname(os.path.abspath(options.out)), options.data, pythons["tf1"] or pythons["tf2"])
        tell("images: {images} of {root}, {mean_kilobytes} KB on average".format(**images))
    how = setting.Setting(
        pythons, options.size, options.width, options.batch, options.pairs, options.quick, root, overrides=options.set, tell=tell, peaks={}
    )
    complete = True
    for letter in options.only:
        tell("--- {}: {}".format(letter, parts.TITLES[letter]))
        machine, record = results.machine(), setting.Record()
        parts.PARTS[letter](how, record)
        complete = complete and None not in record.numbers.values()
        taken = {name: getattr(options, name) for name in ("size", "width", "batch", "pairs", "quick", "set")}
        measured = {"options": taken, "machine": machine, "images": images if letter != "a" else None}
        document = results.update(options.out, letter, dict(vars(record), **measured))
    print("\n{}\n\n{}".format(table.markdown(document), options.out), flush=True)
    return 0 if complete else 1


def interpreters(candidates):
    """Return {"tf1": path or None, "tf2": path or None}: the first of the candidates with each TensorFlow.

    Errors: UserError where none has any.
    """
    found = {"tf1": None, "tf2": None}
    for python in candidates:
        ask = "import tensorflow.compat.v1 as tf; print(tf.__version__)"
        environ = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
        try:
            done = subprocess.run([python, "-W", "ignore", "-c", ask], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ, check=False)
        except OSError as error:
            raise UserError("{} cannot be started: {}; run make setup or correct MTC_PYTHON".format(python, error.strerror)) from None
        version = done.stdout.decode("ascii", "replace").strip().rpartition("\n")[2]
        if done.returncode == 0:
            which = "tf1" if version.startswith("1.") else "tf2"
            found[which] = found[which] or python
    if not any(found.values()):
        raise UserError("none of {} has TensorFlow: run make setup".format(", ".join(candidates)))
    return found


def _candidates():
    own = os.environ.get("MTC_PYTHON", os.path.join(ROOT, ".venv-train", "bin", "python"))
    second = os.path.join(ROOT, ".venv-train2", "bin", "python")
    return [own] + ([second] if os.path.exists(second) else [])


def arguments(argv):
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=_letters, default=list(parts.PARTS), metavar="a,b", help="parts: " + _titles())
    parser.add_argument("--quick", action="store_true", help="half as many rounds, shorter turns")
    parser.add_argument("--pairs", type=_positive, help="rounds of every comparison")
    parser.add_argument("--data", help="a preprocessed data root; else 640-pixel synthetic images are made")
    parser.add_argument("--out", default=os.path.join(ROOT, "benchmarks", "out", "bench.json"), help="where figures are kept (default: %(default)s)")
    parser.add_argument("--size", type=_positive, default=368, help="side of the crop, divisible by 8 (default: %(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="of the network (default: %(default)s)")
    parser.add_argument("--batch", type=_positive, help="one batch size in place of 1 and 4")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override the configuration of all cases")
    return parser.parse_args(argv)


def _letters(text):
    letters = [letter.strip() for letter in text.split(",")]
    for letter in letters:
        if letter not in parts.PARTS:
            raise argparse.ArgumentTypeError("there is no part '{}'; parts: {}".format(letter, _titles()))
    return letters


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("{} is below 1".format(number))
    return number


def _titles():
    return "; ".join("{}: {}".format(letter, title) for letter, title in parts.TITLES.items())


if __name__ == "__main__":
    sys.exit(main())
