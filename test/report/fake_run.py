"""A run directory as training leaves it, and a predictor that sees what was drawn into an image, so that a report can be made without training."""

import hashlib
import json
import os

import cv2
import numpy as np

from mtc import config as configuration
from mtc import files, upsample
from mtc.data.sample import Camera, Sample
from mtc.skeleton import SKELETONS

SIDE = 160
SMALL = ("train.steps=60", "model.crop=64", "report.samples=60", "report.pictures=2")


def config(*overrides):
    """The demo's config with small numbers."""
    return configuration.load("demo", SMALL + overrides)


def start(step=0, resumed=False, **more):
    line = {
        "v": 1,
        "kind": "start",
        "time": 1.6e9,
        "step": step,
        "uid": "abc",
        "resumed": resumed,
        "snapshot": None,
        "parameters": 123456,
        "dead_terms": [],
    }
    line.update(
        versions={"python": "3.7.16", "tensorflow": "1.15.0", "numpy": "1.21.6", "opencv": "4.5.0", "mtc": "0.1.0"},
        device={"name": "CPU", "kind": "cpu"},
    )
    return dict(line, **more)


def train(step, **more):
    """A step of a run that learns; baselines do not move."""
    rng = np.random.RandomState(step)
    loss_2d, loss_pof = (0.010 * np.exp(-step / 30.0) + 0.001) * rng.uniform(0.7, 1.4), (0.05 * np.exp(-step / 40.0) + 0.02) * rng.uniform(0.8, 1.2)
    line = {
        "v": 1,
        "kind": "train",
        "step": step,
        "loss": loss_2d + loss_pof,
        "loss_2d": loss_2d,
        "loss_pof": loss_pof,
        "baseline_2d": 0.01 * rng.uniform(0.8, 1.2),
    }
    line.update(baseline_pof=0.07 * rng.uniform(0.9, 1.1), lr=1e-3 if step <= 40 else 3e-4, seconds=0.5, time=1.6e9 + step)
    line.update(sample=8 * (step - 1), ids="{:08x}".format(step), grad_norm=0.1)
    return dict(line, **more)


def without_numbers(step):
    """A step that was skipped, and the line that says where its batch is."""
    numbers = dict.fromkeys(("loss", "loss_2d", "loss_pof", "grad_norm"))
    fault = {"v": 1, "kind": "skipped", "step": step, "names": ["a.jpg"], "path": "/elsewhere/run/faults/step-{:08d}".format(step)}
    return [train(step, skipped=True, **numbers), fault]


def evaluation(step, score, best=False):
    """A held-out evaluation during training."""
    return {"v": 1, "kind": "evaluation", "step": step, "metric": "pck", "score": score, "samples": 50, "best": best}


def bad_sample(step, name, source="coco", reason="cannot be decoded"):
    """A sample that was replaced."""
    return {"v": 1, "kind": "bad_sample", "step": step, "source": source, "name": name, "reason": reason}


def journal(run_dir, lines):
    """Write metrics.jsonl; a line that is text goes in as it is."""
    os.makedirs(run_dir, exist_ok=True)
    with open(os.path.join(run_dir, "metrics.jsonl"), "w") as f:
        f.write("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))


def checkpoint(run_dir, step):
    """Write a checkpoint's directory and return its path."""
    path = os.path.join(run_dir, "checkpoints", "step-{:08d}".format(step))
    os.makedirs(path)
    parts = {"model.data-00000-of-00001": os.urandom(1) * 5000, "model.index": b"index", "state.json": b'{"bundle": "model"}'}
    for name, data in parts.items():
        files.write_bytes(os.path.join(path, name), data)
    digests = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in parts.items()}
    files.write_json(os.path.join(path, "MANIFEST.json"), {"v": 1, "step": step, "files": digests})
    return path


def finished(run_dir, steps=60, after=None, end=None, **start_facts):
    """A clean run from the first step to the last, its two checkpoints uploaded.

    after: {step: lines that follow its own}; end: more for the last line.
    """
    lines = [start(**start_facts)]
    for step in range(1, steps + 1):
        lines.append(train(step, seconds=5.0 if step == 1 else 0.5))
        lines += (after or {}).get(step, [])
        if step in (steps // 2, steps):
            lines.append({"v": 1, "kind": "checkpoint", "step": step, "path": "x", "bytes": 5007, "seconds": 0.1, "stalled": 0.23, "copied": 0.2})
            lines.append({"v": 1, "kind": "upload", "step": step, "uri": "s3://bucket/demo/step-{:08d}".format(step), "seconds": 0.1})
            checkpoint(run_dir, step)
    journal(run_dir, lines + [dict({"v": 1, "kind": "end", "step": steps, "status": "success"}, **(end or {}))])
    return os.path.join(run_dir, "checkpoints", "step-{:08d}".format(steps))


def samples(folder, count, seed, kind="body", in_3d=False):
    """People whose joints lie anywhere, on grey images."""
    skeleton, rng = SKELETONS[kind], np.random.RandomState(seed)
    camera = Camera(np.array([[200.0, 0, SIDE / 2], [0, 200.0, SIDE / 2], [0, 0, 1]]), np.eye(3), np.zeros(3), np.zeros(5))
    made = []
    for n in range(count):
        xyz = np.concatenate([rng.uniform(-60, 60, (len(skeleton.joints), 2)), rng.uniform(180, 220, (len(skeleton.joints), 1))], axis=1)
        uv = xyz[:, :2] / xyz[:, 2:] * 200 + SIDE / 2 if in_3d else xyz[:, :2] + SIDE / 2
        image = np.full((SIDE, SIDE, 3), 128, np.uint8)
        path = os.path.join(str(folder), "{}_{:03d}.png".format(kind, seed * 1000 + n))
        cv2.imwrite(path, image)
        box = np.concatenate([uv.min(axis=0), np.ptp(uv, axis=0)]).astype(np.float32)
        valid = rng.uniform(size=len(uv)) < 0.9
        made.append(
            Sample(
                os.path.basename(path) + "#0",
                path,
                None,
                uv.astype(np.float32),
                valid,
                np.zeros((0, 4), np.int32),
                box,
                xyz if in_3d else None,
                camera if in_3d else None,
            )
        )
    return made


def predictor(truth, skeleton, noise):
    """Return a stand-in for `network.Predictor`: peaks `noise` pixels off the joints of `truth`, which are asked for in order; untrained, nothing.

    truth: (N, J, 2), pixels of the crop.
    """

    class Predictor:
        def __init__(self, config, checkpoint):
            self.cells, self.asked, self.checkpoint = config.model.crop // 8, 0, checkpoint
            self.inverse = np.linalg.pinv(upsample.matrix(self.cells).astype(np.float64))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def maps(self, images):
            shape = (len(images), self.cells, self.cells)
            heat = np.zeros(shape + (skeleton.heat_channels,), np.float32)
            pof = np.zeros(shape + (skeleton.pof_channels,), np.float32)
            if self.checkpoint:
                grid, rng = np.arange(8 * self.cells), np.random.RandomState(self.asked)
                for i in range(len(images)):
                    for j, (x, y) in enumerate(truth[self.asked + i] + rng.normal(0, noise, truth.shape[1:])):
                        peak = np.exp(-(np.square(grid[None, :] - x) + np.square(grid[:, None] - y)) / 50.0)
                        heat[i, :, :, j] = self.inverse @ peak @ self.inverse.T
                pof[..., 2::3] = 1
            self.asked += len(images)
            return heat, pof

    return Predictor
