"""How much room and memory the doctor asks for: what retention leaves and never more than the run makes; what was measured."""

import pytest

from mtc import config as configuration
from mtc.errors import UserError
from mtc.training import memory
from tasks import doctor


def count(bytes_of, *overrides):
    """How many checkpoints of the run the room is for: of 40, unless the overrides say otherwise."""
    config = configuration.load("demo", ("train.steps=4000", "train.snapshot_every=100", "evaluation.samples=0") + overrides)
    found, rest = divmod(bytes_of(config), doctor.checkpoint_bytes(config))
    assert rest == 0
    return found


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("checkpoint.keep_last=3",), 4),  # and the one that is being written
        (("checkpoint.keep_last=0",), 40),
        (("checkpoint.keep_last=100",), 40),
        (("checkpoint.keep_last=3", "checkpoint.keep_every=1000"), 4 + 4),
        (("checkpoint.keep_last=3", "checkpoint.keep_every=150"), 4 + 13),  # of the multiples of 150 every other is a checkpoint
        (("checkpoint.keep_last=3", "checkpoint.keep_best=2"), 4),  # nothing says which are best
        (("checkpoint.keep_last=3", "checkpoint.keep_best=2", "evaluation.samples=8"), 4 + 2),
        (("checkpoint.keep_last=3", "train.start_step=3900"), 1),
    ],
)
def test_room_in_the_run_directory_follows_the_retention(overrides, expected):
    assert count(doctor.run_dir_bytes, *overrides) == expected


def test_room_in_the_storage_follows_its_own_retention():
    assert count(doctor.storage_bytes) == 40
    assert count(doctor.storage_bytes, "storage.keep_last=3", "storage.keep_every=1000", "evaluation.samples=8") == 4 + 4 + 1
    assert count(doctor.run_dir_bytes, "storage.keep_last=3") == count(doctor.run_dir_bytes) == 6


def test_a_moving_average_makes_checkpoints_larger_by_a_third():
    plain, averaged = (configuration.load("coco_body", overrides) for overrides in ((), ("train.ema=0.999",)))
    assert doctor.checkpoint_bytes(plain) == pytest.approx(12 * doctor.PARAMETERS)
    assert doctor.checkpoint_bytes(averaged) == pytest.approx(16 * doctor.PARAMETERS)


def test_devices_that_a_run_asks_for_are_counted(tmp_path, capsys, monkeypatch):
    from mtc import devices

    asked = []

    def select(config):
        asked.append((config.train.device, config.train.replicas))
        raise UserError("train.replicas=2: one is there")

    monkeypatch.setattr(devices, "select", select)
    places = ["--set", "data.root={}".format(tmp_path / "data"), "--set", "storage.uri={}".format(tmp_path / "storage")]
    assert doctor.main(["--config", "demo", "--run-dir", str(tmp_path / "run"), "--set", "train.replicas=2"] + places) == 2
    assert asked == [("auto", 2)]
    assert "FAULT   device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "gigabytes"),
    [
        ((), 2.8),  # docs/performance.md: measured at batch 2, 368 px, TensorFlow 2
        (("train.batch_size=8",), 4.7),
        (("train.recompute=stages",), 2.4),
        (("train.batch_size=8", "train.recompute=stages"), 2.9),
    ],
)
def test_the_estimate_of_memory_is_near_what_was_measured(overrides, gigabytes):
    config = configuration.load("ascend_perf", ("train.batch_size=2", "train.device=cpu") + overrides)
    assert memory.estimate(config, doctor.PARAMETERS) == pytest.approx(gigabytes * 1e9, rel=0.15)


def test_replicas_and_parts_count_what_is_computed_at_a_time():
    def images(*overrides):
        config = configuration.load("ascend_perf", ("train.batch_size=8",) + overrides)
        return round(
            (memory.estimate(config, 0) - memory.estimate(configuration.load("ascend_perf", ("train.batch_size=8", "model.width=0.01")), 0)) / 3.2e8
        )

    assert [images(), images("train.micro_batch=2"), images("train.micro_batch=2", "train.replicas=2")] == [8, 2, 4]


def test_too_little_memory_is_a_fault_with_a_remedy_on_a_cpu_only(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    with pytest.raises(
        UserError, match=r"about 2\.. GB for a process .*, this machine has 1\.0 GB free: lower train.batch_size, or set train.micro_batch"
    ):
        doctor._memory(configuration.load("ascend_perf", ("train.device=cpu",)))
    assert "1.0 GB free" in doctor._memory(configuration.load("ascend_perf", ("train.device=npu",)))
    monkeypatch.setattr(memory, "available", lambda: None)
    assert "free" not in doctor._memory(configuration.load("ascend_perf", ("train.device=cpu",)))


def test_memory_that_is_available_is_what_the_kernel_says():
    with open("/proc/meminfo") as f:
        total = int(f.readline().split()[1]) * 1024
    assert 0 < memory.available() <= total


def test_a_part_of_coco_needs_little_room(tmp_path):
    empty = ("data.root={}".format(tmp_path), "fetch.source=http://127.0.0.1:1")
    whole, part = (doctor.data_bytes(configuration.load("coco_body", empty + more)) for more in ((), ("fetch.images=100",)))
    assert part < whole / 10
