"""The training graph: options that must not change what is learned, and what reaches the device."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtc.data import pipeline, readers
from mtc.devices import Device
from mtc.errors import UserError
from mtc.skeleton import BODY
from mtc.training import graph
from mtc.training.steps import Steps


def train(config, device=None, steps=3):
    """Return (list of `Done` steps, {name: array} of the trained variables and Adam's slots after them)."""
    training = graph.build(config, BODY, device)
    with pipeline.Pipeline(readers.training(config), config, BODY) as batches, tf.Session(graph=training.graph) as session:
        training.set_variables(session, graph.initial_values(training, config))
        maker = Steps(session, training, batches, last=steps)
        for number in range(1, steps + 1):
            maker.run(number, [1e-3])
        return maker.done(), read(session)


def read(session):
    with session.graph.as_default():
        return session.run({variable.op.name: variable for variable in tf.global_variables() if variable.op.name.startswith("CPM")})


@pytest.fixture(scope="module")
def plain(small_data):
    """What one step of a batch of 4 gives without options."""
    made = {}

    def get(small_config, ignore_2d):
        if ignore_2d not in made:
            made[ignore_2d] = train(small_config("train.batch_size=4", "compat.ignore_paf_2d=" + ignore_2d), steps=1)
        return made[ignore_2d]

    return get


@pytest.mark.parametrize("option", ["train.micro_batch=2", "train.recompute=stages", "train.compile=xla"])
@pytest.mark.parametrize("ignore_2d", [pytest.param("true", marks=pytest.mark.last), pytest.param("false", marks=pytest.mark.first)])
def test_options_for_speed_and_memory_give_the_same_losses_and_gradients(small_config, plain, option, ignore_2d):
    expected, values = plain(small_config, ignore_2d)
    found, changed = train(small_config("train.batch_size=4", "compat.ignore_paf_2d=" + ignore_2d, option), steps=1)
    assert found[0].names == expected[0].names
    np.testing.assert_allclose(found[0].losses, expected[0].losses, rtol=1e-5)
    gradients = [name for name in values if name.endswith("/Adam")]  # after one step Adam's first moment is the gradient times 0.1
    assert len(gradients) == len(values) / 3
    for name in gradients:
        assert np.abs(values[name] - changed[name]).max() <= 1e-4 * np.abs(values[name]).max(), name


def test_a_device_with_memory_of_its_own_gets_the_same_batches_one_step_ahead(small_config):
    config = small_config()
    assert graph.build(config, BODY).stage is None
    straight, _ = train(config)
    staged, _ = train(config, device=Device("gpu"))
    assert [made.names for made in staged] == [made.names for made in straight]
    for a, b in zip(straight, staged):
        np.testing.assert_allclose(b.losses, a.losses, rtol=1e-3)


def test_a_batch_that_cannot_be_read_ahead_spoils_only_its_own_step(small_config):
    config = small_config()
    with pipeline.Pipeline(readers.training(config), config, BODY) as made:
        good = [next(made) for _ in range(2)]

    def batches():
        yield from good
        raise UserError("the third batch is broken")

    training = graph.build(config, BODY, Device("gpu"))
    with tf.Session(graph=training.graph) as session:
        training.set_variables(session, graph.initial_values(training, config))
        maker = Steps(session, training, batches(), last=5)
        maker.run(1, [1e-3])
        maker.run(2, [1e-3])
        with pytest.raises(UserError, match="third batch"):
            maker.run(3, [1e-3])
        assert [made.number for made in maker.done()] == [1, 2]


def test_losses_wait_on_the_device_and_come_in_order(small_config):
    config = small_config()
    made, _ = train(config, steps=5)
    assert [step.number for step in made] == [1, 2, 3, 4, 5]
    assert len({step.losses.total for step in made}) == 5
    assert all(step.seconds >= step.waited >= 0 for step in made)


def test_what_no_loss_depends_on_still_gets_its_step_of_adam(small_config):
    """The reference computes a gradient of 0 for the last POF branch, so its moments decay: they must not stay what they are."""
    config = small_config("data.mix={coco: 1}", "compat.ignore_paf_2d=true")
    assert graph.dead_terms(config, BODY) == ["loss_pof"]
    training = graph.build(config, BODY)
    name = "CPM/Mconv7_stage2_L1/weights"
    with pipeline.Pipeline(readers.training(config), config, BODY) as batches, tf.Session(graph=training.graph) as session:
        values = graph.initial_values(training, config)
        values[name + "/Adam"] = np.ones_like(values[name])
        training.set_variables(session, values)
        Steps(session, training, batches, last=1).run(1, [1e-3])
        np.testing.assert_allclose(read(session)[name + "/Adam"], 0.9, rtol=1e-6)


def test_the_host_sends_at_most_600_kb_a_full_size_image(small_config):
    training = graph.build(small_config("model.crop=368", "train.batch_size=1"), BODY)
    assert sum(np.prod(tensor.shape.as_list()) * tensor.dtype.size for tensor in training.inputs.values()) <= 600e3


def test_a_full_table_is_read_before_the_next_step(small_config):
    config = small_config("model.stages=1", "model.crop=32", "model.width=0.02", "train.batch_size=1")
    training = graph.build(config, BODY)
    with pipeline.Pipeline(readers.training(config), config, BODY) as batches, tf.Session(graph=training.graph) as session:
        training.set_variables(session, graph.initial_values(training, config))
        maker = Steps(session, training, batches, last=2 * graph.BLOCK)
        for number in range(1, graph.BLOCK + 1):
            assert not maker.full()
            maker.run(number, [1e-3])
        assert maker.full()
        with pytest.raises(AssertionError):
            maker.run(graph.BLOCK + 1, [1e-3])
        made = maker.done()
        assert [step.number for step in made] == list(range(1, graph.BLOCK + 1))
        assert all(np.isfinite(step.losses.total) and step.losses.total > 0 for step in made)
        maker.run(graph.BLOCK + 1, [1e-3])
        assert [step.number for step in maker.done()] == [graph.BLOCK + 1]
