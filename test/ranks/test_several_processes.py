"""Trainings of several processes on loopback: the numbers of one process, and an end together, however it comes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tensorflow.compat.v1 as tf

from mtc.training import checkpoints
from mtc.training.ranks.link import free_port
from test.training.test_training import assert_same_variables, metrics

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MIX = (
    "model.stages=1",
    "model.crop=32",
    "data.mix={coco: 2, synthetic3d: 1}",
    "train.batch_size=4",
    "train.steps=4",
    "train.snapshot_every=2",
    "evaluation.samples=0",
    "previews.every=0",
)
"""Labels of several kinds, so that the ranks' parts weigh differently."""

pytestmark = pytest.mark.timeout(900)  # each starts TensorFlow several times
PATIENCE = 400
"""Seconds after which a test gives up waiting; a crowded machine takes its time."""


@pytest.fixture
def launch(small):
    """Start python -m tasks.launch: launch(2, "train.steps=4", run="two")."""
    started = []

    def start(ranks, *overrides, run="run"):
        command = [sys.executable, "-m", "tasks.launch", "--ranks", str(ranks), "--"] + small(*(MIX + overrides), run=run)
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process):
    """Return (exit code, what was printed)."""
    printed, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, printed


def ids(run):
    return {line["step"]: (line["sample"], line["ids"]) for line in metrics(run) if line["kind"] == "train"}


def ranks_of(launcher):
    """Return {rank: process id} of the launcher's children."""
    found = {}
    with open("/proc/{0}/task/{0}/children".format(launcher.pid)) as f:
        for pid in map(int, f.read().split()):
            with open("/proc/{}/environ".format(pid), "rb") as environ:
                values = dict(part.split(b"=", 1) for part in environ.read().split(b"\0") if b"=" in part)
            found[int(values[b"RANK"])] = pid
    return found


def after_a_step(process):
    """Return once the first log line of a training was printed, and all before it."""
    printed = []
    for line in process.stdout:
        printed.append(line)
        if "Iteration" in line:
            return printed
    raise AssertionError("it ended: " + "".join(printed))


