"""The loss at the network's resolution against its plain form: the same numbers, from operations that every device has."""

import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtc import config as configuration
from mtc import losses, targets
from mtc.losses import full_resolution, low_resolution, terms
from mtc.nets.cpm import Maps
from mtc.skeleton import BODY, HAND
from mtc.training import graph

SIGMA, LIMB_WIDTH = 7.0, 8.0

ON_THE_CORES = {
    "Abs", "Add", "AddN", "AddV2", "All", "BatchMatMulV2", "BroadcastTo", "Cast", "ConcatV2", "Const", "DivNoNan", "Equal", "Exp",
    "ExpandDims", "Fill", "Floor", "Greater", "GreaterEqual", "Identity", "Less", "LessEqual", "LogicalAnd", "MatMul", "Maximum", "Minimum",
    "Mul", "Neg", "NotEqual", "OnesLike", "Pack", "Pad", "Placeholder", "RealDiv", "Reciprocal", "Reshape", "Select", "SelectV2", "Shape",
    "Slice", "Split", "SplitV", "Sqrt", "SqrtGrad", "Square", "Squeeze", "StopGradient", "StridedSlice", "StridedSliceGrad", "Sub", "Sum",
    "Tile", "Transpose", "Unpack", "ZerosLike",
}  # fmt: skip
"""Kinds of operations that an Ascend 910 runs on its AI cores (vendor's operator lists, 2022)."""

OF_SHAPES = {"BroadcastGradientArgs", "ConcatOffset", "DynamicStitch", "FloorDiv", "FloorMod", "InvertPermutation", "Prod", "Range", "Rank"}
"""Arithmetic on shapes, which are static here: folded into constants before anything runs."""


def batch(skeleton, size, is_3d, mask="soft", seed=0):
    """Return random (uv, xyz, valid, is_3d, mask); some joints are outside, some on whole pixels, some limbs upright, level or of no length."""
    rng = np.random.RandomState(seed)
    uv = rng.uniform(-0.1 * size, 1.1 * size, (len(is_3d), len(skeleton.joints), 2)).astype(np.float32)
    uv[:, 4:8] = np.round(uv[:, 4:8])
    uv[:, 6, 0], uv[:, 7, 1], uv[:, 10] = uv[:, 5, 0], uv[:, 6, 1], uv[:, 9]
    z = rng.normal(0, 50, uv.shape[:2] + (1,)) * np.array(is_3d)[:, None, None]
    xyz = np.concatenate([uv, z], axis=2).astype(np.float32)
    made = {
        "soft": rng.uniform(0, 1, (len(is_3d), size, size)),
        "zero": np.zeros((len(is_3d), size, size)),
        "ones": np.ones((len(is_3d), size, size)),
    }
    return uv, xyz, rng.uniform(size=uv.shape[:2]) > 0.15, np.array(is_3d, bool), made[mask].astype(np.float32)


