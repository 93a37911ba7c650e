"""Dumps of single steps: whole, exact, and without a trace in the training."""

import json

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtc.data import pipeline, readers
from mtc.devices import Device, npu, npu_options
from mtc.errors import UserError
from mtc.skeleton import BODY
from mtc.training import bundle, checkpoints, dumps, graph, loop
from mtc.training.steps import Steps
from test.training.test_training import assert_same_variables, metrics

QUICK = ("model.stages=1", "model.crop=32", "model.width=0.02", "train.batch_size=4")


def stats(folder):
    return json.loads((folder / "stats.json").read_text())


def test_a_dumped_run_equals_one_that_is_not_and_the_dump_is_what_the_step_computed(trained, tmp_path):
    plain = trained(*QUICK + ("train.steps=3",), run="plain")
    dumped = trained(*QUICK + ("train.steps=3", "dump.steps=0|2", "dump.path={}".format(tmp_path / "a b")), run="dumped")
    assert_same_variables(plain, dumped)
    losses = [[line["loss"] for line in metrics(run) if line["kind"] == "train"] for run in (plain, dumped)]
    assert losses[0] == losses[1]

    assert sorted(path.name for path in (tmp_path / "a b").iterdir()) == ["step-00000001", "step-00000003"]
    first = tmp_path / "a b" / "step-00000001"
    loaded = {name: np.load(str(first / (name + ".npz"))) for name in ("inputs", "activations", "losses", "gradients")}
    assert loaded["inputs"]["image"].shape == (4, 32, 32, 3)
    assert list(loaded["activations"].files)[:2] == ["conv1_1", "conv1_2"]
    assert loaded["activations"]["conv1_1"].shape[:3] == (4, 32, 32)
    assert float(loaded["losses"]["total"]) == losses[0][0]
    # After one step Adam's first moment is a tenth of the gradient.
    once = trained(*QUICK + ("train.steps=1",), run="once")
    values = bundle.read(checkpoints.bundle_prefix(checkpoints.newest_good(str(once))))
    for name in loaded["gradients"].files:
        np.testing.assert_allclose(values[name + "/Adam"], np.float32(0.1) * loaded["gradients"][name], rtol=1e-5, atol=1e-12)
    said = stats(first)
    assert said["first_not_finite"] == ""
    assert said["activations"]["conv1_1"]["max"] == loaded["activations"]["conv1_1"].max()
    assert set(said["gradients"]) == set(loaded["gradients"].files)


@pytest.mark.parametrize("options", [("train.micro_batch=2", "train.recompute=stages"), ("gpu",)])
def test_however_the_batch_is_divided_the_dump_has_all_of_it(small_config, tmp_path, options):
    device = Device("gpu") if "gpu" in options else None
    sets = QUICK + tuple(option for option in options if option != "gpu") + ("dump.steps=1",)
    divided = _run(small_config(*sets), tmp_path / "divided", device=device)
    plain = _run(small_config(*QUICK, "dump.steps=1"), tmp_path / "plain")
    a, b = (np.load(str(folder / "step-00000002" / "activations.npz")) for folder in (divided, plain))
    assert a.files == b.files
    for name in a.files:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_statistics_alone_are_small(small_config, tmp_path):
    folder = _run(small_config(*QUICK + ("dump.steps=1", "dump.what=stats")), tmp_path / "stats")
    assert [path.name for path in (folder / "step-00000002").iterdir()] == ["stats.json"]


def test_an_overflow_shows_the_layer_in_which_it_began(small_config, tmp_path, caplog):
    def spoil(values):
        values["CPM/conv3_2/biases"][...] = np.inf

    folder = _run(small_config(*QUICK + ("dump.overflow=true",)), tmp_path / "overflow", spoil=spoil, steps=3)
    assert [path.name for path in folder.iterdir()] == ["step-00000001-overflow"]  # those after it were not made at all
    said = stats(folder / "step-00000001-overflow")
    assert said["first_not_finite"] == "conv3_2 (activations)"
    assert said["activations"]["conv3_1"]["inf"] + said["activations"]["conv3_1"]["nan"] == 0
    assert said["activations"]["conv3_2"]["inf"] + said["activations"]["conv3_2"]["nan"] > 0
    assert "numbers that are none begin in conv3_2 (activations)" in caplog.text


def test_without_an_overflow_nothing_is_dumped(small_config, tmp_path):
    assert not _run(small_config(*QUICK + ("dump.overflow=true",)), tmp_path / "fine").exists()


def test_the_graph_is_that_of_a_run_without_dumps(small_config):
    def nodes(*overrides):
        made = build(small_config(*QUICK + overrides), BODY).graph.as_graph_def()
        return [(node.name, node.op, list(node.input)) for node in made.node]

    build = graph.build.__wrapped__  # without the memory of test/graph_cache.py
    assert nodes() == nodes("dump.steps=0", "dump.overflow=true", "train.profile=1:2")


def test_statistics_are_those_of_the_finite_numbers():
    found = dumps.statistics(np.array([[1, -3, 0], [np.nan, np.inf, -np.inf]], np.float32))
    assert found == {
        "shape": [2, 3], "dtype": "float32", "nan": 1, "inf": 2, "zeros": 1, "min": -3.0, "max": 1.0,
        "mean": pytest.approx(-2 / 3), "std": pytest.approx(np.std([1, -3, 0])),
    }  # fmt: skip
    assert dumps.statistics(np.full(3, np.nan))["min"] is None


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), {}),
        (("dump.steps=0|5|10-20",), {"enable_dump": True, "dump_step": "0|5|10-20", "dump_mode": "all", "dump_data": "tensor"}),
        (("dump.steps=0", "dump.what=stats"), {"enable_dump": True, "dump_step": "0", "dump_mode": "all", "dump_data": "stats"}),
        (("dump.overflow=true",), {"enable_dump_debug": True, "dump_debug_mode": "all"}),
    ],
)
def test_an_npu_dumps_by_itself(small_config, tmp_path, overrides, expected):
    options = loop._npu_options(small_config(*overrides), str(tmp_path))
    assert options == (dict(expected, dump_path=str(tmp_path / "dump")) if expected else {})
    npu_options.check(options, "910")  # which looks for the folder
    config = tf.ConfigProto()
    custom = config.graph_options.rewrite_options.custom_optimizers.add()
    custom.name = "NpuOptimizer"
    npu.put(config, options)
    found = custom.parameter_map
    assert {key: found[key].WhichOneof("value") for key in found} == {key: "b" if value is True else "s" for key, value in options.items()}


def test_an_npu_makes_one_kind_of_dump_at_a_time(small_config, tmp_path):
    with pytest.raises(UserError, match=r"dump.steps=0 excludes dump.overflow on an NPU: set one of them"):
        loop._npu_options(small_config("dump.steps=0", "dump.overflow=true"), str(tmp_path))


def _run(config, folder, device=None, spoil=None, steps=2):
    """Make steps in a session of its own and return the folder of their dumps."""
    training = graph.build(config, BODY, device)
    session_config = tf.ConfigProto(device_count={"CPU": config.train.replicas})
    batches, session = pipeline.Pipeline(readers.training(config), config, BODY), tf.Session(graph=training.graph, config=session_config)
    with batches, session:
        values = graph.initial_values(training, config)
        if spoil:
            spoil(values)
        training.set_variables(session, values)
        config.dump.path = str(folder)
        maker = Steps(session, training, batches, last=steps, dumps=dumps.Dumps(session, training, config, "", 0))
        for number in range(1, steps + 1):
            maker.run(number, [1e-3])
        maker.done()
    return folder
