"""Prepares COCO for training: `COCO.json`, `COCO_val.json` and the masks in `mask2017/`, from the person_keypoints annotations.

Masks are run lengths in one file of a split, or PNGs (data.mask_store). Done again, it keeps every PNG that already holds the right pixels, so that a
step that was stopped goes on where it was; and it does nothing where annotations and results are unchanged. `mask2017/index.json` lists the images
whose masks are complete; it is withdrawn when a PNG is found missing.

`--shard 2/8` prepares every eighth image only, so that several processes or machines share the work; `--merge` then joins what they have left in
`mask2017/`. The result has the same bytes for any number of shards and processes.

What is wrong with annotations and images is left out, counted and named in the step's figures; more of it than data.max_bad_fraction ends the step.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import sys
import time
from collections import Counter

from tqdm import tqdm

from mtc import files, parallel
from mtc.coco import annotations, masks, records
from mtc.coco.preparation import Preparation, Prepared
from mtc.data.bad_samples import allowed
from mtc.errors import UserError
from tasks import step

log = logging.getLogger("mtc")

RULES = 2
"""Version of the rules for records and masks; a change makes finished data sets be prepared again."""

SPLITS = ("train", "val")
MOST_SHARDS = 10000
AT_ONCE = 128
"""Images of a job for a process: a signal waits for no more than these."""
FEW = 512
"""Images for which no processes are started."""


def inputs(context):
    """Describe the annotations by their digests; see that no mask was deleted since."""
    root = context.config.data.root
    if not os.path.isdir(root):
        raise UserError("data.root={}: no such folder; run python -m tasks.fetch coco or set data.root to the folder with COCO 2017".format(root))
    found = {"root": os.path.abspath(root), "rules": RULES, "mask_store": context.config.data.mask_store}
    for split in SPLITS:
        found[split] = step.sha256(_annotation_file(root, split), "fetch COCO 2017 (python -m tasks.fetch coco) or set data.root to its folder")
    if context.config.data.mask_store == "png":
        _withdraw_incomplete_index(root)
    return found


def run(context):
    """Write records and masks of both splits, or prepare one shard of the images."""
    root, started = context.config.data.root, time.time()
    with _disk(os.path.join(root, masks.FOLDER)):
        os.makedirs(os.path.join(root, masks.FOLDER), exist_ok=True)
        for path in _stale(context):
            os.unlink(path)
    if context.arguments.shard:
        return _run_shard(context, started)
    for folder in (root, os.path.join(root, masks.FOLDER)):
        files.remove_leftovers(folder)
    figures, outputs, ids = {}, [], {}
    for split, source in _sources(context).items():
        figures[split], ids[split] = _write(context, split, source)
        outputs.append(os.path.join(root, records.FILES[split]))
        if context.config.data.mask_store == "rle":
            outputs.append(masks.store_path(root, split))
    outputs.append(_index_file(root))
    with _disk(outputs[-1]):
        # Flushed once for all: a flush a PNG would cost more than the masks. The step's record is written after this, so it never speaks of
        # masks that a power failure can still take.
        os.sync()
        files.write_json(outputs[-1], dict(ids, store=context.config.data.mask_store), None)
        for path in _notes(root):
            os.unlink(path)
    seconds = time.time() - started
    images = sum(len(ids[split]) for split in SPLITS)
    figures["seconds"], figures["images_per_second"] = round(seconds, 3), round(images / seconds, 1)
    return step.Result(outputs, figures)


class Source:
    """The images of a split, and what is made of them."""

    def __init__(self, context, split, index, elsewhere, shard):
        """shard: (its number from 1, how many there are)."""
        config, (number, count) = context.config, shard
        self.images, self.annotations, self.findings, self.counts = len(index.images), index.annotations, annotations.Findings(), Counter()
        if number == 1:  # what is wrong with the file as a whole is told once
            self.findings.merge(index.findings)
        numbers = list(range(number - 1, len(index.images), count))
        self._split, self._numbers = split, numbers
        self._prepare = Preparation(config.data.root, split, index, config.data.mask_store == "png", elsewhere)
        self._workers = config.data.workers or len(os.sched_getaffinity(0))

    def prepared(self):
        """Yield what is made of each image, in their order; `findings` and `counts` grow with it."""
        jobs = [self._numbers[at : at + AT_ONCE] for at in range(0, len(self._numbers), AT_ONCE)]
        workers = self._workers if len(self._numbers) > FEW else 1
        with tqdm(total=len(self._numbers), desc=self._split + " images", unit="image", disable=None) as bar:
            for batch in parallel.ordered(self._prepare, jobs, workers):
                self.findings.merge(batch.findings)
                self.counts.update(batch.counts)
                yield from batch.images
                bar.update(len(batch.images))


class Merged:
    """The same from shards."""

    def __init__(self, context, split, shards):
        self._there = masks.found(context.config.data.root) if context.config.data.mask_store == "png" else None
        self.findings, self.counts = annotations.Findings(), Counter()
        self._split, self._shards = split, shards
        for shard in shards:
            told = shard.told[split]
            self.images, self.annotations = told["images"], told["annotations"]
            self.counts.update(told["counts"])
            self.findings.merge(annotations.Findings.from_json(told["findings"]))

    def prepared(self):
        """Yield what the shards have made of each image."""
        for number in range(self.images):
            shard = self._shards[number % len(self._shards)]
            made = shard.next(self._split, number)
            if made.kept and self._there and any(made.image_id not in self._there[self._split, kind] for kind in masks.KINDS):
                text = "a PNG of image {}, one of {} images of {}, is not there any more: delete {} and run that shard again"
                raise UserError(text.format(made.image_id, self.images, self._split, shard.path))
            yield made


_PLACE = 20
"""Bytes of the last line of a shard's file: where the line before it begins."""


