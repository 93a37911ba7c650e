"""What a run tells, on disks that are well and on disks that are full. /dev/full takes no byte: writing gives ENOSPC (full(4))."""

import errno
import json
import logging
import os
import subprocess
import sys
import types

import pytest
import tensorflow.compat.v1 as tf

from mtc.losses import Losses
from mtc.training import events, journal
from mtc.training.journal import Journal, log_to_file

pytestmark = pytest.mark.first


def done(number, loss=0.5, **others):
    """Return a stand-in for `mtc.training.steps.Done`."""
    facts = {"first_sample": 2 * number - 2, "names": ["a", "ü"], "rate": 1e-4, "seconds": 0.1, "waited": 0.0, "grad_norm": None}
    facts.update(skipped=False, overflowed=False, loss_scale=0.0)
    return types.SimpleNamespace(number=number, losses=Losses(loss, 0.25, 0.25, 1.0, 1.0), **dict(facts, **others))


def write(run_dir, steps, first=1):
    """Journal steps as the loop does."""
    with log_to_file(str(run_dir)) as log_file, Journal(str(run_dir), log_file, first, 100, 1, 1, 1, None) as journal:
        for step in steps:
            journal.step(step)
            journal.sync()


def metrics(run_dir):
    return [json.loads(line, parse_constant=pytest.fail) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def told(caplog, monkeypatch):
    """Return a function that gives the messages of a level which contain a word."""
    logger = logging.getLogger("mtc")
    caplog.set_level(logging.INFO, logger="mtc")
    monkeypatch.setattr(logger, "propagate", False)  # as the commands have it
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    return lambda level, word: [r.getMessage() for r in caplog.records if r.levelname == level and word in r.getMessage()]


class Disk:
    """Stands in for the disk of metrics.jsonl: takes what `script` says, a number of bytes or an errno each, then everything."""

    def __init__(self, monkeypatch, path):
        self.script = []
        self._write, self._path = os.write, str(path)
        monkeypatch.setattr(os, "write", self)

    def __call__(self, file, data):
        if os.readlink("/proc/self/fd/{}".format(file)) != self._path or not self.script:
            return self._write(file, data)
        taken = self.script.pop(0)
        if isinstance(taken, OSError):
            raise taken
        return self._write(file, data[:taken])


@pytest.fixture
def disk(monkeypatch, tmp_path):
    return Disk(monkeypatch, tmp_path / "metrics.jsonl")


def full():
    return OSError(errno.ENOSPC, "No space left on device")


# ---- metrics.jsonl


def test_a_torn_last_line_is_cut_off_when_the_run_goes_on(tmp_path):
    whole = json.dumps({"v": 1, "kind": "train", "step": 1}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(whole + '{"v": 1, "ki')
    write(tmp_path, [done(2)], first=2)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]


def test_a_train_line_names_the_first_sample_and_the_samples_of_its_batch(tmp_path):
    write(tmp_path, [done(1), done(2, names=["a", "b"]), done(3)])
    lines = metrics(tmp_path)
    assert [line["sample"] for line in lines] == [0, 2, 4]
    assert [line["ids"] for line in lines] == ["8d49b186", "ef0790fb", "8d49b186"]


def test_names_that_are_no_text_stop_nothing(tmp_path):
    write(tmp_path, [done(1, names=["\udcff.jpg"])])
    assert len(metrics(tmp_path)[0]["ids"]) == 8


def test_the_norm_of_the_gradient_and_a_skipped_step_are_told_where_there_are_any(tmp_path):
    write(tmp_path, [done(1), done(2, grad_norm=1.5), done(3, grad_norm=float("inf"), skipped=True)])
    assert [{key: line[key] for key in ("grad_norm", "skipped") if key in line} for line in metrics(tmp_path)] == [
        {},
        {"grad_norm": 1.5},
        {"grad_norm": None, "skipped": True},
    ]


def test_a_step_s_loss_scale_and_its_overflow_are_told_where_there_are_any(tmp_path):
    write(tmp_path, [done(1), done(2, loss_scale=64.0), done(3, loss_scale=32.0, overflowed=True)])
    assert [{key: line[key] for key in ("loss_scale", "overflow", "skipped") if key in line} for line in metrics(tmp_path)] == [
        {},
        {"loss_scale": 64.0},
        {"loss_scale": 32.0, "overflow": True},
    ]


def test_numbers_that_are_not_finite_become_null_wherever_they_are(tmp_path):
    with log_to_file(str(tmp_path)) as log_file, Journal(str(tmp_path), log_file, 1, 1, 1, 1, 1, None) as journal:
        journal.step(done(1, loss=float("nan")))
        journal.record("start", device={"flop_per_second": float("inf")}, lr=[1.0, float("-inf")])
    step, start = metrics(tmp_path)
    assert step["loss"] is None
    assert start["device"] == {"flop_per_second": None}
    assert start["lr"] == [1.0, None]


def test_lines_that_a_full_disk_does_not_take_are_written_in_order_when_it_does(tmp_path, disk, told):
    disk.script = [1000, full(), full(), full()]  # a step writes twice: its line, and again at `sync`
    write(tmp_path, [done(n) for n in range(1, 6)])
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5]
    assert len(told("WARNING", "metrics.jsonl cannot be written: No space left on device")) == 1
    assert told("INFO", "metrics.jsonl is written again") == ["{} is written again; lines lost: 0".format(tmp_path / "metrics.jsonl")]


