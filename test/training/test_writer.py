"""Checkpoints are written beside the loop, and what goes wrong there is raised in it."""

import os
import subprocess
import threading

import numpy as np
import pytest

from mtc.errors import RunFailed
from mtc.training import bundle, checkpoints
from mtc.training.writer import CheckpointWriter

VALUES = {"CPM/a/weights": np.arange(6, dtype=np.float32).reshape(2, 3), "global_step": np.array(7, np.int32)}


@pytest.fixture
def saved():
    return []


@pytest.fixture
def writer(tmp_path, saved):
    with CheckpointWriter(str(tmp_path), lambda directory, step, *seconds: saved.append((step, seconds))) as made:
        yield made


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "mtc-test", str(folder)], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("mounting a small file system takes rights that this user has not")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def save(writer, step, values=None):
    writer.save(step, lambda: values or VALUES, lambda: {"samples": 2 * step})


def test_a_checkpoint_is_whole_and_told_of(writer, saved, tmp_path):
    save(writer, 7)
    writer.wait()
    directory = writer.saved
    assert checkpoints.problem(directory) is None
    assert checkpoints.state(directory)["samples"] == 14
    read = bundle.read(checkpoints.bundle_prefix(directory))
    assert all(np.array_equal(read[name], VALUES[name]) for name in VALUES)
    ((step, (written, stalled, copied)),) = saved
    assert step == 7
    assert written > 0
    assert stalled >= copied >= 0


def test_the_loop_goes_on_while_a_checkpoint_is_written_and_the_next_save_waits(writer, saved, monkeypatch):
    release, order, write = threading.Event(), [], bundle.BundleWriter.write

    def slow(self, prefix, values):
        order.append("begins {}".format(os.path.basename(prefix)))
        release.wait()
        write(self, prefix, values)
        order.append("ends {}".format(os.path.basename(prefix)))

    monkeypatch.setattr(bundle.BundleWriter, "write", slow)
    save(writer, 1)  # comes back, though nothing is written yet
    order.append("steps are made")
    assert saved == []
    release.set()
    save(writer, 2)
    writer.wait()
    order.remove("steps are made")
    assert order == ["begins model-1", "ends model-1", "begins model-2", "ends model-2"]
    assert [step for step, _ in saved] == [1, 2]


def test_an_error_is_raised_at_the_next_look_with_its_cause(writer, monkeypatch, tmp_path):
    save(writer, 1)
    writer.wait()

    def broken(path):
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(checkpoints, "_describe", broken)
    save(writer, 2)
    with pytest.raises(RunFailed, match=r"checkpoint of step 2 cannot be written: .*step-00000002.*: Input/output error"):
        writer.wait()
    assert os.listdir(checkpoints.folder(str(tmp_path))) == ["step-00000001"]
    writer.check()  # once


def test_a_bug_in_the_thread_is_not_swallowed(writer, monkeypatch):
    monkeypatch.setattr(checkpoints, "save", lambda *a: 1 / 0)
    save(writer, 1)
    with pytest.raises(ZeroDivisionError):
        writer.wait()


def test_weights_that_are_no_numbers_are_not_saved(writer, tmp_path):
    save(writer, 1, dict(VALUES, **{"CPM/a/weights": np.array([1, np.nan], np.float32)}))
    with pytest.raises(RunFailed, match="not finite after step 1 .CPM/a/weights"):
        writer.wait()
    assert checkpoints.listed(str(tmp_path)) == []


def test_somebody_elses_lock_stops_the_save(tmp_path):
    def guard():
        raise RunFailed("taken over")

    with CheckpointWriter(str(tmp_path), None, guard=guard) as writer, pytest.raises(RunFailed, match="taken over"):
        save(writer, 1)
    assert checkpoints.listed(str(tmp_path)) == []


@pytest.mark.parametrize("room", [0, 4096, 300000, 802000])
def test_a_full_disk_keeps_the_old_checkpoint_and_says_so(small_disk, room):
    values = {"CPM/a/weights": np.random.RandomState(0).rand(200000).astype(np.float32)}  # 0.8 MB
    with CheckpointWriter(str(small_disk), lambda *a: None) as writer:
        save(writer, 1, values)
        writer.wait()
        free = os.statvfs(str(small_disk))
        (small_disk / "filler").write_bytes(b"x" * max(0, free.f_bavail * free.f_frsize - room))
        save(writer, 2, values)
        with pytest.raises(RunFailed, match=r"step-?.?0*2 cannot be written: .*[Nn]o space left"):
            writer.wait()
        assert os.listdir(checkpoints.folder(str(small_disk))) == ["step-00000001"]
        assert checkpoints.newest_good(str(small_disk)).endswith("step-00000001")
        (small_disk / "filler").unlink()
        save(writer, 2, values)
        writer.wait()
    assert checkpoints.newest_good(str(small_disk)).endswith("step-00000002")


def test_a_read_only_disk_keeps_the_old_checkpoint_and_says_so(small_disk):
    with CheckpointWriter(str(small_disk), lambda *a: None) as writer:
        save(writer, 1)
        writer.wait()
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        save(writer, 2)
        with pytest.raises(RunFailed, match="checkpoint of step 2 cannot be written: .*Read-only file system"):
            writer.wait()
    assert checkpoints.newest_good(str(small_disk)).endswith("step-00000001")


def test_a_bundle_that_came_out_short_is_refused(tmp_path, monkeypatch):
    size = os.path.getsize
    monkeypatch.setattr(os.path, "getsize", lambda path: size(path) - 1)
    with pytest.raises(RunFailed, match="has 27 of 28 bytes"):
        bundle.BundleWriter().write(str(tmp_path / "model-1"), VALUES)