def answers(skeleton, size, count, stages=2, seed=1):
    rng = np.random.RandomState(seed)
    shape = (count, size // 8, size // 8)
    return [
        [rng.normal(0, 0.4, shape + (channels,)).astype(np.float32) for _ in range(stages)]
        for channels in (skeleton.heat_channels, skeleton.pof_channels)
    ]


def evaluate(form, skeleton, arrays, maps, **kinds):
    """Return (Losses, gradients by heat, gradients by pof)."""
    with tf.Graph().as_default(), tf.Session() as session:
        heat, pof = ([tf.constant(x) for x in stages] for stages in maps)
        kinds = dict({"background_weight": skeleton.background_weight, "pof_weight": 1.0, "ignore_2d": False}, **kinds)
        of = terms.Terms(skeleton, SIGMA, LIMB_WIDTH, **kinds)
        result = form.losses(Maps(heat=heat, pof=pof), terms.Labels(*(tf.constant(x) for x in arrays)), of)
        gradients = [tf.zeros_like(x) if g is None else g for g, x in zip(tf.gradients(result.total, heat + pof), heat + pof)]
        result, gradients = session.run([result, gradients])
    return result, np.stack(gradients[: len(heat)]), np.stack(gradients[len(heat) :])


def assert_equal(skeleton, arrays, maps, tolerance=1e-5, **kinds):
    plain, fast = (evaluate(form, skeleton, arrays, maps, **kinds) for form in (full_resolution, low_resolution))
    np.testing.assert_allclose(fast[0], plain[0], rtol=tolerance, atol=1e-12)
    for found, expected in zip(fast[1:], plain[1:]):
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    return plain[0]


@pytest.mark.parametrize("size", [32, 64, 104])
@pytest.mark.parametrize("ignore_2d", [True, False])
def test_mixed_2d_and_3d_samples_give_the_plain_loss_and_gradient(size, ignore_2d):
    is_3d = (True, False, True)
    plain = assert_equal(BODY, batch(BODY, size, is_3d), answers(BODY, size, 3), ignore_2d=ignore_2d)
    assert plain.pof > 0


@pytest.mark.parametrize("seed", range(4))
def test_2d_directions_give_the_plain_loss_and_gradient(seed):
    arrays = batch(BODY, 64, (False, False), seed=seed)
    assert assert_equal(BODY, arrays, answers(BODY, 64, 2), has_3d=False).pof > 0


def test_hands_give_the_plain_loss_with_bilinear_heat_maps_and_a_background_that_counts():
    assert HAND.heat_upsampling == "bilinear"
    assert HAND.background_weight == 1
    assert_equal(HAND, batch(HAND, 96, (True, True)), answers(HAND, 96, 2), has_2d=False)


def test_a_body_whose_background_counts_gives_the_plain_loss():
    assert_equal(BODY, batch(BODY, 64, (True,)), answers(BODY, 64, 1), background_weight=0.5)


@pytest.mark.parametrize("mask", ["zero", "ones"])
def test_masks_of_nothing_and_of_all_give_the_plain_loss(mask):
    plain = assert_equal(BODY, batch(BODY, 64, (True, False), mask=mask), answers(BODY, 64, 2))
    assert (plain.total == 0) == (mask == "zero")


def test_joints_of_nobody_give_the_plain_loss():
    uv, xyz, valid, is_3d, mask = batch(BODY, 64, (True, False))
    assert assert_equal(BODY, (uv, xyz, np.zeros_like(valid), is_3d, mask), answers(BODY, 64, 2)).total == 0


@pytest.mark.parametrize("form", [full_resolution, low_resolution])
def test_maps_that_are_no_numbers_give_a_loss_that_is_none(form):
    maps = answers(BODY, 64, 1)
    maps[0][1][0, 3, 4, 5] = np.nan
    assert np.isnan(evaluate(form, BODY, batch(BODY, 64, (True,)), maps)[0].total)


@pytest.mark.parametrize("limb_width", [0.3, 60.0, 500.0])
def test_2d_directions_of_thin_limbs_and_of_limbs_as_wide_as_the_crop_give_the_plain_loss(limb_width, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "LIMB_WIDTH", limb_width)
    assert_equal(BODY, batch(BODY, 64, (False, False)), answers(BODY, 64, 2), has_3d=False)


def test_what_cannot_come_is_left_out_and_changes_nothing():
    arrays, maps = batch(BODY, 64, (False, False)), answers(BODY, 64, 2)
    whole = evaluate(low_resolution, BODY, arrays, maps, ignore_2d=True)
    lean = evaluate(low_resolution, BODY, arrays, maps, ignore_2d=True, has_3d=False)
    np.testing.assert_allclose(lean[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(lean[1], whole[1], rtol=1e-5, atol=1e-6 * np.abs(whole[1]).max())
    assert not lean[2].any()


def test_an_almost_perfect_answer_costs_little_accuracy_and_never_a_negative_loss():
    """The bounds that the module's docstring states: errors are 1e-7 of the baseline, and the gradient keeps its accuracy."""
    arrays = batch(BODY, 368, (True,), mask="ones")
    with tf.Graph().as_default(), tf.Session() as session:
        uv, xyz, valid = (tf.constant(x) for x in arrays[:3])
        heat, pof = session.run([targets.heatmaps(uv, valid, 368, SIGMA), targets.orientation_fields(uv, xyz, valid, BODY.limbs, 368, LIMB_WIDTH)])
    maps = [[heat[:, ::8, ::8]], [pof[:, ::8, ::8]]]
    plain, fast = (evaluate(form, BODY, arrays, maps, ignore_2d=True) for form in (full_resolution, low_resolution))
    assert 0 < plain[0].heat < 0.02 * plain[0].baseline_heat
    assert abs(fast[0].heat - plain[0].heat) < 1e-6 * plain[0].baseline_heat
    assert abs(fast[0].heat - plain[0].heat) < 1e-3 * plain[0].heat
    for found, expected in zip(fast[1:], plain[1:]):
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    uv, xyz, _, is_3d, mask = arrays  # one pixel counts, and is answered exactly: rounding must not make the loss negative
    for y, x in ((8, 16), (184, 80), (0, 0)):
        mask = np.zeros_like(mask)
        mask[0, y, x] = 1
        alone = evaluate(low_resolution, BODY, (uv, xyz, arrays[2], is_3d, mask), maps, ignore_2d=True)[0]
        assert 0 <= alone.heat <= 1e-6


@pytest.mark.parametrize("preset", ["ascend_perf", "demo", "coco_body"])
def test_the_loss_of_a_preset_needs_no_resize_op_and_only_what_runs_on_the_npus_cores(preset):
    """What `mtc.losses.low_resolution` says of itself, for the graph of the loss and its gradient by the maps."""
    config = configuration.load(preset, ["model.crop=64", "model.stages=2"])
    with tf.Graph().as_default() as made:
        maps = Maps(*([tf.placeholder(tf.float32, [1, 8, 8, c]) for _ in range(2)] for c in (BODY.heat_channels, BODY.pof_channels)))
        shapes = {"mask": ([1, 64, 64], tf.uint8), "uv": ([1, 20, 2], tf.float32), "xyz": ([1, 20, 3], tf.float32)}
        shapes.update(valid=([1, 20], tf.bool), is_3d=([1], tf.bool))
        inputs = {name: tf.placeholder(dtype, shape) for name, (shape, dtype) in shapes.items()}
        tf.gradients(losses.batch_losses(maps, inputs, BODY, config).total, maps.heat + maps.pof)
        used = made.get_operations()
    kinds = {op.type for op in used}
    assert kinds - ON_THE_CORES - OF_SHAPES == ({"GatherV2"} if preset == "coco_body" else set())
    assert ("GatherV2" in kinds) == (preset == "coco_body")  # places of 2D directions are looked up; nothing else is
    assert not [op.name for op in used for tensor in op.outputs if tensor.dtype.base_dtype in (tf.int64, tf.float64) and op.type != "Const"]


def test_a_run_with_either_form_learns_the_same(small_config):
    """Two steps of training, so that a gradient has changed the weights that the second loss is made from."""
    from mtc.data import pipeline, readers

    found = []
    for form in ("low_resolution", "full_resolution"):
        config = small_config("compat.loss=" + form, "targets.sigma=4", "targets.limb_width=3")
        training = graph.build(config, BODY)
        with pipeline.Pipeline(readers.training(config), config, BODY) as batches, tf.Session(graph=training.graph) as session:
            training.set_variables(session, graph.initial_values(training, config))
            session.run(training.initialise, {training.skipped: 0})
            for place in range(2):
                feed = training.feed(next(batches))
                feed.update({training.rate: 1e-3, training.place: place})
                session.run(training.train, feed)
            found.append(session.run(training.table)[:2])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
