"""`python -m tasks.report`: evaluates the newest checkpoint on held-out samples and writes report.md, report.html and report.json.

Made again when the journal, the checkpoint, the preprocessed data or the config has changed since. A run that is still going on can be reported, too.
"""

import os
import sys

from mtc import __version__, files, quiet
from mtc import config as configuration
from mtc.report import checkpoint_table, document, figures, history, verdict
from mtc.training import checkpoints
from tasks import evaluate, step


def inputs(context):
    """Return what the report depends on. Errors: UserError where nothing was trained yet."""
    checkpoint = checkpoints.newest_good(context.run_dir)
    preprocessed = step.read_record(context.run_dir, "preprocess") or {}
    return {
        "version": __version__,
        "config": configuration.to_dict(context.config),
        "journal": history.digest(_journal(context)),
        "checkpoint": files.sha256(os.path.join(checkpoint, "MANIFEST.json")) if checkpoint else None,
        "data": sorted(output["sha256"] for output in preprocessed.get("outputs", [])),
        "profile": _profile(context),
    }


def run(context):
    """Write the report and return its files and headline figures."""
    quiet.import_tensorflow()
    from mtc.evaluation import held_out, stored  # TensorFlow takes seconds to load: not before it is known that there is something to do

    found = history.read(_journal(context))
    checkpoint = checkpoints.newest_good(context.run_dir)
    rows, damaged = checkpoint_table.checkpoints(context.run_dir, found, checkpoint)
    evaluation = stored.load(context.run_dir, evaluate.subject(context, checkpoint)) if checkpoint else None
    if evaluation is None:
        evaluation = held_out.evaluate(context.config, checkpoints.bundle_prefix(checkpoint) if checkpoint else None)
    report = figures.collect(context.config, found, evaluation.figures, rows)
    report["profile"] = _profile(context)
    report["evaluated_step"] = files.read_json(os.path.join(checkpoint, "MANIFEST.json"))["step"] if checkpoint else None
    report["verdict"] = verdict.judge(report)
    report["warnings"] = verdict.warnings(report, damaged, found.damaged)
    report["notes"] = verdict.notes(report)
    paths = document.write(context.run_dir, context.config, report, found, evaluation.pictures)
    print_summary(report, paths[0])
    return step.Result(outputs=paths, figures={key: report[key] for key in ("loss", "pck", "throughput", "verdict", "warnings")})


def print_summary(report, path):
    """Print what a person at the terminal wants to know first, and where the rest is."""
    loss, pck = report["loss"], report["pck"]
    print(report["verdict"]["headline"])
    print("loss          {} (mean of the last {})".format(document.number(loss["last_mean"]), loss["last_count"]))
    for key, title in (("2d", "heat-maps"), ("pof", "POF")):
        values = [document.number(loss[name + key]) for name in ("last_mean_", "baseline_")]
        print("  {:<11} {}, empty answer {}".format(title, *values))
    for threshold in ("0.1", "0.2"):
        values = [
            "{} {}".format(name.replace("_", " "), document.share((pck[name] or {}).get(threshold))) for name in ("trained", "mean_pose", "untrained")
        ]
        print("PCK@{}       {}".format(threshold, ", ".join(values)))
    during = report["evaluations"]
    if during:
        scores = ["{} {} (step {:,})".format(name, document.share(during[name]["score"]), during[name]["step"]) for name in ("best", "last")]
        print("evaluations   {}: {}".format(verdict.metric_title(during["metric"]), ", ".join(scores)))
    print("throughput    {} images/s".format(document.number(report["throughput"]["images_per_second"])))
    for warning in report["warnings"]:
        print("warning: {}".format(warning))
    print("report: {}".format(os.path.abspath(path)))
    sys.stdout.flush()


def _profile(context):
    """Return where a step's time goes, of steps that were traced (`mtc.training.profiling`), or None."""
    try:
        return files.read_json(os.path.join(context.run_dir, "profile", "summary.json"))
    except ValueError:
        return None


def _journal(context):
    return os.path.join(context.run_dir, "metrics.jsonl")


STEP = step.Step(
    name="report",
    description="Evaluate the newest checkpoint on held-out samples and write report.html, report.md and report.json.",
    inputs=inputs,
    run=run,
)


def main(argv=None):
    """Return the exit code."""
    return step.main(STEP, argv)


if __name__ == "__main__":
    sys.exit(main())