class Shard:
    """What a shard has left: a line that says what it is, a line for each image, and a line with its figures."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as f:
            head = json.loads(f.readline().decode("ascii"))
            self.of, self._at = head["of"], f.tell()
            f.seek(-_PLACE, os.SEEK_END)
            f.seek(int(f.read(_PLACE)))
            self.told = json.loads(f.readline().decode("ascii"))

    def next(self, split, number):
        """Return what it has made of this image, the next one of its own."""
        with open(self.path, "rb") as f:  # there may be more shards than a process may have open files
            f.seek(self._at)
            there, at, image_id, kept, lines, mask = json.loads(f.readline().decode("ascii"))
            self._at = f.tell()
        assert [there, at] == [split, number], self.path
        return Prepared(at, image_id, kept, [line.encode("ascii") for line in lines], mask.encode("ascii"))


def _sources(context, shard=(1, 1)):
    """Return {split: `Source` or `Merged`}."""
    root = context.config.data.root
    if context.arguments.merge:
        shards = _shards(context)
        return {split: Merged(context, split, shards) for split in SPLITS}
    indexed = {split: annotations.index(_annotation_file(root, split)) for split in SPLITS}
    held_out = [image.id for image in indexed["val"].images]
    return {split: Source(context, split, indexed[split], held_out if split == "train" else (), shard) for split in SPLITS}


def _write(context, split, source):
    """Write a split's files; return (figures, ids of its images)."""
    root, rle = context.config.data.root, context.config.data.mask_store == "rle"
    path, ids, people = os.path.join(root, records.FILES[split]), [], 0
    with _disk(path), contextlib.ExitStack() as stack:
        if rle:
            add_mask = stack.enter_context(masks.writing(masks.store_path(root, split), split))
        add_record = stack.enter_context(records.writing(path))
        for prepared in source.prepared():
            people += len(prepared.records)
            for line in prepared.records:
                add_record(line)
            if prepared.kept:
                ids.append(prepared.image_id)
                if rle:
                    add_mask(prepared.mask)
        bad = _check_damage(context, split, source)
        rejected = {reason: source.counts[reason] for reason in records.RULES}
        if not people:
            text = "{}: no person is accepted for training ({}): is it the right file?"
            listed = ", ".join("{}: {}".format(*item) for item in sorted(rejected.items()))
            raise UserError(text.format(_annotation_file(root, split), listed))
    made = {verb: source.counts[verb] for verb in ("written", "kept")} if not rle else {"written": 2 * len(ids), "kept": 0}
    log.info("preprocess: %s: %d people of %d images accepted", path, people, source.images)
    log.info("preprocess: %s masks: %d written, %d kept", split, made["written"], made["kept"])
    for line in source.findings.lines():
        log.warning("preprocess: %s: %s", split, line)
    return {
        "images": source.images,
        "people": source.counts["people"],
        "records": people,
        "rejected": rejected,
        "masks": made,
        "bad": bad,
        "findings": source.findings.summary(),
    }, ids


