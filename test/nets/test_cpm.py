"""The network's shape, names and size."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtc.nets import cpm
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


def test_the_forward_pass_costs_what_is_published():
    _, layers, _ = build(BODY, size=368)
    assert cpm.forward_flop(layers, 368) == pytest.approx(280.8e9, rel=1e-3)


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
