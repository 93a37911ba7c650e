"""The reference's entry points, test/train_*.sh, run as its users run them and read as their scripts read them."""

import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mtc import config as configuration
from mtc.training import checkpoints

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TINY = ("model.width=0.02", "model.stages=1", "model.crop=32", "train.threads=1", "train.device=cpu", "data.workers=2")
BLANK = TINY + ("snapshot.uri=none",)
SNAPSHOT = "Final_qual_domeCOCO_chest_noPAF2D"
pytestmark = [pytest.mark.first, pytest.mark.timeout(900)]  # each starts TensorFlow, some several times
CASE = "monoculartotalcapture_ID0866_for_Tensorflow_bs1_{}_{}"


@pytest.fixture(scope="module")
def reference_tree(small_data, tmp_path_factory):
    """A --data_path in the reference's layout, spaces in its path, with a snapshot of step 390000 of a tiny network."""
    from tasks import train

    folder = tmp_path_factory.mktemp("the data")
    (folder / "COCO_data").mkdir()
    for name in ("train2017", "mask2017", "COCO.json"):
        os.symlink(os.path.join(small_data, name), str(folder / "COCO_data" / name))
    run = folder / "before"
    sets = TINY + ("data.root=" + small_data, "storage.uri={}".format(folder / "storage"), "snapshot.uri=none")
    sets += ("train.start_step=389999", "train.steps=390000")
    assert train.main(["--config", "ascend_perf", "--run-dir", str(run)] + [word for item in sets for word in ("--set", item)]) == 0
    (folder / SNAPSHOT).mkdir()
    for name in os.listdir(checkpoints.newest_good(str(run))):
        if name.startswith("model-390000"):
            shutil.copy(os.path.join(checkpoints.newest_good(str(run)), name), str(folder / SNAPSHOT / name))
    return folder


