"""Compares this code with the reference's numbers: `python -m test.parity --golden DIR`.

One line a file: the largest error and its bound. Exit code 1 where a file does not match or cannot be checked, 2 where the folder is
missing. The folder holds outputs of the reference (numbers only): targets_*.npz, loss_*.npz, net_*.npz, upsample_*.npz, coco_crops*.npz,
crop3d*.npz and variables*.json.
"""

import argparse
import fnmatch
import json
import os
import sys
import zlib
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow.compat.v1 as tf

from mtc import targets, upsample
from mtc.data import crop
from mtc.data.sample import Camera, Sample
from mtc.geometry import project
from mtc.losses import full_resolution, low_resolution, terms
from mtc.nets import cpm
from mtc.sections import Config
from mtc.skeleton import BODY, HAND

SIGMA, LIMB_WIDTH = 7.0, 8.0


def check_targets(path):
    """Heat-maps and POF from joints: exact up to 1e-6."""
    z = np.load(path)
    skeleton = _skeleton(joints=len(z["uv"]))
    xyz = z["xyz"] if "xyz" in z.files else np.concatenate([z["uv"], np.zeros_like(z["uv"][:, :1])], axis=1)
    size = z["heat"].shape[0]
    with tf.Graph().as_default(), _session() as session:
        heat = targets.heatmaps(tf.constant(z["uv"][None]), tf.constant(z["valid"][None]), size, SIGMA)
        pof = targets.orientation_fields(
            tf.constant(z["uv"][None]), tf.constant(xyz[None]), tf.constant(z["valid"][None]), skeleton.limbs, size, LIMB_WIDTH
        )
        heat, pof = session.run([heat, pof])
    return [_absolute("heat", heat[0], z["heat"], 1e-6), _absolute("pof", pof[0], z["pof"], 1e-6)]


def check_upsample(path):
    """Legacy bicubic enlargement."""
    z = np.load(path)
    a = upsample.matrix(z["x"].shape[1])
    with tf.Graph().as_default(), _session() as session:
        y = session.run(upsample.upsample(tf.constant(z["x"]), a))
    return [_relative("y", y, z["y"], 1e-5)]


def check_loss(path):
    """The loss of a batch and its gradient with respect to every stage's answer."""
    z = np.load(path)
    folder = os.path.dirname(path)
    skeleton = _skeleton(joints=z["valid"].shape[1])
    ignore_2d = "ignore" in os.path.basename(path)
    names = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if fnmatch.fnmatch(name, "targets_*.npz")]
    of_kind = [np.load(name) for name in names]
    of_kind = [t for t in of_kind if len(t["uv"]) == len(skeleton.joints)]
    three_d, two_d = [t for t in of_kind if "xyz" in t.files], [t for t in of_kind if "xyz" not in t.files]
    batch = [(three_d if flag else two_d).pop(0) for flag in z["pof_is_3d"]]
    uv = np.stack([t["uv"] for t in batch])
    xyz = np.stack([t["xyz"] if "xyz" in t.files else np.pad(t["uv"], ((0, 0), (0, 1)), "constant") for t in batch])
    with tf.Graph().as_default(), _session() as session:
        heats, pofs = [tf.constant(x) for x in z["pred_heat"]], [tf.constant(x) for x in z["pred_pof"]]
        maps = cpm.Maps(heat=heats, pof=pofs)
        labels = terms.Labels(*(tf.constant(x) for x in (uv, xyz, z["valid"], z["pof_is_3d"], z["mask"])))
        of = terms.Terms(skeleton, SIGMA, LIMB_WIDTH, skeleton.background_weight, pof_weight=1.0, ignore_2d=ignore_2d)
        targets_of_reference = [tf.constant(np.stack([t[key] for t in batch])) for key in ("heat", "pof")]
        with mock.patch.object(terms, "sum_pixels", _sum_as_the_reference):
            result = full_resolution.compare(maps, *targets_of_reference, labels, of)
        forms = {"in full": full_resolution.compare(maps, *targets_of_reference, labels, of), "fast": low_resolution.losses(maps, labels, of)}
        gradients = {name: tf.gradients(form.total, heats + pofs) for name, form in forms.items()}
        for found in gradients.values():
            found[:] = [tf.zeros_like(x) if g is None else g for g, x in zip(found, heats + pofs)]
        result, forms, gradients = session.run([result, forms, gradients])
    n = len(heats)
    checks = [
        _relative("loss", result.total, z["loss"], 1e-5),
        _relative("loss_2d", result.heat, z["loss_2d"], 1e-5),
        _relative("loss_pof", result.pof, z["loss_pof"], 1e-5),
    ]
    for name, form in forms.items():
        checks += [
            _relative("loss {}, exact sum".format(name), form.total, z["loss"], 1e-4),
            _relative("loss {} against in full".format(name), form.total, forms["in full"].total, 1e-5),
            _relative("grad_heat " + name, np.stack(gradients[name][:n]), z["grad_heat"], 1e-4),
            _relative("grad_pof " + name, np.stack(gradients[name][n:]), z["grad_pof"], 1e-4),
        ]
    return checks


