"""Mixed precision and the loss scale: what is rounded and what is not, what an overflow changes and what it does not."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtc import devices
from mtc.config import load
from mtc.nets import convolution
from mtc.skeleton import BODY
from mtc.training import graph, loss_scale
from tasks import train
from test.training.few_steps import TINY, FewSteps
from test.training.test_training import assert_same_variables, metrics

CPU = TINY + ("train.device=cpu",)
ERRORS = {"mixed_bf16": 2.0**-8, "mixed_fp16": 2.0**-11}
"""Largest relative error of one rounding."""


@pytest.fixture
def start(small_config):
    """Start `FewSteps`: start("train.precision=mixed_fp16"). wrap: see `mtc.devices.Device`."""
    started = []

    def make(*overrides, wrap=None):
        config, build = small_config(*CPU + overrides), graph.build
        device = devices.select(config)
        if wrap:  # a graph that others must not get
            device, build = dataclasses.replace(device, wrap=wrap), graph.build.__wrapped__
        started.append(FewSteps(config, build(config, BODY, device), device.session_config))
        return started[-1]

    yield make
    for run in started:
        run.close()


def vendors(optimizer, scaling, ranks=1):
    """`Device.wrap` of a vendor that keeps the loss scale itself: as CANN's, with variables that change in place, and as much of its rule as is
    needed.
    """
    values = loss_scale.initial_values(scaling).items()
    scale, _, bad = (tf.Variable(value, trainable=False, name=name, use_resource=False) for name, value in values)

    class Outer(tf.train.Optimizer):
        def compute_gradients(self, loss, *_, **__):
            return [(gradient / scale, variable) for gradient, variable in optimizer.compute_gradients(loss * scale)]

        def apply_gradients(self, grads_and_vars, global_step=None, name=None):
            finite = tf.reduce_all([tf.reduce_all(tf.is_finite(gradient)) for gradient, _ in grads_and_vars])
            applied = tf.cond(finite, lambda: optimizer.apply_gradients(grads_and_vars), tf.no_op)
            new = tf.where_v2(finite, 1.0 * scale, tf.maximum(1.0, scale / scaling.factor))
            with tf.control_dependencies([new]):
                return tf.group(applied, tf.assign(scale, new), tf.assign_add(bad, 0))

    return Outer(False, "outer"), scale


def gradients(values):
    """Return {name: the gradient of the first step, times 0.1}, which is Adam's first moment after it."""
    return {name: value for name, value in values.items() if name.endswith("/Adam")}


def weights(values):
    """Return the variables that a step which was left out must not change."""
    return {name: value for name, value in values.items() if name not in ("global_step", "loss_scale", "good_steps", "bad_steps")}


def same(a, b):
    return sorted(a) == sorted(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("precision", sorted(ERRORS))
@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="plain"),
        pytest.param(("train.recompute=stages", "train.micro_batch=1"), id="recomputed, in parts", marks=pytest.mark.last),
    ],
)
def test_gradients_are_those_of_float32_within_the_formats_error_and_really_rounded(start, precision, options):
    options += ("data.mix={synthetic3d: 1}", "model.width=0.1", "model.crop=64")
    exact, mixed = start(*options), start("train.precision=" + precision, *options)
    expected, found = exact.run(1)[0], mixed.run(1)[0]
    error = ERRORS[precision]
    assert found.losses.total == pytest.approx(expected.losses.total, rel=4 * error)
    assert found.losses.baseline_heat == expected.losses.baseline_heat  # targets and sums stay as they are
    wanted, got = gradients(exact.values()), gradients(mixed.values())
    off = {name: np.abs(got[name] - value).max() / np.abs(value).max() for name, value in wanted.items()}
    last = [off["CPM/conv5_5_CPM_{}/weights/Adam".format(branch)] for branch in ("L1", "L2")]
    assert error / 16 < min(last)
    assert max(last) < 8 * error
    # Below, a rounding error decides now and then which way a ReLU or a maximum goes: of n values it is about n times the error, so that
    # the distance is as its root, and a few times that at the far end of thirteen layers.
    whole = [np.concatenate([part[name].ravel() for name in sorted(wanted)]) for part in (wanted, got)]
    assert np.linalg.norm(whole[0] - whole[1]) < 2 * error**0.5 * np.linalg.norm(whole[0])
    assert min(value for name, value in off.items() if "weights" in name) > error / 16


