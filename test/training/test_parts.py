"""Schedule and checkpoints by themselves."""

import os

import pytest

from mtc.errors import UserError
from mtc.lock import exclusive
from mtc.training import checkpoints
from mtc.training.optimizer import learning_rate


@pytest.mark.parametrize(
    ("step", "legacy", "rate"),
    [(1, False, 1e-4), (100000, False, 1e-4), (100001, False, 1e-5), (100001, True, 1e-4), (100002, True, 1e-5), (390001, True, 1e-5)],
)
def test_the_learning_rate_changes_after_its_step(step, legacy, rate):
    assert learning_rate(step, [1e-4, 1e-5], [100000], legacy) == rate


def test_several_rates_change_at_their_steps_in_both_modes():
    for legacy in (False, True):
        assert [learning_rate(step, [3.0, 2.0, 1.0], [10, 20], legacy) for step in (1, 10, 11, 20, 21)] == [3, 3, 2, 2, 1]


def write_bundle(prefix):
    for suffix in (".index", ".data-00000-of-00001"):
        with open(prefix + suffix, "wb") as f:
            f.write(b"weights" + suffix.encode())


def test_a_save_that_fails_leaves_the_older_checkpoint_and_nothing_else(tmp_path):
    old = checkpoints.save(str(tmp_path), 4, write_bundle, {})

    def full(prefix):
        write_bundle(prefix)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.save(str(tmp_path), 8, full, {})
    assert os.listdir(checkpoints.folder(str(tmp_path))) == ["step-00000004"]
    assert checkpoints.newest_good(str(tmp_path)) == old


def test_every_file_of_a_checkpoint_is_covered_by_its_manifest(tmp_path):
    directory = checkpoints.save(str(tmp_path), 4, write_bundle, {})
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        with open(path, "rb") as f:
            good = f.read()
        for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 0xFF])):
            with open(path, "wb") as f:
                f.write(bad)
            assert checkpoints.problem(directory), name
        os.unlink(path)
        assert checkpoints.problem(directory), name
        with open(path, "wb") as f:
            f.write(good)
    assert checkpoints.problem(directory) is None


def test_what_a_crash_left_of_a_save_is_cleared_by_the_next(tmp_path):
    leftover = tmp_path / "checkpoints" / ".step-00000008"
    leftover.mkdir(parents=True)
    (leftover / "model-8.index").write_bytes(b"torn")
    assert checkpoints.newest_good(str(tmp_path)) is None
    checkpoints.save(str(tmp_path), 8, write_bundle, {})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000008"]


def test_a_second_trainer_is_refused_by_name(tmp_path):
    path = str(tmp_path / ".lock")
    with exclusive(path, "trainer"), pytest.raises(UserError, match="another trainer .process {}".format(os.getpid())), exclusive(
        path, "trainer", patience=0.0
    ):
        pass