def test_a_line_that_was_written_in_part_is_completed_before_the_next(tmp_path, disk):
    disk.script = [10, full(), 3, 0, full(), 1, 2, 100]
    write(tmp_path, [done(n) for n in range(1, 5)])
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4]
    assert disk.script == []


def test_more_lines_than_memory_is_given_lose_the_oldest_whole_ones_and_their_number_is_told(tmp_path, disk, told, monkeypatch):
    monkeypatch.setattr(journal, "_METRICS_BACKLOG", 1000)
    disk.script = [10] + [full()] * 37
    write(tmp_path, [done(n) for n in range(1, 21)])
    steps = [line["step"] for line in metrics(tmp_path)]
    assert steps[0] == 1  # its beginning was in the file
    assert steps[1:] == list(range(20 - len(steps) + 2, 21))
    assert 2 <= len(steps) <= 6
    assert told("INFO", "metrics.jsonl is written again")[0].endswith("lines lost: {}".format(20 - len(steps)))


def test_a_disk_that_stays_full_costs_the_lines_and_not_the_run(tmp_path, told):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    write(tmp_path, [done(1), done(2)])
    assert len(told("WARNING", "metrics.jsonl cannot be written: No space left on device")) == 1
    assert len(told("WARNING", "metrics.jsonl could not be written to the end; lines lost: 2")) == 1
    assert len((tmp_path / "train.log").read_text().splitlines()) == 4  # both steps, both warnings


@pytest.mark.parametrize("name", ["metrics.jsonl", "train.log"])
def test_a_folder_without_room_for_a_new_file_stops_no_run(tmp_path, monkeypatch, told, name):
    opened, refusals = os.open, [full(), full()]

    def refuse(path, *how, **more):
        if str(path).endswith(name) and refusals:
            raise refusals.pop()
        return opened(path, *how, **more)

    monkeypatch.setattr(os, "open", refuse)
    write(tmp_path, [done(1), done(2)])
    assert len(told("WARNING", "{} cannot be written".format(name))) == 1
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]
    assert [line[:11] for line in (tmp_path / "train.log").read_text().splitlines() if line.startswith("Iter")] == ["Iteration 1", "Iteration 2"]


@pytest.mark.usefixtures("no_superpowers")
def test_a_directory_that_may_not_be_written_is_an_error_at_the_start(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match="train.log"):
        write(tmp_path, [])


def test_a_disk_that_cannot_be_flushed_is_told_once_and_stops_nothing(tmp_path, monkeypatch, told):
    def fail(file):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    write(tmp_path, [done(1), done(2)])
    assert len(told("WARNING", "metrics.jsonl cannot be flushed to the disk: Input/output error")) == 1
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]


def test_what_is_told_after_the_end_is_left_out(tmp_path):
    with log_to_file(str(tmp_path)) as log_file:
        with Journal(str(tmp_path), log_file, 1, 1, 1, 1, 1, None) as journal:
            journal.record("start")
        journal.record("upload")
        journal.sync()
    assert [line["kind"] for line in metrics(tmp_path)] == ["start"]


# ---- train.log and standard output


def test_a_log_that_cannot_be_written_is_told_once_by_the_other_handlers(tmp_path, told, capsys):
    (tmp_path / "train.log").symlink_to("/dev/full")
    write(tmp_path, [done(1), done(2)])
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]
    assert len(told("WARNING", "train.log cannot be written: No space left on device")) == 1
    out, err = capsys.readouterr()
    assert out.count("Iteration") == 2
    assert "Traceback" not in err


