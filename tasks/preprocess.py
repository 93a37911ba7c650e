"""Prepares COCO for training: `COCO.json`, `COCO_val.json` and the masks of `mask2017/`, from the person_keypoints annotations.

Done again, it keeps every mask that already holds the right pixels, so that a step that was stopped goes on where it was; and it does nothing where
annotations and results are unchanged. `mask2017/index.json` lists the images whose masks are complete; it is withdrawn when one is found missing.

`--shard 2/8` makes the masks of every eighth image only, so that several processes or machines share the work; `--merge` then writes the rest. The
result has the same bytes for any number of shards. A shard leaves a note of what it made in `mask2017/`, which the merge takes its word from.
"""

import argparse
import logging
import os
import re
import sys
import time

from mtc import files
from mtc.coco import annotations, masks, records
from mtc.errors import UserError
from tasks import step

log = logging.getLogger("mtc")

RULES = 1
"""Version of the rules for records and masks; a change makes finished data sets be prepared again."""

SPLITS = ("train", "val")
MOST_SHARDS = 10000


def inputs(context):
    """Describe the annotations by their digests; see that no mask was deleted since."""
    root = context.config.data.root
    if not os.path.isdir(root):
        raise UserError("data.root={}: no such folder; run python -m tasks.fetch coco or set data.root to the folder with COCO 2017".format(root))
    found = {"root": os.path.abspath(root), "rules": RULES}
    for split in SPLITS:
        found[split] = step.sha256(_annotation_file(root, split), "fetch COCO 2017 (python -m tasks.fetch coco) or set data.root to its folder")
    _withdraw_incomplete_index(root)
    return found


def run(context):
    """Write records and masks of both splits, or one shard of the masks."""
    root, started = context.config.data.root, time.time()
    if context.arguments.shard:
        return _run_shard(context, started)
    read = {split: annotations.read(_annotation_file(root, split)) for split in SPLITS}
    made = _made_by_shards(context, {split: [image.id for image in read[split].images] for split in SPLITS}) if context.arguments.merge else None
    figures, images, outputs = {}, 0, []
    for split in SPLITS:
        people, rejected = records.select(read[split].images)
        if not people:
            raise UserError(
                "{}: no person is accepted for training ({}): is it the right file?".format(
                    _annotation_file(root, split), ", ".join("{}: {}".format(*item) for item in sorted(rejected.items()))
                )
            )
        outputs.append(os.path.join(root, records.FILES[split]))
        _written(records.write, outputs[-1], people)
        log.info("preprocess: %s: %d people of %d images accepted", outputs[-1], len(people), len(read[split].images))
        figures[split] = {
            "images": len(read[split].images),
            "people": sum(len(image.people) for image in read[split].images),
            "records": len(people),
            "rejected": rejected,
            "masks": made[split] if made else masks.write(root, split, read[split].images, context.config.data.workers),
            "findings": read[split].findings,
        }
        images += len(read[split].images)
        log.info("preprocess: %s masks: %d written, %d kept", split, figures[split]["masks"]["written"], figures[split]["masks"]["kept"])
        for reason, finding in sorted(read[split].findings.items()):
            log.warning("preprocess: %s: %d x %s (%s)", split, finding["count"], reason, "; ".join(finding["first"]))
    outputs.append(_index_file(root))
    _written(files.write_json, outputs[-1], {split: [image.id for image in read[split].images] for split in SPLITS}, None)
    for path in _notes(root):
        _written(os.unlink, path)
    seconds = time.time() - started
    figures["seconds"], figures["images_per_second"] = round(seconds, 3), round(images / seconds, 1)
    return step.Result(outputs, figures)


def _run_shard(context, started):
    """Make every n-th image's masks."""
    root, (number, count) = context.config.data.root, context.arguments.shard
    made, images = {}, {}
    for split in SPLITS:
        own = annotations.read(_annotation_file(root, split)).images[number - 1 :: count]
        images[split] = [image.id for image in own]
        made[split] = masks.write(root, split, own, context.config.data.workers)
        log.info("preprocess: shard %d of %d: %s masks: %d written, %d kept", number, count, split, made[split]["written"], made[split]["kept"])
    note = {"v": 1, "of": inputs(context), "images": images, "masks": made}
    path = os.path.join(root, masks.FOLDER, "shard-{}-of-{}.json".format(number, count))
    _written(files.write_json, path, note, None)
    figures = {
        "shard": "{}/{}".format(number, count),
        "images": sum(map(len, images.values())),
        "masks": made,
        "seconds": round(time.time() - started, 3),
    }
    return step.Result([path], figures)