def check_net(path):
    """Outputs of all stages with weights that follow from the variables' names."""
    z = np.load(path)
    skeleton = _skeleton(joints=z["heat"].shape[-1] - 1)
    with tf.Graph().as_default(), _session() as session:
        maps, _ = cpm.build(tf.constant(z["image"]), skeleton, stages=len(z["heat"]))
        initial = {v: v.initial_value for v in tf.trainable_variables()}
        feed = {value: _named_weights(v.op.name, v.shape.as_list()) for v, value in initial.items()}
        session.run([v.initializer for v in initial], feed)
        heat, pof = session.run([maps.heat, maps.pof])
    return [_relative("heat", np.stack(heat), z["heat"], 1e-4), _relative("pof", np.stack(pof), z["pof"], 1e-4)]


def check_variables(path):
    """Names, shapes and order of the variables."""
    with open(path, encoding="utf-8") as f:
        expected = json.load(f)
    results = []
    for kind, listed in sorted(expected.items()):
        skeleton = {"body": BODY, "hand": HAND}[kind]
        with tf.Graph().as_default():
            cpm.build(tf.zeros([1, 64, 64, 3]), skeleton)
            made = [[v.op.name, v.shape.as_list()] for v in tf.trainable_variables()]
        wrong = sum(a != b for a, b in zip(made, listed)) + abs(len(made) - len(listed))
        results.append((kind, float(wrong), 0.0))
    return results


def check_coco_crops(path):
    """The crop of a person labelled in 2D, without jitter."""
    z = np.load(path)
    errors = {"center": 0.0, "scale": 0.0, "local": 0.0}
    for body, valid, center, scale, local in zip(z["body"], z["valid"], z["center"], z["scale"], z["local"]):
        sample = Sample(name="", image="", mask=None, uv=body, valid=valid, others=np.zeros((0, 4), np.int32), box=np.zeros(4, np.float32))
        found = crop.crop_2d(sample, size=368, config=Config(), skeleton=BODY)
        errors["center"] = max(errors["center"], np.abs(found.center - center).max())
        errors["scale"] = max(errors["scale"], abs(found.scale - scale) / scale)
        errors["local"] = max(errors["local"], np.abs((body - found.center) * found.scale + 184 - local)[valid].max())
    return [("center px", errors["center"], 1e-3), ("scale", errors["scale"], 1e-5), ("local px", errors["local"], 2e-3)]


def check_crop3d(path):
    """The crop of a person labelled in 3D, without jitter and distortion."""
    z = np.load(path)
    camera = Camera(K=z["K"].astype(np.float64), R=np.eye(3), t=np.zeros(3), distortion=np.zeros(5))
    sample = Sample(
        name="",
        image="",
        mask=None,
        uv=z["uv"],
        valid=z["valid"],
        others=np.zeros((0, 4), np.int32),
        box=np.zeros(4, np.float32),
        xyz=z["xyz"],
        camera=camera,
    )
    found = crop.crop_3d(sample, size=368, config=Config(), skeleton=BODY)
    return [
        ("center2d px", np.abs(found.center - z["center2d"]).max(), 1e-3),
        ("scale2d", abs(found.scale - z["scale2d"]) / z["scale2d"], 1e-5),
        ("center3d", np.abs(found.center3d - z["center3d"]).max(), 1e-3),
        ("scale3d", abs(found.scale3d - z["scale3d"]) / z["scale3d"], 1e-5),
        ("uv px", np.abs(project(z["xyz"], camera) - z["uv"])[z["valid"]].max(), 1e-2),
    ]


