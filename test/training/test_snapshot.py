"""Weights from published snapshots: by name, whole, or refused with a list."""

import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtc import snapshot
from mtc.errors import UserError
from mtc.skeleton import BODY
from mtc.training import checkpoints, graph
from tasks import train


@pytest.fixture
def written(tmp_path, small_config):
    """Write a checkpoint with chosen variables and return (prefix, {name: value}, {name: shape of the network})."""
    training = graph.build(small_config(), BODY)
    shapes = training.variable_shapes()

    def write(keep=lambda name: True, scope="CPM/", reshape=None):
        rng = np.random.RandomState(0)
        values = {name: (0.01 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items() if keep(name)}
        values = {name: np.int32(390000) if name == "global_step" else value for name, value in values.items()}
        for name, shape in (reshape or {}).items():
            values[name] = np.zeros(shape, np.float32)
        path = str(tmp_path / "published" / "model-390000")
        with tf.Graph().as_default(), tf.Session() as session:
            variables = [tf.get_variable(name.replace("CPM/", scope, 1), initializer=value) for name, value in values.items()]
            session.run(tf.global_variables_initializer())
            (tmp_path / "published").mkdir()
            tf.train.Saver(variables).save(session, path)
        return path, values, shapes

    return write


def weights_only(name):
    return "Adam" not in name and not name.startswith("beta")


def test_weights_and_adam_slots_are_taken_over(written):
    path, values, shapes = written()
    found = snapshot.read(path, shapes)
    assert set(found) == set(values) - {"global_step"}
    assert all(np.array_equal(found[name], values[name]) for name in found)


def test_a_snapshot_without_adam_slots_is_taken(written):
    path, values, shapes = written(weights_only)
    assert set(snapshot.read(path, shapes)) == set(values) - {"global_step"}


def test_adam_slots_are_left_out_on_demand(written):
    path, values, shapes = written()
    assert set(snapshot.read(path, shapes, adam=False)) == {name for name in values if weights_only(name)} - {"global_step"}


def test_the_first_occurrence_is_renamed(written):
    path, values, shapes = written(weights_only, scope="body/CPM/")  # conv4_4_CPM has the text a second time
    found = snapshot.read(path, shapes, rename={"body/CPM": "CPM"})
    assert "CPM/conv4_4_CPM/weights" in found
    assert set(found) == set(values) - {"global_step"}


def test_discarded_variables_keep_their_initial_values(written):
    path, _, shapes = written(weights_only)
    found = snapshot.read(path, shapes, discard=["stage2", "global_step"])
    assert found
    assert not any("stage2" in name for name in found)


@pytest.mark.parametrize("discard", ["Adam_1", "beta1_power"])
def test_discarding_one_kind_of_adams_variables_discards_all(written, discard):
    path, values, shapes = written()
    assert set(snapshot.read(path, shapes, discard=[discard])) == {name for name in values if weights_only(name)} - {"global_step"}


def test_a_run_that_goes_on_does_not_need_its_snapshot(written, small, tmp_path):
    path, _, _ = written(weights_only)
    assert train.main(small("train.steps=1", "snapshot.uri={}".format(path))) == 0
    shutil.rmtree(str(tmp_path / "published"))
    assert train.main(small("train.steps=2", "snapshot.uri={}".format(path))) == 0


def test_missing_variables_and_other_shapes_are_listed(written):
    path, _, shapes = written(
        lambda name: weights_only(name) and "conv1_2" not in name, reshape={"CPM/conv1_1/biases": (7,), "CPM/extra/weights": (1,)}
    )
    with pytest.raises(UserError) as error:
        snapshot.read(path, shapes)
    text = str(error.value)
    assert "missing: CPM/conv1_2/biases, CPM/conv1_2/weights" in text
    assert "of another shape: CPM/conv1_1/biases [7], here [3]" in text
    assert "not in this network: CPM/extra/weights" in text
    assert "snapshot.discard" in text


def test_half_of_the_adam_slots_is_refused(written):
    path, _, shapes = written(lambda name: "conv1_1/weights/Adam" not in name)
    with pytest.raises(UserError, match="missing: CPM/conv1_1/weights/Adam, CPM/conv1_1/weights/Adam_1"):
        snapshot.read(path, shapes)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, written):
    path, _, shapes = written(weights_only)
    with open(path + ".index", "wb") as f:
        f.write(b"not an index")
    with pytest.raises(UserError, match="not a TensorFlow checkpoint"):
        snapshot.read(path, shapes)


def test_a_run_starts_from_the_snapshot(written, small, tmp_path):
    path, values, _ = written(weights_only)
    assert train.main(small("train.steps=1", "train.lr=1e-12,1e-12", "snapshot.uri={}".format(path))) == 0
    reader = tf.train.load_checkpoint(checkpoints.bundle_prefix(checkpoints.newest_good(str(tmp_path / "run"))))
    name = "CPM/conv3_2/weights"
    assert np.allclose(reader.get_tensor(name), values[name], atol=1e-6)


def test_a_snapshot_that_does_not_fit_ends_with_exit_code_2(written, small, capsys):
    path, _, _ = written(weights_only)
    assert train.main(small("train.steps=1", "model.width=0.1", "snapshot.uri={}".format(path))) == 2
    assert "of another shape" in capsys.readouterr().err