def is_gone(pid):
    try:
        with open("/proc/{}/stat".format(pid)) as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pids):
    until = time.monotonic() + PATIENCE
    while not all(is_gone(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.1)


def worst_difference(one, other, names=("weights", "biases")):
    """Return the largest difference of any weight over its tensor's largest one."""
    readers = [tf.train.load_checkpoint(checkpoints.bundle_prefix(checkpoints.newest_good(str(run)))) for run in (one, other)]
    found = [name for name in readers[0].get_variable_to_shape_map() if name.endswith(names)]
    pairs = [[reader.get_tensor(name) for reader in readers] for name in found]
    return max(abs(a - b).max() / abs(a).max() for a, b in pairs)


def test_ranks_equal_one_process_and_themselves_and_hand_on_to_another_number(trained, launch, tmp_path):
    trained(*MIX, run="one")
    processes = [launch(2, run="two"), launch(2, run="again")]
    for process in processes:
        code, printed = ended(process)
        assert code == 0, printed
    assert worst_difference(tmp_path / "one", tmp_path / "two") < 1e-3  # Adam makes 1e-5 of what is 1e-7 in a gradient near 0
    assert_same_variables(tmp_path / "two", tmp_path / "again")
    assert [line["ranks"] for line in metrics(tmp_path / "two") if line["kind"] == "start"] == [2]

    code, printed = ended(launch(4, "train.only=2", run="four"))
    assert code == 0, printed
    trained(*MIX, run="four")
    assert [line["ranks"] for line in metrics(tmp_path / "four") if line["kind"] == "start"] == [4, 1]
    assert ids(tmp_path / "one") == ids(tmp_path / "two") == ids(tmp_path / "four")
    assert worst_difference(tmp_path / "one", tmp_path / "four") < 1e-3
    losses = [[line["loss"] for line in metrics(tmp_path / run) if line["kind"] == "train"] for run in ("one", "two", "four")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)

    code, printed = ended(launch(2, run="two"))  # there is nothing to do, and the other rank is told so
    assert code == 0
    assert "rank 0 has ended: there was nothing to train" in printed


@pytest.mark.first
@pytest.mark.parametrize("dies", [0, 1])
def test_when_a_rank_is_killed_all_end_and_the_same_command_goes_on(launch, tmp_path, dies):
    process = launch(2, "train.steps=100000", "train.snapshot_every=3")
    after_a_step(process)
    pids = ranks_of(process)
    assert sorted(pids) == [0, 1]
    os.kill(pids[dies], signal.SIGKILL)
    code, printed = ended(process)
    assert code == 1
    assert "rank {} (127.0.0.1) is gone".format(dies) in printed
    assert all(is_gone(pid) for pid in pids.values())
    if dies == 1:
        record = json.loads((tmp_path / "run" / "steps" / "train.json").read_text())
        assert record["status"] == "failed"
        assert "rank 1 (127.0.0.1) is gone" in record["error"]
        last = max(line["step"] for line in metrics(tmp_path / "run") if line["kind"] == "train")
        code, printed = ended(launch(2, "train.steps={}".format(last + 2)))
        assert code == 0, printed


@pytest.mark.first
@pytest.mark.parametrize("who", ["launcher", "rank 1", "launcher, killed"])
def test_a_signal_to_any_saves_and_ends_all(launch, tmp_path, who):
    process = launch(2, "train.steps=100000", "train.snapshot_every=100000")
    after_a_step(process)
    pids = ranks_of(process)
    os.kill(pids[1] if who == "rank 1" else process.pid, signal.SIGKILL if "killed" in who else signal.SIGTERM)
    code, printed = ended(process)
    wait_until_gone(pids.values())
    assert code == (-signal.SIGKILL if "killed" in who else 3)
    saved = checkpoints.newest_good(str(tmp_path / "run"))
    assert saved
    assert checkpoints.step_of(saved) == max(line["step"] for line in metrics(tmp_path / "run") if line["kind"] == "train")
    record = json.loads((tmp_path / "run" / "steps" / "train.json").read_text())
    assert record["status"] == "stopped"


@pytest.mark.first
def test_a_sample_that_another_rank_cannot_read_is_replaced_counted_or_ends_all(small, small_data, launch, tmp_path):
    data = tmp_path / "data"
    subprocess.run(["cp", "-r", small_data, str(data)], check=True)
    labels = json.loads((data / "COCO.json").read_text())
    images = sorted((data / "train2017").iterdir())
    assert labels
    images[0].write_bytes(b"no picture")
    bad = "data.root={}".format(data)
    code, printed = ended(launch(2, bad, "data.max_bad_fraction=0.9", "train.steps=12", run="borne"))
    assert code == 0, printed
    named = [line for line in metrics(tmp_path / "borne") if line["kind"] == "bad_sample"]
    assert named
    code, printed = ended(launch(2, bad, "data.max_bad_fraction=0", "train.steps=12", run="refused"))
    assert code == 2, printed
    assert images[0].name in printed


@pytest.mark.first
def test_ranks_that_want_different_things_do_not_start(small, tmp_path):
    environ = dict(os.environ, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    made = []
    for rank, seed in enumerate((1, 2)):
        command = [sys.executable, "-m", "tasks.train"] + small(*(MIX + ("train.seed={}".format(seed),)))
        made.append(subprocess.Popen(command, cwd=ROOT, env=dict(environ, RANK=str(rank)), stderr=subprocess.PIPE, text=True))
    for process in made:
        _, printed = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2
        assert "train.seed is 2, not 1" in printed


@pytest.mark.first
def test_a_batch_that_cannot_be_divided_is_refused_at_once(small):
    command = [sys.executable, "-m", "tasks.launch", "--ranks", "3", "--"] + small(*MIX)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "train.batch_size=4: cannot be divided equally among 3 ranks" in done.stdout
