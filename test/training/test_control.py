"""What is asked of a training while it runs is done at the next step, noted, and not forgotten by a crash."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from mtc.errors import UserError
from mtc.training import checkpoints, control, steps
from tasks import control as command
from tasks import train
from test.training.test_training import assert_same_variables, metrics

pytestmark = pytest.mark.first


@pytest.fixture
def ask_during(monkeypatch, tmp_path):
    """Have requests made, or anything done, while given steps are computed: ask_during({3: ("save", None)}, run="run")."""

    def plan(acts, run="run"):
        original, acts = steps.Steps.run, dict(acts)

        def run_step(self, number, rate):
            original(self, number, rate)
            act = acts.pop(number, None)
            if callable(act):
                act()
            elif act:
                control.ask(str(tmp_path / run), *act, by="alice")

        monkeypatch.setattr(steps.Steps, "run", run_step)

    return plan


def steps_saved(run):
    return sorted(checkpoints.step_of(directory) for directory in checkpoints.listed(str(run)))


def rates(run):
    return {line["step"]: line["lr"] for line in metrics(run) if line["kind"] == "train"}


def test_a_checkpoint_is_made_when_it_is_asked_for(trained, ask_during):
    ask_during({3: ("save",)})
    run = trained("train.steps=6")
    assert steps_saved(run) == [3, 4, 6]
    assert [(line["step"], line["by"], line["action"]) for line in metrics(run) if line["kind"] == "control"] == [(3, "alice", "save")]
    assert [(entry["outcome"], entry["step"]) for entry in control.read(str(run))] == [("done", 3)]


def test_a_stop_that_is_asked_for_saves_exits_3_names_who_and_the_same_command_goes_on(small, trained, tmp_path, ask_during):
    straight = trained("train.steps=6", run="straight")
    ask_during({3: ("stop",)})
    assert train.main(small("train.steps=6")) == 3
    record = json.loads((tmp_path / "run" / "steps" / "train.json").read_text())
    assert record["requested_by"] == "alice"
    assert "stopped by alice at step 3" in record["error"]
    assert steps_saved(tmp_path / "run") == [3]
    assert train.main(small("train.steps=6")) == 0
    assert_same_variables(tmp_path / "run", straight)


def test_a_training_is_extended_and_is_the_longer_one_to_the_last_bit(trained, ask_during):
    straight = trained("train.steps=9", run="straight")
    ask_during({3: ("steps", 9)})
    assert_same_variables(trained("train.steps=6"), straight)


def test_a_training_ends_earlier_when_asked_and_that_is_success(trained, ask_during):
    ask_during({2: ("steps", 3)})
    run = trained("train.steps=6")
    assert steps_saved(run) == [3]
    assert metrics(run)[-1]["status"] == "success"


def test_a_last_step_that_is_made_already_is_refused_with_the_reason(trained, ask_during):
    ask_during({3: ("steps", 2)})
    run = trained("train.steps=6")
    assert steps_saved(run)[-1] == 6
    assert [(entry["outcome"], entry["reason"]) for entry in control.read(str(run))] == [("refused", "step 3 is made already")]


def test_a_last_step_in_the_configuration_that_is_changed_later_counts_again(trained, ask_during):
    ask_during({2: ("steps", 3)})
    trained("train.steps=6")
    assert steps_saved(trained("train.steps=7"))[-1] == 7


@pytest.mark.parametrize("moved", [False, True])
def test_a_lower_learning_rate_holds_from_the_next_step_on_and_survives_a_crash(small, trained, tmp_path, ask_during, moved):
    ask_during({3: ("lr_factor", 0.5)}, run="straight")
    straight = trained("train.steps=6", "train.snapshot_every=2", "train.lr=1e-3,1e-3", run="straight")
    assert rates(straight) == {1: 1e-3, 2: 1e-3, 3: 1e-3, 4: 5e-4, 5: 5e-4, 6: 5e-4}

    def crash():
        raise ZeroDivisionError

    ask_during({3: ("lr_factor", 0.5), 5: crash})
    settings = "train.steps=6", "train.snapshot_every=2", "train.lr=1e-3,1e-3"
    assert train.main(small(*settings)) == 1
    assert steps_saved(tmp_path / "run")[-1] == 4
    if moved:  # another machine, which has but what the storage has
        shutil.rmtree(str(tmp_path / "run"))
    else:  # as if the machine had gone down just before the checkpoint of step 4
        shutil.rmtree(str(tmp_path / "run" / "checkpoints" / "step-00000004"))
        shutil.rmtree(str(tmp_path / "storage"))
    assert train.main(small(*settings)) == 0
    assert rates(tmp_path / "run") == rates(straight)
    assert_same_variables(tmp_path / "run", straight)


def test_a_stop_that_was_meant_for_a_trainer_that_has_died_does_not_stop_the_next(trained, tmp_path):
    (tmp_path / "run").mkdir()
    control.ask(str(tmp_path / "run"), "stop")
    path = tmp_path / "run" / "control.jsonl"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), time=1.0)) + "\n")
    run = trained("train.steps=2")
    assert [entry["outcome"] for entry in control.read(str(run))] == ["expired"]


def test_lines_that_make_no_sense_are_refused_or_passed_over(trained, tmp_path):
    (tmp_path / "run").mkdir()
    lines = [b"\xff\xfe", b"[1]", b'{"v": 1}', b'{"id": "a", "action": "lr_factor", "value": 2}', b'{"id": "b", "action": "dance"}', b'{"id": 3']
    (tmp_path / "run" / "control.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    run = trained("train.steps=2")
    assert [(entry["outcome"], entry["reason"]) for entry in control.read(str(run))] == [
        ("refused", "lr_factor: expected a number above 0, at most 1, not 2"),
        ("refused", "unknown action 'dance'; known: save, stop, steps, lr_factor"),
    ]


def test_what_cannot_be_noted_is_not_done(trained, tmp_path, monkeypatch, ask_during, capsys):
    def full():
        control.ask(str(tmp_path / "run"), "stop", by="alice")
        monkeypatch.setattr(control, "_append", _fail)

    ask_during({2: full})
    assert steps_saved(trained("train.steps=4")) == [4]
    assert "stop of alice is not done" in capsys.readouterr().err


def _fail(path, record):
    raise OSError(28, "No space left on device", path)


@pytest.mark.parametrize(
    ("action", "value"),
    [("save", 1), ("steps", 0), ("steps", 2.5), ("steps", True), ("lr_factor", 0), ("lr_factor", 1.5), ("lr_factor", float("nan")), ("dance", None)],
)
def test_nonsense_is_not_written(tmp_path, action, value):
    with pytest.raises(UserError, match=action):
        control.ask(str(tmp_path), action, value)
    assert os.listdir(str(tmp_path)) == []


def test_the_command_steers_a_training_and_says_what_became_of_it(small, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert command.main(["--run-dir", run, "save"]) == 2
    assert "nobody trains in" in capsys.readouterr().err
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.train"] + small("train.steps=100000", "train.snapshot_every=100000"),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True,
    )  # fmt: skip
    assert any(line.startswith("Iteration 2\t") for line in iter(process.stdout.readline, ""))
    assert command.main(["--run-dir", run, "--by", "alice", "save"]) == 0
    assert command.main(["--run-dir", run, "--by", "alice", "steps", "1"]) == 1
    assert command.main(["--run-dir", run, "--by", "alice", "lr-factor", "7"]) == 2
    assert command.main(["--run-dir", run, "--by", "alice", "stop"]) == 0
    process.communicate(timeout=100)
    assert process.returncode == 3
    printed = capsys.readouterr().out.splitlines()
    assert "save by alice: done after step" in printed[0]
    assert "steps 1 by alice: refused after step" in printed[1]
    assert "stop by alice: done after step" in printed[2]
    assert command.main(["--run-dir", run, "list"]) == 0
    assert capsys.readouterr().out.splitlines() == printed
    assert len(steps_saved(run)) == 2
