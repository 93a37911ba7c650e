"""Fetch the data set or the pretrained snapshot: `python -m tasks.fetch coco …` and `python -m tasks.fetch snapshot …`, two steps of the DAG.

An s3:// source is read with storage.endpoint and storage.region, as everything else in S3.
"""

import argparse
import dataclasses
import logging
import os
import sys

from mtc import quiet
from mtc.fetch import dataset, manifest, pretrained, subset
from mtc.storage import split_uri
from tasks import step

log = logging.getLogger("mtc")

SNAPSHOTS = "snapshots"


def main(argv=None):
    """Run the step that the first argument names; return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in STEPS:
        return step.main(STEPS[argv[0]], argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m tasks.fetch", description="Fetch what training needs. `python -m tasks.fetch WHAT --help` lists the options of each."
    )
    parser.add_argument("what", choices=sorted(STEPS), help="coco: the data set, into data.root. snapshot: the pretrained weights, into snapshots/")
    parser.parse_args(argv[:1])  # exits: with the help, or with what is wrong
    raise AssertionError(argv)


def _coco_inputs(context):
    config = context.config
    dataset.notice_damage(config.data.root)
    inputs = {"source": _absolute(config.fetch.source), "manifest": _absolute(config.fetch.manifest), "root": os.path.abspath(config.data.root)}
    if config.fetch.source == "synthetic":
        inputs["synthetic"] = dataclasses.asdict(config.synthetic)
    else:
        if split_uri(config.fetch.manifest)[0] == "file":
            inputs["expected"] = [list(archive[:4]) for archive in manifest.load(config.fetch.manifest)]
        inputs["archives"] = dataset.found_archives(config)
        if config.fetch.images or config.fetch.ids:
            inputs["subset"] = [config.fetch.images, sorted(subset.read_ids(config.fetch.ids)) if config.fetch.ids else []]
    return inputs


def _fetch_coco(context):
    root = context.config.data.root
    figures = dataset.fetch(context.config, again=context.arguments.force)
    record = os.path.join(root, dataset.RECORD)
    return step.Result(dataset.annotation_files(root) + [record] * os.path.isfile(record), figures)


def _snapshot_inputs(context):
    snapshot = context.config.snapshot
    inputs = {"uri": _absolute(snapshot.uri), "sha256": snapshot.sha256, "folder": os.path.abspath(SNAPSHOTS)}
    inputs["network"] = dataclasses.asdict(context.config.model)
    inputs["rules"] = [snapshot.discard, snapshot.rename, snapshot.adam]
    if snapshot.uri == "auto":  # what it means follows from what is in the folder
        inputs["checkpoints"] = sorted(
            os.path.join(folder, name) for folder, _, names in os.walk(SNAPSHOTS) for name in names if name.endswith(".index")
        )
    return inputs


def _fetch_snapshot(context):
    storage = context.config.storage
    prefix = pretrained.fetch(context.config.snapshot, SNAPSHOTS, endpoint=storage.endpoint, region=storage.region)
    if prefix is None:
        log.info("snapshot: none: training starts from initial weights")
        return step.Result([], {"snapshot": "none: training starts from initial weights"})
    log.info("snapshot: %s: %d variables of this network", prefix, _check_snapshot(context.config, prefix))
    return step.Result(pretrained.checkpoint_files(prefix), {"snapshot": prefix})


def _check_snapshot(config, prefix):
    """Return how many variables a training would take from a checkpoint. Errors: UserError where it is none, or of another network."""
    quiet.import_tensorflow()
    from mtc import snapshot
    from mtc.nets import cpm
    from mtc.skeleton import SKELETONS

    layers = cpm.plan(SKELETONS[config.model.kind], config.model.stages, config.model.width)
    return snapshot.check(prefix, cpm.variables(layers), config.snapshot.discard, config.snapshot.rename, config.snapshot.adam)


def _absolute(source):
    """Return a local path as absolute path, other values as they are: the same words in another folder mean something else."""
    if source in ("synthetic", "official", "none", "auto"):
        return source
    kind, path = split_uri(source)
    return os.path.abspath(os.path.expanduser(path)) if kind == "file" else source


class _Sets(argparse.Action):
    """An option that is another way to write `--set KEY=VALUE`."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.overrides = namespace.overrides + ["{}={}".format(self.dest, values)]


def _arguments_of_coco(parser):
    for option, metavar, key, text in (
        ("--images", "N", "fetch.images", "only so many images of train2017 with people, and a tenth as many of val2017, each by its own URL"),
        ("--ids", "FILE", "fetch.ids", "only the images whose ids this file lists: one a line, or a JSON list"),
    ):
        text += " (the same as --set {}={})".format(key, metavar)
        parser.add_argument(option, metavar=metavar, dest=key, default=argparse.SUPPRESS, action=_Sets, help=text)


STEPS = {
    "coco": step.Step(
        "fetch_coco",
        "Bring COCO 2017, or the synthetic data set, into data.root.",
        _coco_inputs,
        _fetch_coco,
        arguments=_arguments_of_coco,
        shared="fetch_coco",
    ),
    "snapshot": step.Step("fetch_snapshot", "Bring the pretrained snapshot into snapshots/.", _snapshot_inputs, _fetch_snapshot),
}

if __name__ == "__main__":
    sys.exit(main())
