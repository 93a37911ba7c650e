"""Held-out accuracy: what a network answers on people that it was not trained on, beside answers that need no training.

One pass over the samples for each network, in batches, so that nothing but joints is kept in memory. All answers are judged on the same crops, made
without jitter.
"""

from typing import List, NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from mtc import skeleton as skeletons
from mtc.data import crop, readers
from mtc.evaluation import baselines, decode, metrics, network

THRESHOLDS = (0.1, 0.2)
BATCH = 8


class Truth(NamedTuple):
    """The labels of the held-out samples' crops."""

    names: List[str]
    uv: np.ndarray
    """(N, J, 2) float32, pixels of the crop."""
    xyz: np.ndarray
    """(N, J, 3) float32, camera frame; without meaning where `is_3d` is false."""
    valid: np.ndarray
    """(N, J) bool."""
    is_3d: np.ndarray
    """(N,) bool."""
    yardstick: np.ndarray
    """(N,) float32 pixels of the crop."""


class Answer(NamedTuple):
    """What a network says about them."""

    uv: np.ndarray
    """(N, J, 2) float32."""
    scores: np.ndarray
    """(N, J) float32: heights of the peaks."""
    fields: np.ndarray
    """(N, L, 3) float32: the part orientation field along each labelled limb."""


class Picture(NamedTuple):
    """A held-out crop with its labels and the trained network's answer."""

    name: str
    image: np.ndarray
    """(S, S, 3) uint8 RGB."""
    truth: np.ndarray
    predicted: np.ndarray
    valid: np.ndarray
    hits: int
    """Valid joints within 0.1 of the yardstick."""


class Evaluation(NamedTuple):
    """All that the report says about accuracy."""

    figures: dict
    """JSON-able; see `evaluate`."""
    pictures: List[Picture]


def evaluate(config, bundle: Optional[str]):
    """Return the `Evaluation` of a checkpoint's Saver bundle, by its path prefix (None: nothing was saved, so only the baselines are judged).

    Figures: samples, pck, pck_joints, pck_curve, auc, epe, pck_gain, pof (None without held-out 3D samples). The answers that are judged are called
    trained, untrained and mean_pose.
    """
    skeleton = skeletons.SKELETONS[config.model.kind]
    training = [sample for samples in readers.training(config).values() for sample in samples]
    held_out = readers.held_out(config)
    samples = baselines.evenly(held_out, config.report.samples)
    figures = {"samples": {"held_out": len(samples), "held_out_available": len(held_out), "training": len(training)}}
    if not samples:
        return Evaluation(figures, [])
    truth = read_truth(samples, config, skeleton)
    answers = {"trained": answer(samples, truth, config, skeleton, bundle, "trained network") if bundle else None}
    answers["untrained"] = answer(samples, truth, config, skeleton, None, "untrained network")
    predicted = {name: found.uv if found else None for name, found in answers.items()}
    predicted["mean_pose"] = np.repeat(baselines.mean_pose(training, config=config, skeleton=skeleton)[None], len(samples), axis=0)
    figures.update(joint_figures(predicted, truth, skeleton))
    figures["pof"] = limb_figures(answers, truth, baselines.mean_directions(training, skeleton=skeleton), skeleton)
    if answers["trained"]:
        figures["non_finite_joints"] = int((~np.isfinite(answers["trained"].scores)).sum())
    return Evaluation(figures, _pictures(samples, truth, answers["trained"], config, skeleton))


def read_truth(samples, config, skeleton):
    """Return the `Truth` of samples' crops."""
    examples = [crop.label_sample(sample, size=config.model.crop, config=config, skeleton=skeleton)[1] for sample in samples]
    stacked = [np.stack([np.asarray(getattr(e, key)) for e in examples]) for key in ("uv", "xyz", "valid", "is_3d", "yardstick")]
    return Truth([e.name for e in examples], *stacked)


def chosen(config, skeleton, most):
    """Return (`Truth`, crops (N, S, S, 3) uint8) of at most `most` held-out samples, evenly spaced, to look at again and again.

    Errors: UserError where there are none, or a file cannot be read.
    """
    samples = baselines.evenly(readers.held_out(config), most)
    return read_truth(samples, config, skeleton), np.stack([crop_of(sample, config, skeleton).image for sample in samples])


def asked(answer, images, batch):
    """Return answer(images) of a network that takes exactly `batch` crops: at most as many are filled up with the last one, and left out again.

    answer: function from (batch, S, S, 3) uint8 crops to its [heat, pof] maps of the last stage.
    """
    full = np.concatenate([images, np.repeat(images[-1:], batch - len(images), axis=0)])
    return [maps[: len(images)] for maps in answer(full)]