@pytest.mark.parametrize("precision", sorted(ERRORS))
def test_a_convolution_and_its_gradients_are_off_by_the_formats_error_and_no_more(precision):
    rng, made = np.random.RandomState(0), {}
    x, kernel, upstream = (rng.normal(size=shape).astype(np.float32) for shape in ([2, 12, 12, 32], [3, 3, 32, 16], [2, 12, 12, 16]))
    for name in ("fp32", precision):
        convolve = devices.select(load("demo", ["train.device=cpu", "train.precision=" + name])).convolve
        with tf.Graph().as_default(), tf.Session() as session:
            values = tf.constant(x), tf.constant(kernel)
            y = convolve(*values)
            made[name] = session.run([y] + tf.gradients(y, values, tf.constant(upstream)))
    for exact, found in zip(made["fp32"], made[precision]):
        assert ERRORS[precision] / 8 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < ERRORS[precision]


def test_masters_are_float32_and_move_by_less_than_the_format_can_say(start):
    run = start("train.precision=mixed_bf16")
    before = run.values()
    run.run(1, 2)
    name = "CPM/conv1_2/weights"
    after = run.values()[name]
    assert after.dtype == np.float32
    with tf.Graph().as_default(), tf.Session() as session:
        rounded = session.run(tf.cast(tf.cast(tf.constant(after), tf.bfloat16), tf.float32))
    assert not np.array_equal(rounded, after)
    assert not np.array_equal(before[name], after)


@pytest.mark.parametrize(("dtype", "large", "small"), [("float16", np.inf, 0.0), ("bfloat16", 1e5, 1e-9)])
def test_what_the_format_cannot_hold_is_infinite_and_what_is_too_small_for_it_is_zero(dtype, large, small):
    with tf.Graph().as_default(), tf.Session() as session:
        x, upstream = tf.placeholder(tf.float32, [1, 3, 3, 1]), tf.placeholder(tf.float32, [1, 3, 3, 1])
        y = convolution.rounding(convolution.convolve, dtype)(x, tf.ones([1, 1, 1, 1]))
        back = tf.gradients(y, [x], upstream)[0]
        for value, expected in ((1e5, large), (1e-9, small)):
            for found in session.run([y, back], {x: np.full([1, 3, 3, 1], value), upstream: np.full([1, 3, 3, 1], value)}):
                np.testing.assert_allclose(found, expected, rtol=2.0**-8)


def test_gradients_at_directions_of_length_zero_are_finite(start):
    """The network answers exactly 0 for an untrained branch: the root and the division of its length must not become NaN in 16 bits."""
    run = start("train.precision=mixed_fp16", "data.mix={coco: 1}", "compat.ignore_paf_2d=false")
    values = {name: np.zeros_like(value) for name, value in run.values().items() if name.startswith("CPM/conv5_5_CPM_L1/") and "Adam" not in name}
    run.training.set_variables(run.session, values)
    made = run.run(1)[0]
    assert made.code == graph.update.MADE
    assert made.losses.pof > 0
    assert all(np.isfinite(value).all() for value in run.values().values())


def test_an_overflow_changes_nothing_but_the_scale_which_falls_until_steps_are_made(start):
    run = start("train.precision=mixed_fp16", "loss_scale.initial=1e30", "loss_scale.factor=1024", "loss_scale.decrease_after=1")
    before = run.values()
    made = run.run(*range(1, 11))
    codes = [step.code for step in made]
    lost = codes.index(graph.update.MADE)
    assert lost > 3
    assert codes == [graph.update.OVERFLOWED] * lost + [graph.update.MADE] * (10 - lost)
    assert [step.loss_scale for step in made] == pytest.approx([1e30 / 1024.0 ** min(i, lost) for i in range(10)], rel=1e-5)
    assert all(np.isfinite(step.losses.total) for step in made)
    run = start("train.precision=mixed_fp16", "loss_scale.initial=1e30", "loss_scale.factor=1024", "loss_scale.decrease_after=1")
    run.run(*range(1, lost + 1))
    after = run.values()
    assert same(weights(before), weights(after))
    assert after["global_step"] == before["global_step"] + lost


def test_a_step_that_was_left_out_leaves_the_training_as_if_it_had_not_been(start):
    """The step after an overflow is the one that a run would make which never saw the batch of the overflow."""
    overflowing = start("train.precision=mixed_fp16", "loss_scale.initial=1e30", "loss_scale.factor=1e3", "loss_scale.decrease_after=1")
    codes = [step.code for step in overflowing.run(*range(1, 13))]
    lost = codes.count(graph.update.OVERFLOWED)
    scale = overflowing.values()["loss_scale"]
    plain = start("train.precision=mixed_fp16", "loss_scale.initial={:.9g}".format(scale))
    for _ in range(lost):
        next(plain.pipeline)
    assert {step.code for step in plain.run(*range(1, 13 - lost))} == {graph.update.MADE}
    assert same(weights(plain.values()), weights(overflowing.values()))