def _check_damage(context, split, source):
    """Return how many annotations and images are damaged. Errors: UserError where there are more than data.max_bad_fraction."""
    fraction, bad = context.config.data.max_bad_fraction, {}
    for name, kinds, total in (("annotations", ("annotation",), source.annotations), ("images", ("image", "image file"), source.images)):
        bad[name] = sum(kind in kinds for kind, _ in source.findings.damaged)
        if bad[name] > allowed(fraction, total):
            text = "{}: something is wrong with {} of {} {}, data.max_bad_fraction={:g} allows {}: {}; repair them or raise data.max_bad_fraction"
            path = _annotation_file(context.config.data.root, split)
            raise UserError(text.format(path, bad[name], total, name, fraction, allowed(fraction, total), "; ".join(source.findings.lines())))
    return bad


def _run_shard(context, started):
    """Prepare every n-th image."""
    root, (number, count) = context.config.data.root, context.arguments.shard
    path = os.path.join(root, masks.FOLDER, "shard-{}-of-{}.jsonl".format(number, count))
    told, images = {}, 0
    with _disk(path), files.atomic_file(path) as f:
        f.write(_json_line({"v": 1, "of": inputs(context)}))
        for split, source in _sources(context, (number, count)).items():
            for made in source.prepared():
                images += 1
                lines = [line.decode("ascii") for line in made.records]
                f.write(_json_line([split, made.number, made.image_id, made.kept, lines, made.mask.decode("ascii")]))
            told[split] = {
                "images": source.images,
                "annotations": source.annotations,
                "counts": source.counts,
                "findings": source.findings.to_json(),
            }
            log.info("preprocess: shard %d of %d: %s: %d images prepared", number, count, split, len(range(number - 1, source.images, count)))
        os.sync()  # the PNGs
        place = f.tell()
        f.write(_json_line(told) + b"%019d\n" % place)
    figures = {"shard": "{}/{}".format(number, count), "images": images, "seconds": round(time.time() - started, 3)}
    return step.Result([path], figures)


def _json_line(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def _shards(context):
    """Return all `Shard`s of one division of the images, in their order. Errors: UserError names one that is missing."""
    root, of = context.config.data.root, inputs(context)
    divisions = {}
    for path in _notes(root):
        number, count = map(int, re.findall(r"\d+", os.path.basename(path)))
        shard = Shard(path)
        if shard.of == of:  # else of other annotations
            divisions.setdefault(count, {})[number] = shard
    for count, found in sorted(divisions.items()):
        if len(found) == count:
            return [found[number] for number in range(1, count + 1)]
    count, found = max(divisions.items(), key=lambda item: len(item[1]) / item[0], default=(None, {}))
    missing = next((number for number in range(1, count + 1) if number not in found), None) if count else None
    text = "{} of {} shards of these annotations are in {}: run python -m tasks.preprocess --shard {}/{} first"
    raise UserError(text.format(len(found), count or "N", os.path.join(root, masks.FOLDER), missing or "I", count or "N"))


def _notes(root):
    folder = os.path.join(root, masks.FOLDER)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(os.path.join(folder, name) for name in names if re.fullmatch(r"shard-\d+-of-\d+\.jsonl", name))


def _stale(context):
    """Return what would be read instead of the PNGs."""
    root = context.config.data.root
    paths = [masks.store_path(root, split) for split in SPLITS] if context.config.data.mask_store == "png" else []
    return [path for path in paths if os.path.exists(path)]


def _withdraw_incomplete_index(root):
    """Remove the index where a PNG that it lists is missing: the step's outputs are then not what its last success left."""
    try:
        index = files.read_json(_index_file(root))
        listed = {split: set(index[split]) for split in SPLITS}
    except (OSError, ValueError, TypeError, KeyError):  # absent or damaged: not what the last success left, which the step sees by itself
        return
    there = masks.found(root)
    missing = sum(len(listed[split] - there[split, kind]) for split in SPLITS for kind in masks.KINDS)
    if missing:
        log.info("preprocess: masks that are missing and will be made again: %d", missing)
        with _disk(_index_file(root)):
            os.unlink(_index_file(root))


@contextlib.contextmanager
def _disk(path):
    """A full or read-only disk is the user's to mend. path: what is being written."""
    try:
        yield
    except OSError as error:
        text = "{} cannot be written: {}; free space or permissions are needed, or another data.root"
        raise UserError(text.format(error.filename or path, error.strerror or error)) from None


def _annotation_file(root, split):
    return os.path.join(root, "annotations", "person_keypoints_{}2017.json".format(split))


def _index_file(root):
    return os.path.join(root, masks.FOLDER, "index.json")


def arguments(parser):
    """Add what only preprocessing takes."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--shard", type=_shard, metavar="I/N", help="prepare the I-th of N parts of the images only, I from 1 to N")
    which.add_argument("--merge", action="store_true", help="join all shards: COCO.json and the masks")


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
