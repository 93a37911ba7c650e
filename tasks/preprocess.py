"""Prepares COCO for training: `COCO.json`, `COCO_val.json` and the masks of `mask2017/`, from the person_keypoints annotations.

Done again, it keeps every mask that already holds the right pixels, so that a step that was stopped goes on where it was; and it does nothing where
annotations and results are unchanged. `mask2017/index.json` lists the images whose masks are complete; it is withdrawn when one is found missing.
"""

import logging
import os
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
    """Write records and masks of both splits."""
    root, started = context.config.data.root, time.time()
    read = {split: annotations.read(_annotation_file(root, split)) for split in SPLITS}
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
            "masks": masks.write(root, split, read[split].images, context.config.data.workers),
            "findings": read[split].findings,
        }
        images += len(read[split].images)
        log.info("preprocess: %s masks: %d written, %d kept", split, figures[split]["masks"]["written"], figures[split]["masks"]["kept"])
        for reason, finding in sorted(read[split].findings.items()):
            log.warning("preprocess: %s: %d x %s (%s)", split, finding["count"], reason, "; ".join(finding["first"]))
    outputs.append(_index_file(root))
    _written(files.write_json, outputs[-1], {split: [image.id for image in read[split].images] for split in SPLITS}, None)
    seconds = time.time() - started
    figures["seconds"], figures["images_per_second"] = round(seconds, 3), round(images / seconds, 1)
    return step.Result(outputs, figures)


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


STEP = step.Step(
    name="preprocess",
    description="Make COCO.json, COCO_val.json and the masks from COCO's person_keypoints annotations in data.root.",
    inputs=inputs,
    run=run,
)


def main(argv=None):
    """Run the step as a command and return its exit code."""
    return step.main(STEP, argv)


if __name__ == "__main__":
    sys.exit(main())
