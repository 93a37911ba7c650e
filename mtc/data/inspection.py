"""Looks at a data set before anything long starts: is all there, and can it be read?

Names and counts are compared for all images; files are opened for `LOOKED_AT` of each split, evenly spread: reading 19 GB takes as long as an epoch.
"""

import logging
import os
from typing import List

from mtc import files
from mtc.coco import annotations, masks, records
from mtc.data import image_files
from mtc.data.bad_samples import allowed
from mtc.errors import UserError
from mtc.fetch import manifest

log = logging.getLogger("mtc.doctor")

SPLITS = ("train", "val")
PUBLISHED = {"train": (118287, 64115), "val": (5000, 2693)}
"""Images of COCO 2017, and those with people (cocodataset.org; the second as counted by several publications)."""
LOOKED_AT = 300

_NAMED = 3


def inspect(root, max_bad_fraction, mask_kind="miss"):
    """Return what is in a data set, in a sentence. Errors: UserError with all that is wrong with it, and what to do."""
    if not os.path.isdir(os.path.join(root, "annotations")):
        return "to be fetched"
    faults: List[str] = []
    told, ids = [], {}
    official = _is_official(root)
    for split in SPLITS:
        index = annotations.index(os.path.join(root, "annotations", "person_keypoints_{}2017.json".format(split)))
        ids[split] = {image.id for image in index.images}
        told.append(_split(root, split, index, official, max_bad_fraction, faults))
        told[-1] += _prepared(root, split, index, mask_kind, faults)
    both = sorted(ids["train"] & ids["val"])
    if both:
        log.warning("%d images are in train2017 and val2017 (the first: %d): preprocessing leaves them out of train2017", len(both), both[0])
    if faults:
        raise UserError("; ".join(faults))
    return "; ".join(told) + (" (COCO 2017)" if official else "")


def _is_official(root):
    """Whether the images came from the official archives."""
    try:
        fetched = (files.read_json(os.path.join(root, "fetched.json")) or {}).get("archives", {})
    except ValueError:
        return False
    expected = {archive.path: archive.sha256 for archive in manifest.load("official")}
    return all(fetched.get(path, {}).get("sha256") == sha256 for path, sha256 in expected.items())


def _split(root, split, index, official, max_bad_fraction, faults):
    folder = os.path.join(root, split + "2017")
    try:
        there = {entry.name: entry for entry in os.scandir(folder)}
    except OSError as error:
        faults.append("{} cannot be read: {}; fetch it (python -m tasks.fetch coco)".format(folder, error.strerror or error))
        return ""
    pictures = sum(name.endswith(".jpg") for name in there)
    remedy = "bring them back (python -m tasks.fetch coco --force)"
    if official and (pictures, len(index.images)) != PUBLISHED[split]:
        text = "{} has {} images and {} with people in its annotations, COCO 2017 has {} and {}: {}"
        faults.append(text.format(folder, pictures, len(index.images), *PUBLISHED[split], remedy))
    missing, empty, sane = [], [], []
    for image in index.images:
        if image.file_name not in there:
            missing.append(image.file_name)
        elif not there[image.file_name].stat().st_size:
            empty.append(image.file_name)
        else:
            sane.append(image)
    for what, names in (("are missing", missing), ("are empty", empty)):
        if len(names) > allowed(max_bad_fraction, len(index.images)):
            faults.append("{} images with people {} in {} ({}): {}".format(len(names), what, folder, _named(names), remedy))
    looked_at, bad = sane[:: max(1, len(sane) // LOOKED_AT)], []
    for image in looked_at:
        try:
            found = image_files.read_image(os.path.join(folder, image.file_name))
            if (found.width, found.height) != (image.width, image.height):
                bad.append("{} has {} x {} pixels, annotated {} x {}".format(image.file_name, found.width, found.height, image.width, image.height))
        except UserError as error:
            bad.append(str(error))
    if len(bad) > allowed(max_bad_fraction, len(looked_at)):
        faults.append("{} of {} images of {} that were opened cannot be used ({}): {}".format(len(bad), len(looked_at), folder, _named(bad), remedy))
    findings = annotations.Findings()
    findings.merge(index.findings)
    with open(index.path, "rb") as f:
        step = max(1, len(index.images) // LOOKED_AT)
        for number in range(0, len(index.images), step):
            index.image(f, number, findings)
    for line in findings.lines():
        log.warning("%s: %s", index.path, line)
    if len(findings.damaged) > allowed(max_bad_fraction, index.annotations):
        faults.append("{}: {}: fetch the annotations again, or raise data.max_bad_fraction".format(index.path, "; ".join(findings.lines())))
    return "{}2017: {} images, {} with people ({} opened)".format(split, pictures, len(index.images), len(looked_at))


def _prepared(root, split, index, kind, faults):
    """Look at what preprocessing has made, if it has been here."""
    path = os.path.join(root, records.FILES[split])
    if not os.path.exists(path):
        return ", not prepared yet"
    names = {image.file_name for image in index.images}
    try:
        people = records.read_records(path)
        stored = masks.read_store(root, split, kind)
        wanted = sorted({person.file_name for person in people})
        if stored is None:
            found = masks.found(root)[split, kind]
            lacking = [name for name in wanted if int(name[:12]) not in found] if found else []
            for name in [name for name in wanted if int(name[:12]) in found][:: max(1, len(wanted) // LOOKED_AT)]:
                image_files.read_mask(os.path.join(root, masks.FOLDER, masks.file_name(split, kind, int(name[:12]))))
        else:
            lacking = [name for name in wanted if int(name[:12]) not in stored]
    except UserError as error:
        faults.append(str(error))
        return ""
    if lacking:
        faults.append("{} images of {} have no mask ({}): run python -m tasks.preprocess --force".format(len(lacking), path, _named(lacking)))
    strangers = [name for name in wanted if name not in names]
    if strangers:
        faults.append("{} speaks of images that are not annotated ({}): run python -m tasks.preprocess --force".format(path, _named(strangers)))
    return ", {} people to train on".format(len(people)) if split == "train" else ", {} people held out".format(len(people))


def _named(names):
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