def _made_by_shards(context, wanted):
    """Return {split: counts} of the masks that shards have made. wanted: {split: image ids}. Errors: UserError names a shard that is missing."""
    root, count = context.config.data.root, None
    there, of = masks.found(root), inputs(context)
    totals, seen = {split: {"written": 0, "kept": 0} for split in SPLITS}, {split: set() for split in SPLITS}
    for path in _notes(root):
        note = files.read_json(path)
        if note.get("of") != of:
            continue  # of other annotations
        count = path.rpartition("-of-")[2][: -len(".json")]
        for split in SPLITS:
            seen[split].update(note["images"][split])
            for verb in totals[split]:
                totals[split][verb] += note["masks"][split][verb]
    for split in SPLITS:
        missing = [i for i in wanted[split] if i not in seen[split] or any(i not in there[split, kind] for kind in masks.KINDS)]
        if missing:
            example = "run python -m tasks.preprocess --shard I/{} for all I first".format(count or "N")
            raise UserError("{} of {} {} images have no masks of a shard yet, the first is {}: {}".format(
                len(missing), len(wanted[split]), split, missing[0], example
            ))  # fmt: skip
    return totals


def _notes(root):
    folder = os.path.join(root, masks.FOLDER)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(os.path.join(folder, name) for name in names if re.fullmatch(r"shard-\d+-of-\d+\.json", name))


def _withdraw_incomplete_index(root):
    """Remove the index where a mask that it lists is missing: the step's outputs are then not what its last success left."""
    try:
        index = files.read_json(_index_file(root))
        listed = {split: set(index[split]) for split in SPLITS}
    except (OSError, ValueError, TypeError, KeyError):  # absent or damaged: not what the last success left, which the step sees by itself
        return
    there = masks.found(root)
    missing = sum(len(listed[split] - there[split, kind]) for split in SPLITS for kind in masks.KINDS)
    if missing:
        log.info("preprocess: masks that are missing and will be made again: %d", missing)
        _written(os.unlink, _index_file(root))


def _written(write, path, *arguments):
    """Call a function that writes `path`; a full or read-only disk is the user's to mend."""
    try:
        write(path, *arguments)
    except OSError as error:
        raise UserError(
            "{} cannot be written: {}; free space or permissions are needed, or another data.root".format(path, error.strerror or error)
        ) from None


def _annotation_file(root, split):
    return os.path.join(root, "annotations", "person_keypoints_{}2017.json".format(split))


def _index_file(root):
    return os.path.join(root, masks.FOLDER, "index.json")


def arguments(parser):
    """Add what only preprocessing takes."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--shard", type=_shard, metavar="I/N", help="make the masks of the I-th of N parts of the images only, I from 1 to N")
    which.add_argument("--merge", action="store_true", help="write the rest, after all shards: COCO.json and the list of masks")


def _shard(text):
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match.group(1)) <= int(match.group(2)) <= MOST_SHARDS:
        raise argparse.ArgumentTypeError("expected I/N with 1 <= I <= N <= {}, not {}".format(MOST_SHARDS, text))
    return [int(match.group(1)), int(match.group(2))]


STEP = step.Step(
    name="preprocess",
    description="Make COCO.json, COCO_val.json and the masks from COCO's person_keypoints annotations in data.root.",
    inputs=inputs,
    run=run,
    arguments=arguments,
    shared="preprocess",
)


def main(argv=None):
    """Run the step as a command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    given = re.search(r"--shard[= ](\d+)/(\d+)", " ".join(argv))  # shards run side by side: each has a lock and a record of its own
    name = "preprocess_shard_{}_of_{}".format(*given.groups()) if given else STEP.name
    return step.main(STEP._replace(name=name), argv)


if __name__ == "__main__":
    sys.exit(main())
