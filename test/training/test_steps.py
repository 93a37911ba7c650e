"""What a step changes and what it leaves alone: numbers that are none, averages, replicas, copies of the variables."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtc.nets import cpm
from mtc.skeleton import BODY
from mtc.training import bundle, graph
from test.training.few_steps import TINY, FewSteps


@pytest.fixture
def start(small_config, monkeypatch):
    """Start `FewSteps`: start("train.ema=0.5", spoiled={2}). A white image is one that the network has no numbers for."""
    started, forward = [], cpm.forward

    def fragile(image, *arguments, **options):
        maps = forward(image, *arguments, **options)
        factor = tf.where(tf.reduce_min(image) > 0.49, np.float32("nan"), 1.0)
        return cpm.Maps(*([factor * stage for stage in stages] for stages in maps))

    monkeypatch.setattr(cpm, "forward", fragile)

    def make(*overrides, device=None, **options):
        config = small_config(*TINY + overrides)
        session_config = tf.ConfigProto(device_count={"CPU": config.train.replicas})
        started.append(FewSteps(config, graph.build(config, BODY, device), session_config, **options))
        return started[-1]

    yield make
    for session in started:
        session.close()


def same(a, b):
    return sorted(a) == sorted(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_step_without_a_number_stops_all_that_follow_and_changes_nothing(start):
    run = start(spoiled={3})
    run.run(1, 2)
    before = run.values()
    made = run.run(3, 4, 5)
    assert [step.refused for step in made] == [True] * 3
    assert not np.isfinite(made[0].losses.total)
    assert same(before, run.values())
    assert before["global_step"] == 2


def test_a_skipped_step_changes_only_the_counter_and_the_next_one_is_made(start):
    run = start("train.skip_non_finite=1", spoiled={2})
    run.run(1)
    before = run.values()
    made = run.run(2)
    after = run.values()
    assert [(step.skipped, step.refused) for step in made] == [(True, False)]
    assert after.pop("global_step") == before.pop("global_step") + 1
    assert same(before, after)
    made = run.run(3)
    assert not made[0].skipped
    assert not same(after, run.values())


def test_so_many_steps_are_skipped_and_not_one_more(start):
    run = start("train.skip_non_finite=2", spoiled={1, 2, 4})
    assert [(step.skipped, step.refused) for step in run.run(1, 2, 3, 4, 5)] == [
        (True, False), (True, False), (False, False), (False, True), (False, True),
    ]  # fmt: skip
    assert run.values()["global_step"] == 3


def test_steps_skipped_before_a_restart_count(start):
    run = start("train.skip_non_finite=2", spoiled={1, 2}, skipped=1)
    assert [(step.skipped, step.refused) for step in run.run(1, 2)] == [(True, False), (False, True)]


def test_the_norm_is_that_of_the_gradient(start):
    run = start()
    norm = run.run(1)[0].grad_norm
    moments = [value.astype(np.float64) * 10 for name, value in run.values().items() if name.endswith("/Adam")]  # (1 - 0.9) times the gradient
    assert norm == pytest.approx(np.sqrt(sum(np.square(moment).sum() for moment in moments)), rel=1e-4)


def test_the_average_follows_the_weights(start):
    run = start("train.ema=0.75")
    name = "CPM/conv1_1/weights"
    expected = run.values()[name]
    for number in (1, 2, 3):
        run.run(number)
        values = run.values()
        expected = expected - np.float32(0.25) * (expected - values[name])
        np.testing.assert_allclose(values[name + graph.AVERAGE], expected, rtol=1e-5)
    assert not np.array_equal(expected, values[name])


def test_the_average_does_not_change_the_training(start):
    plain, averaged = start(), start("train.ema=0.9")
    plain.run(1, 2, 3)
    averaged.run(1, 2, 3)
    values = averaged.values()
    for name, value in plain.values().items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)


def test_what_is_examined_are_the_averages(start):
    run = start("train.ema=0.9", "evaluation.samples=2")
    run.run(1, 2)
    image, answer = run.training.examine
    crops = np.random.RandomState(0).randint(0, 256, image.shape.as_list()).astype(np.uint8)
    by_average = run.session.run(answer, {image: crops})
    values = run.values()
    run.training.set_variables(run.session, {name[: -len(graph.AVERAGE)]: value for name, value in values.items() if name.endswith(graph.AVERAGE)})
    again = run.session.run(answer, {image: crops})
    np.testing.assert_array_equal(again[0], by_average[0])


def test_replicas_work_on_devices_of_their_own(small_config):
    training = graph.build(small_config(*TINY + ("train.batch_size=4", "train.replicas=2")), BODY)
    devices = {op.device for op in training.graph.get_operations() if op.type.startswith("Conv2D") and op.device}
    assert sorted(device.lower().rpartition("/")[2].replace("device:", "") for device in devices) == ["cpu:0", "cpu:1"]


def test_two_replicas_of_micro_batches_give_the_gradients_of_one(start):
    one, two = start("train.batch_size=8"), start("train.batch_size=8", "train.replicas=2", "train.micro_batch=2")
    np.testing.assert_allclose(two.run(1)[0].losses, one.run(1)[0].losses, rtol=1e-5)
    expected, found = one.values(), two.values()
    for name in expected:
        if name.endswith("/Adam"):
            assert np.abs(expected[name] - found[name]).max() <= 1e-4 * np.abs(expected[name]).max(), name


def test_a_copy_of_the_variables_does_not_change_when_training_goes_on(start):
    run = start()
    run.run(1)
    copy = run.values()
    kept = {name: np.array(value, copy=True) for name, value in copy.items()}
    run.run(2, 3, 4)
    assert same(copy, kept)
    assert not same(kept, run.values())


def test_a_bundle_is_read_back_as_it_was_written_and_by_tensorflow_itself(start, tmp_path):
    run = start()
    run.run(1)
    values, writer = run.values(), bundle.BundleWriter()
    writer.write(str(tmp_path / "model-1"), values)
    writer.close()
    assert same(bundle.read(str(tmp_path / "model-1")), values)
    with tf.Graph().as_default(), tf.Session() as session:
        variables = {name: tf.Variable(np.zeros_like(value), name=name.replace("/", "_")) for name, value in values.items()}
        tf.train.Saver(variables).restore(session, str(tmp_path / "model-1"))
        assert same(session.run(variables), values)


def test_the_same_values_give_the_same_bytes(start, tmp_path):
    values = start().values()
    for name in ("a", "b"):
        writer = bundle.BundleWriter()
        writer.write(str(tmp_path / name / "model-1"), values)
        writer.close()
    for name in ("model-1.index", "model-1.data-00000-of-00001"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