def test_a_device_whose_optimizer_keeps_the_scale_makes_the_same_run(start):
    options = ("train.precision=mixed_fp16", "loss_scale.initial=1e20", "loss_scale.factor=1024", "loss_scale.decrease_after=1")
    ours, theirs = start(*options), start(*options, wrap=vendors)
    expected, found = ours.run(*range(1, 9)), theirs.run(*range(1, 9))
    assert {step.code for step in expected} == {graph.update.OVERFLOWED, graph.update.MADE}
    assert [(step.code, step.loss_scale) for step in found] == [(step.code, step.loss_scale) for step in expected]
    assert [step.losses for step in found] == [step.losses for step in expected]
    a, b = ours.values(), theirs.values()
    assert same(weights(a), weights(b))
    assert a["loss_scale"] == b["loss_scale"]


def test_a_step_that_such_an_optimizer_leaves_out_at_the_lowest_scale_is_a_fault(start):
    run = start("train.precision=mixed_fp16", "train.skip_non_finite=1", "loss_scale.initial=1", wrap=vendors)
    bias = {name: value + np.float32(1e7) for name, value in run.values().items() if name == "CPM/conv5_5_CPM_L2/biases"}
    run.training.set_variables(run.session, bias)
    before = run.values()
    assert [step.code for step in run.run(1, 2, 3)] == [graph.update.SKIPPED, graph.update.REFUSED, graph.update.REFUSED]
    after = run.values()
    assert same(weights(before), weights(after))
    assert after["global_step"] == before["global_step"] + 1


def test_the_scale_grows_after_so_many_good_steps_and_falls_after_so_many_bad_ones(start):
    run = start("train.precision=mixed_fp16", "loss_scale.initial=8", "loss_scale.increase_every=3", "loss_scale.factor=4")
    assert [step.loss_scale for step in run.run(*range(1, 8))] == [8, 8, 8, 32, 32, 32, 128]
    values = run.values()
    assert [values[name] for name in ("loss_scale", "good_steps", "bad_steps")] == [128, 1, 0]
    run = start("train.precision=mixed_fp16", "loss_scale.initial={}".format(2.0**100), "loss_scale.decrease_after=3")
    assert [step.loss_scale / 2.0**100 for step in run.run(*range(1, 8))] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_a_gradient_without_numbers_at_the_lowest_scale_is_a_fault(start):
    """A scale that cannot fall explains nothing: the rule of train.skip_non_finite holds."""
    for mode in ("dynamic", "fixed"):
        options = ("loss_scale.mode=" + mode, "loss_scale.initial=1" if mode == "dynamic" else "loss_scale.initial=1e30")
        run = start("train.precision=mixed_fp16", "train.skip_non_finite=1", *options)
        if mode == "dynamic":  # a loss that is a number, and a gradient that is beyond float16
            bias = {name: value + np.float32(1e7) for name, value in run.values().items() if name == "CPM/conv5_5_CPM_L2/biases"}
            run.training.set_variables(run.session, bias)
        before = run.values()
        made = run.run(1, 2, 3)
        assert np.isfinite(made[0].losses.total), mode
        assert [step.code for step in made] == [graph.update.SKIPPED, graph.update.REFUSED, graph.update.REFUSED], mode
        assert same(weights(before), weights(run.values()))


def test_a_loss_without_a_number_is_a_fault_at_any_scale(start):
    run = start("train.precision=mixed_fp16")
    name = "CPM/conv5_5_CPM_L2/biases"
    run.training.set_variables(run.session, {name: np.full_like(run.values()[name], np.nan)})
    before = run.values()
    assert [step.code for step in run.run(1, 2)] == [graph.update.REFUSED] * 2
    after = run.values()
    assert same({key: value for key, value in before.items() if key != name}, {key: value for key, value in after.items() if key != name})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), None),
        (("train.precision=mixed_bf16",), None),
        (("train.precision=mixed_fp16",), loss_scale.Scaling(True, 2.0**15, 2.0, 1000, 2)),
        (("train.precision=mixed_fp16", "loss_scale.mode=none"), None),
        (("loss_scale.mode=fixed", "loss_scale.initial=128"), loss_scale.Scaling(False, 128.0, 2.0, 1000, 2)),
        (("train.precision=mixed_bf16", "loss_scale.mode=dynamic"), loss_scale.Scaling(True, 2.0**15, 2.0, 1000, 2)),
    ],
)
def test_the_loss_is_scaled_where_it_has_to_be_or_is_asked_for(small_config, options, expected):
    assert loss_scale.of_config(small_config(*options)) == expected


