"""Properties of targets and losses that golden numbers do not show."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtc import targets, upsample
from mtc.losses import full_resolution, low_resolution, terms
from mtc.nets.cpm import Maps
from mtc.skeleton import BODY, HAND

SIZE = 64
FORMS = pytest.mark.parametrize("form", [full_resolution, low_resolution])


def run(form, skeleton=BODY, heat=None, pof=None, mask=None, is_3d=(True,), ignore_2d=False, stages=1):
    """Return (Losses, gradients of the total by heat and pof) for random joints and maps that are everywhere the same."""
    rng = np.random.RandomState(0)
    batch, cells = len(is_3d), SIZE // 8
    uv = rng.uniform(8, SIZE - 8, (batch, len(skeleton.joints), 2)).astype(np.float32)
    xyz = np.concatenate([uv, rng.normal(size=uv.shape[:2] + (1,))], axis=2).astype(np.float32)
    xyz[..., 2] *= np.array(is_3d)[:, None]
    valid = np.ones(uv.shape[:2], bool)
    mask = np.ones((batch, SIZE, SIZE), np.float32) if mask is None else mask
    with tf.Graph().as_default(), tf.Session() as session:
        answers = [
            [tf.constant(np.full((batch, cells, cells, channels), 0.0 if value is None else value, np.float32)) for _ in range(stages)]
            for channels, value in ((skeleton.heat_channels, heat), (skeleton.pof_channels, pof))
        ]
        labels = terms.Labels(*(tf.constant(x) for x in (uv, xyz, valid, np.array(is_3d), mask)))
        of = terms.Terms(skeleton, 4.0, 4.0, skeleton.background_weight, pof_weight=1.0, ignore_2d=ignore_2d)
        result = form.losses(Maps(heat=answers[0], pof=answers[1]), labels, of)
        return session.run([result, tf.gradients(result.total, answers[0] + answers[1])])


@FORMS
@pytest.mark.parametrize("skeleton", [BODY, HAND])
def test_answering_nothing_scores_the_baseline(form, skeleton):
    result, _ = run(form, skeleton)
    assert result.heat == pytest.approx(result.baseline_heat)
    assert result.pof == pytest.approx(result.baseline_pof)
    assert result.baseline_pof > 0


@FORMS
def test_stages_are_averaged_not_summed(form):
    one, three = run(form, heat=0.3, pof=0.2)[0], run(form, heat=0.3, pof=0.2, stages=3)[0]
    assert three.total == pytest.approx(one.total)


@FORMS
def test_a_mask_of_nothing_gives_no_loss_and_finite_gradients(form):
    result, gradients = run(form, heat=0.3, pof=0.2, mask=np.zeros((1, SIZE, SIZE), np.float32))
    assert result.total == 0
    assert all(np.all(g == 0) for g in gradients)


@FORMS
@pytest.mark.parametrize("ignore_2d", [True, False])
def test_gradients_are_finite_where_the_field_is_zero(form, ignore_2d):
    _, gradients = run(form, heat=0.0, pof=0.0, is_3d=(False, True), ignore_2d=ignore_2d)
    assert all(np.isfinite(g).all() for g in gradients)


@FORMS
def test_ignored_2d_samples_still_dilute_the_pof_loss(form):
    alone, mixed = run(form, pof=0.2, is_3d=(True,), ignore_2d=True)[0], run(form, pof=0.2, is_3d=(True, False), ignore_2d=True)[0]
    assert mixed.pof == pytest.approx(alone.pof / 2, rel=1e-5)


@FORMS
def test_the_length_of_a_2d_answer_does_not_count(form):
    short, long = (run(form, pof=value, is_3d=(False,))[0].pof for value in (0.1, 10.0))
    assert short == pytest.approx(long, rel=1e-3)


def test_an_unlabelled_joint_has_neither_peak_nor_limbs():
    uv = np.random.RandomState(0).uniform(8, SIZE - 8, (1, 20, 2)).astype(np.float32)
    valid = np.ones((1, 20), bool)
    valid[0, 3] = False  # right elbow
    with tf.Graph().as_default(), tf.Session() as session:
        heat = targets.heatmaps(tf.constant(uv), tf.constant(valid), SIZE, 4.0)
        xyz = tf.constant(np.concatenate([uv, 0 * uv[..., :1]], axis=2))
        pof = targets.orientation_fields(tf.constant(uv), xyz, tf.constant(valid), BODY.limbs, SIZE, 4.0)
        shapes = targets.limb_shapes(tf.constant(uv), xyz, tf.constant(valid), BODY.limbs, 4.0)
        heat, pof, weight = session.run([heat, pof, terms.limb_weights(shapes.both_valid)])
    of_elbow = [k for k, limb in enumerate(BODY.limbs) if 3 in limb]
    assert heat[0, :, :, 3].max() == 0
    assert of_elbow == [7, 8]
    for k in range(len(BODY.limbs)):
        assert np.any(pof[0, :, :, 3 * k : 3 * k + 3]) == (k not in of_elbow)
        assert np.all(weight[0, 3 * k : 3 * k + 3] == (k not in of_elbow))


def test_joints_on_one_point_give_an_empty_finite_limb():
    uv = np.full((1, 20, 2), 30.0, np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        pof = session.run(targets.orientation_fields(tf.constant(uv), tf.zeros([1, 20, 3]), tf.ones([1, 20], tf.bool), BODY.limbs, SIZE, 4.0))
    assert np.all(pof == 0)


@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
def test_enlargement_equals_tensorflows_legacy_resize(kind):
    x = np.random.RandomState(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        resize = {"bicubic": tf.image.resize_bicubic, "bilinear": tf.image.resize_bilinear}[kind]
        ours, theirs = session.run([upsample.upsample(tf.constant(x), upsample.matrix(8, kind=kind)), resize(tf.constant(x), [64, 64])])
    assert np.abs(ours - theirs).max() < 1e-5
