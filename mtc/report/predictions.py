"""A step's answers to held-out samples, for people: a contact sheet, and the skeletons in space as numbers for a page that turns them.

`sheet.jpg` has a row a sample: the labels, the answer, the heat-maps, the part orientation fields. `skeletons.json`, written last, has
{"v", "step", "joints", "edges", "samples": [{"name", "joints": [[x, y, z] or null], "scores"}]} with joints in pixels of the crop as `decode.lift`
gives them.
"""

import os
import re
import shutil

import numpy as np

from mtc import files, upsample
from mtc.evaluation import decode
from mtc.report import contact_sheet, pictures
from mtc.training import checkpoints

SHEET, SKELETONS_FILE = "sheet.jpg", "skeletons.json"
FAINTEST = 0.3
"""Length of a field's vector below which nothing is drawn: targets have 0 or 1."""
SHOWN_SCORE = 0.1
"""Height of a joint's peak below which its joint is not drawn."""
_NAME = re.compile(r"step-\d{8,}")


def folder(run_dir):
    """Where a run's previews are."""
    return os.path.join(run_dir, "previews")


def write(run_dir, title, step, truth, images, heat, pof, skeleton, keep):
    """Draw and write `previews/step-…/`, and remove all but the newest `keep` of them. Returns the directory. Errors: OSError.

    truth: `mtc.evaluation.held_out.Truth` of the samples; images: (B, S, S, 3) uint8; heat, pof: (B, n, n, …) float32, the network's answer.
    """
    uv, scores = decode.keypoints(heat)
    scores = np.where(np.isfinite(scores), scores, 0.0)
    found = scores >= SHOWN_SCORE
    xyz = decode.lift(uv, decode.limb_fields(pof, uv, skeleton.limbs), skeleton.limbs)
    a = upsample.matrix(heat.shape[1])
    rows = []
    for i, image in enumerate(images):
        fields = _strongest(_enlarged(pof[i], a))
        panels = [
            pictures.draw(image, truth.uv[i], truth.valid[i], skeleton),
            pictures.draw(image, uv[i], found[i], skeleton),
            contact_sheet.heat_panel(image, np.clip(_enlarged(heat[i, :, :, :-1], a), 0, 1)),
            contact_sheet.direction_panel(image, fields),
            contact_sheet.depth_panel(image, fields),
        ]
        caption = "{}:  {} of {} joints answered".format(truth.names[i], int(found[i].sum()), len(skeleton.joints))
        rows.append(contact_sheet.Row(caption, panels, {}))
    columns = [
        contact_sheet.Column("labels", contact_sheet.skeleton_legend(skeleton)),
        contact_sheet.Column("answer"),
        contact_sheet.Column("heat-maps", contact_sheet.heat_legend()),
        contact_sheet.Column("POF: x and y", contact_sheet.direction_legend()),
        contact_sheet.Column("POF: z", contact_sheet.depth_legend()),
    ]
    sheet = contact_sheet.sheet(title, "what the network answers on held-out samples after step {:,}".format(step), columns, rows)
    directory = os.path.join(folder(run_dir), checkpoints.name_of(step))
    files.write_bytes(os.path.join(directory, SHEET), pictures.encoded(sheet, ".jpg"), durable=False)
    samples = [
        {
            "name": truth.names[i],
            "joints": [[round(float(c), 2) for c in place] if ok and np.isfinite(place).all() else None for place, ok in zip(xyz[i], found[i])],
            "scores": [round(float(score), 4) for score in scores[i]],
        }
        for i in range(len(images))
    ]
    document = {"v": 1, "step": step, "kind": skeleton.kind, "joints": list(skeleton.joints), "edges": [list(edge) for edge in skeleton.edges]}
    files.write_json(os.path.join(directory, SKELETONS_FILE), dict(document, samples=samples), indent=None)
    for name in sorted((n for n in os.listdir(folder(run_dir)) if _NAME.fullmatch(n)), key=checkpoints.step_of)[:-keep]:
        shutil.rmtree(os.path.join(folder(run_dir), name), ignore_errors=True)
    return directory


def _enlarged(maps, a):
    """Return (S, S, C) of maps (n, n, C)."""
    return np.einsum("yi,ijc,xj->yxc", a, maps, a, optimize=True)


def _strongest(fields):
    """Return fields (S, S, 3 L) with, at each pixel, the longest limb's vector alone, made a unit vector, and none that is faint or no number."""
    vectors = np.nan_to_num(fields.reshape(fields.shape[:2] + (-1, 3)))
    length = np.linalg.norm(vectors, axis=-1)
    shown = (length == length.max(axis=-1, keepdims=True)) & (length >= FAINTEST)
    return (vectors / np.maximum(length, 1e-6)[..., None] * shown[..., None]).reshape(fields.shape)