@pytest.fixture
def script(tmp_path):
    """Start a script in a directory of its own: script("train_full_1p.sh", "--help", device=3). Its output goes to `tmp_path`/the output."""
    started = []

    def start(name, *arguments, device=0, sets=TINY, **more):
        inherited = {key: value for key, value in os.environ.items() if key not in ("RANK_SIZE", "RANK_ID", "RANK_TABLE_FILE", "MTC_SET")}
        env = dict(inherited, MTC_PYTHON=sys.executable, MTC_OUTPUT="the output", MTC_SET=" ".join(sets), ASCEND_DEVICE_ID=str(device), **more)
        command = ["bash", os.path.join(HOME, "test", name)] + list(arguments)
        process = subprocess.Popen(command, cwd=str(tmp_path), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def ended(process):
    """Return (exit code, output) of a script."""
    text = process.communicate(timeout=800)[0]
    return process.returncode, text


def awk(program, path):
    return subprocess.check_output(["awk", program, str(path)], universal_newlines=True).strip()


def keys(path):
    """Return {key: value} of a result file."""
    return dict(line.split(" = ", 1) for line in path.read_text().splitlines())


def test_both_run_at_once_and_leave_what_the_references_readers_expect(script, reference_tree, small_data, tmp_path):
    output = tmp_path / "the output"
    (output / "0").mkdir(parents=True)
    (output / "0" / "of the run before").touch()
    asked = ("--over_dump=True", "--profiling=True", "--steps=12") + ("--precision_mode=force_fp32",)
    full = script("train_full_1p.sh", "--data_path", str(reference_tree), *asked, device=0)
    asked = ("--data_dump_flag=True", "--data_dump_step=0|2-3") + ("--precision_mode", "allow_mix_precision")
    speed = script("train_performance_1p.sh", *asked, "--data_path=" + small_data, device=1, sets=BLANK)
    while not ((output / ".0.lock").exists() and (output / ".0.lock").read_text()):
        assert full.poll() is None, full.communicate()[0]
        time.sleep(0.01)  # for a file that another process makes
    code, text = ended(script("train_performance_1p.sh", "--data_path=" + small_data, sets=BLANK, device=0))
    assert (code, len(text.splitlines())) == (1, 1), text
    assert "[Error] device 0 is in use by train_full_1p.sh, process {}, ".format(full.pid) in text
    results = ended(full), ended(speed)
    assert [code for code, _ in results] == [0, 0], results

    for device, suffix, steps, text in (0, "acc", 12, results[0][1]), (1, "perf", 99, results[1][1]):
        case, here = CASE.format("1p", suffix), output / str(device)
        log = here / "train_{}.log".format(device)
        numbers = [int(n) for n in awk("/Iteration/ {print $2}", log).split()]
        assert numbers == list(range(390001, 390001 + steps))
        found = keys(here / (case + ".log"))
        assert list(found) == [
            "Network", "RankSize", "BatchSize", "DeviceType", "CaseName", "ActualFPS", "TrainingTime", "ActualLoss", "E2ETrainingTime",
        ]  # fmt: skip
        assert (found["CaseName"], found["RankSize"], found["BatchSize"], found["DeviceType"]) == (case, "1", "1", platform.machine())
        # The reference's own arithmetic: the mean of field 10 without the first line; field 4 without its comma, the mean of the last ten.
        duration = float(awk('/Iteration/ {n++; if (n > 1) s += $10} END {printf "%.9f", s / (n - 1)}', log))
        assert float(found["TrainingTime"]) == pytest.approx(duration, abs=1e-6)
        assert found["ActualFPS"] == "{:.2f}".format(1 / float(found["TrainingTime"]))
        losses = (here / "train_{}_loss.txt".format(case)).read_text().split()
        assert losses == awk('/Iteration/ {gsub(",", "", $4); print $4}', log).split()
        assert float(found["ActualLoss"]) == pytest.approx(sum(float(loss) for loss in losses[-10:]) / 10, rel=1e-4)
        lines = text.splitlines()
        assert lines[0] == "Device ID: {}".format(device)
        rest = ["Final Performance images/sec : " + found["ActualFPS"]]
        rest += ["Final Train Accuracy : " + found["ActualLoss"]] if suffix == "acc" else []
        rest += ["E2E Training Duration sec : " + found["E2ETrainingTime"]]
        assert lines[1:] == ["------------------ Final result ------------------"] + rest

    assert (output / "0.before" / "of the run before").exists()
    assert_checkpoint_loads(output / "0" / "ckpt", 390012)
    assert "Initialized" in (output / "0" / "train_0.log").read_text()  # from the snapshot
    summary = json.loads((output / "profiling" / "0" / "summary.json").read_text())
    assert summary["steps"] == [390001, 390012]
    config = configuration.read(str(output / "0" / "run" / "config.json"))
    other = configuration.read(str(output / "1" / "run" / "config.json"))
    assert [(c.npu.precision_mode, c.train.precision) for c in (config, other)] == [("force_fp32", "fp32"), ("allow_mix_precision", "mixed_fp16")]
    assert (config.dump.overflow, config.dump.path) == (True, str(output / "overflow_dump" / "0"))
    assert os.listdir(str(output / "overflow_dump" / "0")) == []  # all numbers were
    assert sorted(os.listdir(str(output / "data_dump" / "1"))) == ["step-00390001", "step-00390003", "step-00390004"]


def assert_checkpoint_loads(folder, step):
    """The folder is one that TensorFlow's own functions find the newest checkpoint in."""
    import tensorflow.compat.v1 as tf

    found = tf.train.latest_checkpoint(str(folder))
    assert os.path.basename(found) == "model-{}".format(step)
    assert tf.train.load_checkpoint(found).get_tensor("global_step") == step


def test_a_run_that_is_stopped_saves_and_says_how_to_go_on(script, reference_tree, tmp_path):
    run = script("train_full_1p.sh", "--data_path=" + str(reference_tree), device=5)
    log = tmp_path / "the output" / "5" / "train_5.log"
    while not (log.exists() and "Iteration 390003" in log.read_text()):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.02)  # for a line that another process writes
    run.send_signal(signal.SIGTERM)
    code, text = ended(run)
    assert code == 3, text
    step = int(awk("/Iteration/ {n = $2} END {print n}", log))
    assert_checkpoint_loads(tmp_path / "the output" / "5" / "ckpt", step)
    command = text.split("To go on from its newest checkpoint: ")[1].strip()
    subprocess.run(["bash", "-c", command.replace("train.steps=399999", "train.steps={}".format(step + 2))], check=True, stdout=subprocess.DEVNULL)
    assert "Iteration {}".format(step + 2) in (log.parent / "run" / "train.log").read_text()


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--data_path=/x", "--help"], ["--profiling", "-h"]])
def test_help_is_there_at_any_place_with_the_references_exit_code(script, arguments):
    code, text = ended(script("train_full_1p.sh", *arguments))
    assert code == 1
    for option in ("data_path", "precision_mode", "over_dump", "data_dump_flag", "data_dump_step", "profiling", "help"):
        assert "--" + option in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], 'para "data_path" must be confing'),
        (["--data_path"], 'para "data_path" must be confing'),
        (["--data_path="], 'para "data_path" must be confing'),
        (["--data_path", "--profiling=True"], 'para "data_path" must be confing'),
        (["--data_pth=/x"], 'unknown option "--data_pth=/x"'),
        (["--data_path=/x", "--profiling=maybe"], 'para "profiling" must be True or False'),
        (["--data_path=/x", "--over_dump=True", "--data_dump_flag=True"], "exclude each other"),
        (["--data_path=/x", "--steps=0"], 'para "steps" must be a number above 0'),
        (["--data_path=/x", "--rank_table=/y"], "take the 8p script"),
        (["--data_path=/nowhere"], "neither /nowhere/COCO_data/COCO.json nor /nowhere/COCO.json is there"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_1(script, tmp_path, arguments, sentence):
    code, text = ended(script("train_performance_1p.sh", *arguments))
    assert (code, len(text.splitlines())) == (1, 1), text
    assert text.startswith("[Error] ")
    assert sentence in text
    assert not (tmp_path / "the output").exists()


def test_without_a_snapshot_nothing_starts(script, small_data):
    code, text = ended(script("train_full_1p.sh", "--data_path=" + small_data))
    if any(name.endswith(".index") for _, _, names in os.walk(os.path.join(HOME, "snapshots")) for name in names):
        pytest.skip("there is a snapshot in snapshots/")
    assert code == 1
    assert "MTC_SET=snapshot.uri=none" in text


def test_a_device_stays_locked_while_anybody_holds_its_file(script, small_data, tmp_path):
    (tmp_path / "the output").mkdir()
    with open(str(tmp_path / "the output" / ".2.lock"), "w") as held:
        held.write("somebody\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        code, text = ended(script("train_full_1p.sh", "--data_path=" + small_data, device=2, sets=BLANK))
    assert (code, "device 2 is in use by somebody" in text) == (1, True)


def test_several_devices_are_one_run(script, reference_tree, tmp_path):
    code, text = ended(script("train_performance_8p.sh", "--data_path=" + str(reference_tree), "--steps=3", "--profiling=True", RANK_SIZE="2"))
    assert code == 0, text
    found = keys(tmp_path / "the output" / "0" / (CASE.format("2p", "perf") + ".log"))
    assert (found["RankSize"], found["BatchSize"]) == ("2", "1")
    assert float(found["ActualFPS"]) == pytest.approx(2 / float(found["TrainingTime"]), abs=0.006)
    assert_checkpoint_loads(tmp_path / "the output" / "0" / "ckpt", 390003)
    parts = json.loads((tmp_path / "the output" / "profiling" / "0" / "summary.json").read_text())["parts"]
    assert [entry["ms"] > 0 for entry in parts if entry["part"] == "sums over ranks"] == [True]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_scripts_have_no_likely_bugs():
    scripts = sorted(name for name in os.listdir(os.path.join(HOME, "test")) if name.endswith(".sh"))
    assert len(scripts) == 5
    subprocess.run(["shellcheck", "-x"] + [os.path.join("test", name) for name in scripts], cwd=HOME, check=True)
