"""Reads a run's metrics.jsonl: what happened in the end, whatever crashed and was repeated on the way.

The journal is only ever appended to. A crash can tear its last line; a resumed run repeats the steps after its checkpoint. So a line that is no JSON
is counted and left out, and a start at step N, or a step that comes again, takes back everything recorded after it: the later line counts. Numbers
that were none are null, NaN here.
"""

import json
import os
from typing import Any, Dict, List, NamedTuple, Optional, Set

import numpy as np

from mtc import files
from mtc.errors import UserError

VERSION = 1
KINDS = (
    "start", "train", "checkpoint", "upload", "upload_removed", "evaluation", "skipped", "overflow", "bad_sample", "non_finite", "control", "end",
)  # fmt: skip
"""Lines of other kinds say nothing that the report shows."""

COLUMNS = ("loss", "loss_2d", "loss_pof", "baseline_2d", "baseline_pof", "lr", "seconds", "waited", "loss_scale")


class History(NamedTuple):
    """A run as its journal tells it."""

    steps: np.ndarray
    """(n,) int64, ascending: the steps that count."""
    columns: Dict[str, np.ndarray]
    """(n,) float64 for each of `COLUMNS`; NaN where a line has no such number."""
    first_of_start: np.ndarray
    """(n,) bool: the first step after a start, which pays for graph building and warm-up."""
    skipped: np.ndarray
    """(n,) bool: the steps that changed nothing, their loss or gradient being no number."""
    starts: List[Dict[str, Any]]
    """The start lines, in order."""
    checkpoints: Dict[int, Dict[str, Any]]
    """The checkpoint line of each step that one was saved at."""
    uploads: Dict[int, Dict[str, Any]]
    """The upload line of each step whose checkpoint, in its last form, was uploaded and is still there."""
    removed: Set[int]
    """Steps whose checkpoint was uploaded, and removed again by the storage's retention."""
    evaluations: Dict[int, Dict[str, Any]]
    """The evaluation line of each step after which held-out samples were evaluated."""
    faults: Dict[int, Dict[str, Any]]
    """The line of each step that was skipped: where its batch is."""
    overflows: Set[int]
    """The steps that changed no weight, their gradient having overflowed with the loss scale."""
    bad_samples: List[Dict[str, Any]]
    """The line of each sample that could not be used and was replaced; each sample once."""
    controls: List[Dict[str, Any]]
    """What was asked for while it trained, and done: a line each, in order. A later start takes none of them back."""
    non_finite: Optional[Dict[str, Any]]
    """The line of the step whose loss or gradient ended the last start, or None."""
    end: Optional[Dict[str, Any]]
    """The end line of the last start, or None where the run is going on or broke off."""
    repeated: int
    """Steps that were trained more than once."""
    damaged: int
    """Lines in the middle that are no JSON object."""


def read(path):
    """Return the `History` of a metrics.jsonl. Errors: UserError where there is none, it is of a later version, or holds no step."""
    rows, first, skipped, starts = [], [], [], []
    checkpoints, uploads, removed, evaluations, faults, overflows, bad = {}, {}, {}, {}, {}, {}, {}
    controls, end, non_finite, expect_first, repeated, damaged, torn = [], None, None, True, 0, 0, False
    for line in _lines(path):
        damaged += torn  # a bad line is the torn last one only as long as none follows
        record = _parse(line)
        torn = record is None
        if torn:
            continue
        if record.get("v", VERSION) != VERSION:
            raise UserError(
                "{}: lines of version {}, this program reads version {}: use the release that trained the run".format(path, record["v"], VERSION)
            )
        kind, step = record.get("kind"), record.get("step")
        if kind not in KINDS:
            continue
        if not isinstance(step, int):
            damaged += 1
        elif kind == "train":
            while rows and rows[-1][0] >= step:
                for column in (rows, first, skipped):
                    column.pop()
                repeated += 1
            rows.append((step,) + tuple(_number(record.get(key)) for key in COLUMNS))
            first.append(expect_first)
            skipped.append(bool(record.get("skipped")))
            expect_first = False
        elif kind == "start":
            while rows and rows[-1][0] > step:
                for column in (rows, first, skipped):
                    column.pop()
                repeated += 1
            for events in (checkpoints, uploads, removed, evaluations, faults, overflows, bad):
                for late in [key for key, event in events.items() if event["step"] > step]:
                    del events[late]
            starts.append(record)
            end, non_finite, expect_first = None, None, True
        elif kind == "checkpoint":
            checkpoints[step] = record
            uploads.pop(step, None)
            removed.pop(step, None)
        elif kind == "upload":
            uploads[step] = record
            removed.pop(step, None)
        elif kind == "upload_removed":
            uploads.pop(step, None)
            removed[step] = record
        elif kind == "evaluation":
            evaluations[step] = record
        elif kind == "skipped":
            faults[step] = record
        elif kind == "overflow":
            overflows[step] = record
        elif kind == "bad_sample":
            bad.setdefault((record.get("source"), record.get("name")), record)
        elif kind == "non_finite":
            non_finite = record
        elif kind == "control":
            controls.append(record)
        elif kind == "end":
            end = record
    if not rows:
        raise UserError("{} holds no training step: run python -m tasks.train with the same --config and --run-dir first".format(path))
    table = np.array(rows, np.float64)
    columns = {key: table[:, i + 1] for i, key in enumerate(COLUMNS)}
    return History(
        steps=table[:, 0].astype(np.int64),
        columns=columns,
        first_of_start=np.array(first),
        skipped=np.array(skipped),
        starts=starts,
        checkpoints=checkpoints,
        uploads=uploads,
        removed=set(removed),
        evaluations=evaluations,
        faults=faults,
        overflows=set(overflows),
        bad_samples=list(bad.values()),
        controls=controls,
        non_finite=non_finite,
        end=end,
        repeated=repeated,
        damaged=damaged,
    )


def digest(path):
    """Return the SHA-256 of a journal. Errors: UserError where there is none."""
    _check_exists(path)
    return files.sha256(path)


def _check_exists(path):
    if not os.path.isfile(path):
        raise UserError("{} does not exist: run python -m tasks.train with the same --config and --run-dir first".format(path))


def _lines(path):
    _check_exists(path)
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            for line in f:
                if line.strip():
                    yield line
    except OSError as error:
        raise UserError("{} cannot be read: {}".format(path, error.strerror or error)) from None


def _parse(line):
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _number(value):
    return float(value) if isinstance(value, (int, float)) else float("nan")