def test_what_is_logged_is_in_the_log_beside_the_lines_of_the_steps(tmp_path, told):
    with log_to_file(str(tmp_path)) as log_file:
        log_file.append("Iteration 1")
        logging.getLogger("mtc.somewhere").warning("%d ümlaut", 1)
    logging.getLogger("mtc.somewhere").warning("too late")
    assert (tmp_path / "train.log").read_text(encoding="utf-8") == "Iteration 1\n1 ümlaut\n"


RUN = """
import logging, sys, types
from mtc.losses import Losses
from mtc.training.journal import Journal, log_to_file
logging.basicConfig(format="%(message)s", level=logging.INFO)
with log_to_file(sys.argv[1]) as log_file, Journal(sys.argv[1], log_file, 1, 3, 1, 1, 1, None) as journal:
    for n in (1, 2, 3):
        journal.step(types.SimpleNamespace(number=n, losses=Losses(*[0.5] * 5), rate=1e-4, names=["a"], seconds=0.1, waited=0.0, first_sample=0,
                                           grad_norm=None, skipped=False, overflowed=False, loss_scale=0.0))
"""


def run(run_dir, **streams):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}  # Python shall have a buffer to flush at exit
    process = subprocess.Popen([sys.executable, "-c", RUN, str(run_dir)], universal_newlines=True, env=environment, **streams)
    err = process.communicate()[1]
    assert [line["step"] for line in metrics(run_dir)] == [1, 2, 3]
    assert (run_dir / "train.log").read_text().count("Iteration") == 3
    return process.returncode, err


def test_a_full_disk_under_standard_output_is_told_once_and_the_exit_code_stays_0(tmp_path):
    with open("/dev/full", "w") as device:
        code, err = run(tmp_path, stdout=device, stderr=subprocess.PIPE)
    assert code == 0, err
    assert err.count("standard output cannot be written: No space left on device") == 1


def test_nobody_who_reads_standard_output_is_no_reason_to_stop(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code, err = run(tmp_path, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert code == 0, err
    assert err.count("standard output cannot be written: Broken pipe") == 1


def test_a_full_disk_under_both_standard_streams_leaves_the_exit_code_0(tmp_path):
    with open("/dev/full", "w") as device:
        assert run(tmp_path, stdout=device, stderr=device)[0] == 0


# ---- TensorBoard


def test_tensorboard_s_events_hold_the_figures_of_the_steps(tmp_path):
    write(tmp_path, [done(1), done(2, loss=float("nan"))])
    [path] = (tmp_path / "events").iterdir()
    first, one, two = tf.train.summary_iterator(str(path))
    assert path.name.startswith("events.out.tfevents.")
    assert first.file_version == "brain.Event:2"
    assert [one.step, two.step] == [1, 2]
    assert {value.tag: value.simple_value for value in one.summary.value} == pytest.approx(
        {"loss": 0.5, "loss_2d": 0.25, "loss_PAF": 0.25, "learning_rate": 1e-4}
    )


def test_events_on_a_full_disk_are_given_up_with_one_word_and_the_run_goes_on(tmp_path, monkeypatch, told):
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "full").symlink_to("/dev/full")
    monkeypatch.setattr(events, "file_name", lambda: "full")
    write(tmp_path, [done(1), done(2), done(100)])
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 100]
    [warning] = told("WARNING", "TensorBoard")
    assert "events/full" in warning
    assert "No space left on device" in warning


def test_events_that_fail_later_are_given_up_too(tmp_path, monkeypatch, told):
    def fail(self, record):
        raise tf.errors.ResourceExhaustedError(None, None, "the disk is full")

    with log_to_file(str(tmp_path)) as log_file, Journal(str(tmp_path), log_file, 1, 100, 1, 1, 1, None) as journal:
        journal.step(done(1))
        monkeypatch.setattr(tf.python_io.TFRecordWriter, "write", fail)
        journal.step(done(2))
        journal.step(done(100))
    assert len(told("WARNING", "the disk is full")) == 1
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 100]


def test_a_folder_for_events_that_cannot_be_made_stops_nothing(tmp_path, told):
    (tmp_path / "events").write_text("a file")
    write(tmp_path, [done(1)])
    assert len(told("WARNING", "TensorBoard")) == 1
    assert [line["step"] for line in metrics(tmp_path)] == [1]