CHECKS = (
    ("targets_*.npz", check_targets),
    ("loss_*.npz", check_loss),
    ("net_*.npz", check_net),
    ("upsample_*.npz", check_upsample),
    ("coco_crops*.npz", check_coco_crops),
    ("crop3d*.npz", check_crop3d),
    ("variables*.json", check_variables),
)


def compare(path):
    """Return [(what, error, bound)] of one golden file, or None where no check fits its name."""
    for pattern, check in CHECKS:
        if fnmatch.fnmatch(os.path.basename(path), pattern):
            return check(path)
    return None


def golden_files(folder):
    """Paths of all files of numbers in a folder."""
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith((".npz", ".npy", ".json"))]


def main(argv=None):
    """Print a line a file and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m test.parity", description=__doc__.partition("\n")[0])
    parser.add_argument("--golden", default=os.path.join("..", "shared", "golden"), metavar="DIR")
    folder = parser.parse_args(argv).golden
    if not os.path.isdir(folder) or not golden_files(folder):
        print("error: {}: no folder with golden numbers (*.npz, *.json)".format(folder), file=sys.stderr)
        return 2
    print("TensorFlow {}, Python {}, numpy {}: {}".format(tf.__version__, sys.version.split()[0], np.__version__, folder))
    failed = 0
    for path in golden_files(folder):
        try:
            results = compare(path)
            problem = "no check for a file of this name" if results is None else ""
        except Exception as error:  # a file that cannot be compared is a mismatch, and the others are still checked
            results, problem = None, "{}: {}".format(type(error).__name__, error)
        good = results is not None and all(error <= bound for _, error, bound in results)
        failed += not good
        if results:
            what, error, bound = max(results, key=_of_bound)
            problem = "largest error {:.1e} of {:.0e} allowed ({})".format(error, bound, what)
        print("{:4}  {:26} {}".format("ok" if good else "FAIL", os.path.basename(path), problem))
    return 1 if failed else 0


def _of_bound(result):
    """How much of its bound an error takes; what is no number comes first."""
    _, error, bound = result
    return float("inf") if np.isnan(error) else error / bound if bound else error


def _session():
    """A session that does not fold constants first: here all inputs are constants, and folding would compute everything twice."""
    config = tf.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    config.graph_options.optimizer_options.opt_level = tf.OptimizerOptions.L0
    return tf.Session(config=config)


def _skeleton(joints):
    return {len(s.joints): s for s in (BODY, HAND)}[joints]


def _sum_as_the_reference(x):
    """One float32 accumulator over all pixels, as TensorFlow 1.15 on the CPU: it alone puts the reference's losses up to 4e-5 away from the
    exact sum."""

    def accumulate(values):
        return np.cumsum(values.reshape(len(values), -1, values.shape[-1]), axis=1, dtype=np.float32)[:, -1]

    total = tf.py_func(accumulate, [x], tf.float32)
    total.set_shape([x.shape[0], x.shape[-1]])
    return total


def _named_weights(name, shape):
    values = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF).standard_normal(int(np.prod(shape))).reshape(shape)
    scale = np.sqrt(2.0 / np.prod(shape[:3])) if len(shape) == 4 else 0.01
    return (values * scale).astype(np.float32)


def _absolute(what, found, expected, bound):
    return what, _largest(found - expected), bound


def _relative(what, found, expected, bound):
    """Error over the largest magnitude of the expected values."""
    largest = np.abs(expected).max()
    return what, _largest(np.asarray(found, np.float64) - expected) / (largest if largest else 1.0), bound


def _largest(difference):
    """The largest magnitude; infinite where a number is not one, so that no bound holds."""
    return float(np.abs(difference).max()) if np.isfinite(difference).all() else float("inf")


if __name__ == "__main__":
    sys.exit(main())
