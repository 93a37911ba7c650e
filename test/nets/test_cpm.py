"""The network's shape, names and size."""

import functools

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtc.nets import convolution, cpm
from mtc.skeleton import BODY, HAND


def build(skeleton, size=64, **options):
    with tf.Graph().as_default():
        maps, layers = cpm.build(tf.zeros([2, size, size, 3]), skeleton, **options)
        return maps, layers, [(v.op.name, tuple(v.shape.as_list())) for v in tf.trainable_variables()]


@pytest.mark.parametrize(("skeleton", "parameters"), [(BODY, 54419420), (HAND, 53908396)])
def test_the_published_networks_have_their_number_of_parameters(skeleton, parameters):
    _, layers, made = build(skeleton)
    assert len(made) == 184
    assert cpm.variables(layers) == made
    assert sum(int(np.prod(shape)) for _, shape in made) == parameters


def test_forward_and_backward_pass_cost_what_is_published():
    layers = cpm.plan(BODY)
    assert cpm.forward_flop(layers, 368) == pytest.approx(280.8e9, rel=1e-3)
    assert cpm.training_flop(layers, 368) == pytest.approx(841.9e9, rel=1e-4)


@pytest.mark.parametrize("stages", [1, 2, 11])
def test_what_no_loss_asks_for_is_not_counted(stages):
    layers = cpm.plan(BODY, stages)
    unused = [layer for layer in layers if layer.name.endswith("_stage{}_L1".format(stages) if stages > 1 else "_CPM_L1")]
    assert len(unused) == (7 if stages > 1 else 5)
    saved = cpm.training_flop(layers, 368) - cpm.training_flop(layers, 368, pof_is_dead=True)
    assert saved == 3 * cpm.forward_flop(unused, 368)


@pytest.mark.parametrize(("batch", "size", "stages"), [(1, 64, 1), (2, 96, 3)])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("convolve", [convolution.convolve, convolution.convolve_by_forward_kernels])
def test_gradients_do_not_depend_on_how_they_are_computed(batch, size, stages, recompute, convolve):
    plain = plain_loss_and_gradients(batch, size, stages)
    other = loss_and_gradients(batch, size, stages, recompute=recompute, convolve=convolve)
    assert other[0] == pytest.approx(plain[0], rel=1e-6)
    assert len(other) == len(plain)
    for found, expected in zip(other[1:], plain[1:]):
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@functools.lru_cache(maxsize=None)
def plain_loss_and_gradients(batch, size, stages):
    return loss_and_gradients(batch, size, stages)


def loss_and_gradients(batch, size, stages, **options):
    with tf.Graph().as_default(), tf.Session() as session:
        image = np.random.RandomState(0).uniform(-0.5, 0.5, (batch, size, size, 3)).astype(np.float32)
        maps, layers = cpm.build(tf.constant(image), BODY, stages, 0.1, **options)
        loss = tf.add_n([tf.reduce_mean(tf.square(answer - 0.3)) for answer in maps.heat + maps.pof])
        session.run(tf.global_variables_initializer())
        values = cpm.initial_values(layers, 1)
        session.run([tf.assign(v, values[v.op.name]) for v in tf.trainable_variables()])
        return session.run([loss] + tf.gradients(loss, tf.trainable_variables()))


@pytest.mark.parametrize("shape", [(1, 7, 7, 5, 6), (3, 9, 3, 2, 4), (2, 104, 3, 3, 2), (2, 6, 1, 5, 3)])
def test_the_gradients_by_forward_kernels_are_those_of_the_convolution(shape):
    batch, side, kernel, inputs, outputs = shape
    rng = np.random.RandomState(0)
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.constant(rng.normal(size=(batch, side, side, inputs)).astype(np.float32))
        weights = tf.constant(rng.normal(size=(kernel, kernel, inputs, outputs)).astype(np.float32))
        upstream = tf.constant(rng.normal(size=(batch, side, side, outputs)).astype(np.float32))
        plain, other = (f(x, weights) for f in (convolution.convolve, convolution.convolve_by_forward_kernels))
        values = session.run([[y] + tf.gradients(y, [x, weights], upstream) for y in (plain, other)])
    for expected, found in zip(*values):
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_cpu_with_tensorflow_1_gets_the_convolution_that_is_fast_there():
    old = tf.__version__.startswith("1.")
    assert convolution.fastest("cpu") is (convolution.convolve_by_forward_kernels if old else convolution.convolve)
    assert convolution.fastest("gpu") is convolution.fastest("npu") is convolution.convolve


def test_width_stages_and_crop_scale_the_network_and_keep_its_answers():
    maps, layers, made = build(BODY, size=96, stages=3, width=0.125)
    assert [m.shape.as_list() for m in maps.heat] == [[2, 12, 12, 21]] * 3
    assert [m.shape.as_list() for m in maps.pof] == [[2, 12, 12, 69]] * 3
    assert dict(made)["CPM/conv4_2/weights"] == (3, 3, 64, 64)
    assert cpm.variables(layers) == made


def test_initial_values_follow_from_the_seed_alone():
    _, layers, _ = build(BODY, stages=1, width=0.1)
    one, same, other = (cpm.initial_values(layers, seed) for seed in (1, 1, 2))
    name = "CPM/conv1_2/weights"
    assert np.array_equal(one[name], same[name])
    assert not np.array_equal(one[name], other[name])
    kernel, _, inputs, outputs = one[name].shape
    assert np.abs(one[name]).max() <= (6.0 / (kernel * kernel * (inputs + outputs))) ** 0.5
    assert np.all(one["CPM/conv1_2/biases"] == np.float32(0.0001))