def answer(samples, truth, config, skeleton, bundle, title):
    """Return the `Answer` of the network of a Saver bundle (None: of initial weights) to the samples."""
    uv, scores, fields = [], [], []
    with network.Predictor(config, bundle) as predictor:
        for start in tqdm(range(0, len(samples), BATCH), desc=title, unit="batch", disable=None, leave=False):
            part = slice(start, start + BATCH)
            images = np.stack([crop_of(sample, config, skeleton).image for sample in samples[part]])
            heat, pof = predictor.maps(images)
            found = decode.keypoints(heat)
            uv.append(found[0])
            scores.append(found[1])
            fields.append(decode.limb_fields(pof, truth.uv[part], skeleton.limbs))
    return Answer(np.concatenate(uv), np.concatenate(scores), np.concatenate(fields))


def joint_figures(predicted, truth, skeleton):
    """Return pck, pck_joints, pck_curve, auc, epe and pck_gain of named predictions (N, J, 2); a prediction that is None gets None."""
    labels = (truth.uv, truth.valid, truth.yardstick)
    known = {name: uv for name, uv in predicted.items() if uv is not None}
    total = {name: metrics.pck(uv, *labels, thresholds=THRESHOLDS) for name, uv in known.items()}
    joint = {name: metrics.pck_by_joint(uv, *labels, thresholds=THRESHOLDS) for name, uv in known.items()}
    curve = {name: metrics.pck(uv, *labels, thresholds=metrics.CURVE) for name, uv in known.items()}
    figures = {
        "pck": {name: _by_threshold(total[name]) if name in known else None for name in predicted},
        "pck_joints": {},
        "pck_curve": {name: [float(x) for x in values] for name, values in curve.items()},
        "auc": {name: metrics.auc(values) for name, values in curve.items()},
        "epe": {name: metrics.epe(uv, *labels) for name, uv in known.items()},
        "pck_gain": None,
    }
    figures["pck_curve"]["thresholds"] = [round(float(x), 4) for x in metrics.CURVE]
    for j, title in enumerate(skeleton.joints):
        figures["pck_joints"][title] = {"labelled": int(truth.valid[:, j].sum())}
        figures["pck_joints"][title].update({name: _by_threshold(values[:, j]) for name, values in joint.items()})
    if "trained" in known:
        gain, low, high = metrics.pck_gain(known["trained"], known["mean_pose"], *labels, threshold=THRESHOLDS[0])
        figures["pck_gain"] = {"over": "mean_pose", "threshold": str(THRESHOLDS[0]), "gain": gain, "low": low, "high": high}
    return figures


def limb_figures(answers, truth, mean_directions, skeleton):
    """Return the mean angle in degrees between fields and true 3D directions over 3D samples, in all and a limb; None where there is no such limb."""
    directions, known = metrics.limb_directions(truth.xyz, truth.valid, skeleton.limbs)
    known &= truth.is_3d[:, None]
    if not known.any():
        return None
    fields = {name: found.fields for name, found in answers.items() if found}
    fields["mean_direction"] = np.broadcast_to(mean_directions, directions.shape)
    off = {name: metrics.angles(values, directions) for name, values in fields.items()}
    figures = {"unit": "degrees", "samples": int(known.any(axis=1).sum()), "limbs": {}}
    figures.update({name: float(values[known].mean()) for name, values in off.items()})
    for k, (start, end) in enumerate(skeleton.limbs):
        if known[:, k].any():
            title = "{}-{}".format(skeleton.joints[start], skeleton.joints[end])
            figures["limbs"][title] = {name: float(values[known[:, k], k].mean()) for name, values in off.items()}
    return figures


def _pictures(samples, truth, trained, config, skeleton):
    """Return the `Picture`s of evenly spaced samples."""
    if trained is None:
        return []
    pictures = []
    for i in baselines.evenly(range(len(samples)), config.report.pictures):
        near = metrics.distances(trained.uv[i], truth.uv[i]) <= THRESHOLDS[0] * truth.yardstick[i]
        image = crop_of(samples[i], config, skeleton).image
        hits = int((near & truth.valid[i]).sum())
        pictures.append(Picture(truth.names[i], image, truth.uv[i], trained.uv[i], truth.valid[i], hits))
    return pictures


def crop_of(sample, config, skeleton):
    """Return the `Example` of a sample with nothing left to chance."""
    return crop.crop_sample(sample, size=config.model.crop, config=config, skeleton=skeleton, rng=None)


def _by_threshold(values):
    return {str(threshold): float(value) for threshold, value in zip(THRESHOLDS, values)}