def test_a_loss_scale_in_float32_changes_no_bit(start):
    """Powers of two are exact, so a scaled run without overflows is the plain one."""
    plain, scaled = start(), start("loss_scale.mode=dynamic")
    assert [a.losses == b.losses for a, b in zip(plain.run(1, 2, 3), scaled.run(1, 2, 3))] == [True] * 3
    assert same(weights(plain.values()), weights(scaled.values()))


def test_a_run_may_change_its_precision_and_says_so(trained, capsys):
    run = trained("train.steps=2", *CPU)
    trained("train.steps=4", "train.precision=mixed_fp16", *CPU)
    err = capsys.readouterr().err
    assert "train.precision was fp32 until step 2 and is mixed_fp16 from there" in err
    assert "has no loss scale: it starts at 32768" in err
    trained("train.steps=6", "train.precision=mixed_bf16", *CPU)
    err = capsys.readouterr().err
    assert "train.precision was mixed_fp16 until step 4 and is mixed_bf16 from there" in err
    assert "the loss scale of {}".format(run / "checkpoints") in err
    assert [line["precision"] for line in metrics(run) if line["kind"] == "start"] == ["fp32", "mixed_fp16", "mixed_bf16"]
    scales = {line["step"]: line.get("loss_scale") for line in metrics(run) if line["kind"] == "train"}
    assert scales == {1: None, 2: None, 3: 32768, 4: 32768, 5: None, 6: None}


def test_a_snapshot_of_a_mixed_run_is_a_snapshot_like_any_other(trained):
    mixed = trained("train.steps=2", "train.precision=mixed_fp16", "loss_scale.initial=64", *CPU, run="mixed")
    prefix = mixed / "checkpoints" / "step-00000002"
    for precision in ("fp32", "mixed_fp16"):
        run = trained("train.steps=1", "snapshot.uri={}".format(prefix), "train.precision=" + precision, *CPU, run=precision)
        (scale,) = [line.get("loss_scale") for line in metrics(run) if line["kind"] == "train"]
        assert scale == (None if precision == "fp32" else 32768)


def test_overflows_are_counted_told_and_kept_over_restarts(trained, capsys):
    options = ("train.precision=mixed_fp16", "loss_scale.initial=1e25", "loss_scale.factor=1024", "loss_scale.decrease_after=1") + CPU
    straight = trained("train.steps=10", *options, run="straight")
    assert "step 1 changes no weight: its gradient overflowed with loss scale 1e+25" in capsys.readouterr().err
    lines = metrics(straight)
    told = [(line["step"], line["scale"]) for line in lines if line["kind"] == "overflow"]
    assert told[0] == (1, pytest.approx(1e25, rel=1e-6))
    assert [line["step"] for line in lines if line["kind"] == "train" and line.get("overflow")] == [step for step, _ in told]
    assert not [line for line in lines if line["kind"] == "skipped"]
    assert lines[-1]["overflows"] == len(told)
    assert json.loads((straight / "steps" / "train.json").read_text())["figures"]["overflows"] == len(told)
    trained("train.steps=2", *options)
    assert_same_variables(straight, trained("train.steps=10", *options))


def test_rounding_is_refused_where_a_compiler_would_leave_it_out(small, capsys):
    assert train.main(small("train.precision=mixed_bf16", "train.compile=xla", "train.device=cpu")) == 2
    assert "XLA leaves out what emulates bfloat16; set train.compile=none" in capsys.readouterr().err


def test_the_log_says_what_the_precision_is_here(trained, capsys):
    run = trained("train.steps=1", "train.precision=mixed_bf16", *CPU)
    (start,) = [line for line in metrics(run) if line["kind"] == "start"]
    assert start["precision"] == "mixed_bf16"
    assert "rounded as bfloat16 would be (emulated, not faster)" in start["device"]["name"] or "convolutions in bfloat16 (" in start["device"]["name"]
    assert start["device"]["name"] in capsys.readouterr().err
