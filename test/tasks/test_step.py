"""The step contract, on a step that writes one file."""

import json
import os
import signal

import pytest

from mtc.errors import Stopped, UserError
from tasks import step


@pytest.fixture
def copying(tmp_path):
    """A step that copies `source` to `target`; returns (main(*overrides), calls)."""
    source, target, calls = tmp_path / "source", tmp_path / "run" / "target", []
    source.write_text("one")

    def run(context):
        calls.append(1)
        text = source.read_text()
        if text == "bad":
            raise UserError("source: expected good, got bad")
        if text == "bug":
            raise ValueError("a bug")
        if text == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        if text == "stop in foreign code":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Stopped:
                raise RuntimeError("pybind11::error_already_set") from None
        target.write_text(text)
        return step.Result(outputs=[str(target)], figures={"length": len(text)})

    made = step.Step("copy", "Copies.", lambda context: {"source": source.read_text()}, run)
    old = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    yield lambda *words: step.main(made, ["--config", "demo", "--run-dir", str(tmp_path / "run")] + list(words)), calls
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), old):
        signal.signal(number, handler)


def record(tmp_path):
    return json.loads((tmp_path / "run" / "steps" / "copy.json").read_text())


def test_success_writes_inputs_outputs_and_figures(copying, tmp_path):
    assert copying[0]() == 0
    found = record(tmp_path)
    assert (found["status"], found["inputs"], found["figures"]) == ("success", {"source": "one"}, {"length": 3})
    assert [(o["path"], o["bytes"], len(o["sha256"])) for o in found["outputs"]] == [(str(tmp_path / "run" / "target"), 3, 64)]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["name"] == "demo"


def test_the_same_inputs_do_nothing_and_say_so(copying, capsys):
    assert copying[0]() == copying[0]() == 0
    assert copying[1] == [1]
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("spoil", ["source", "target", "gone", "touched", "force"])
def test_it_runs_again_exactly_when_something_changed(copying, tmp_path, spoil):
    copying[0]()
    target = tmp_path / "run" / "target"
    if spoil == "source":
        (tmp_path / "source").write_text("two")
    elif spoil == "target":
        target.write_text("two")
    elif spoil == "gone":
        target.unlink()
    elif spoil == "touched":
        os.utime(str(target), (1, 1))  # the same bytes
    assert copying[0](*["--force"] * (spoil == "force")) == 0
    assert len(copying[1]) == (1 if spoil == "touched" else 2)


@pytest.mark.parametrize(
    ("text", "code", "status", "error"),
    [("bad", 2, "user_error", "source: expected good, got bad"), ("bug", 1, "failed", "ValueError: a bug"), ("stop", 3, "stopped", "SIGTERM")],
)
def test_exit_code_and_record_say_whose_mistake_it_was(copying, tmp_path, text, code, status, error):
    (tmp_path / "source").write_text(text)
    assert copying[0]() == code
    assert (record(tmp_path)["status"], record(tmp_path)["error"]) == (status, error)
    assert not (tmp_path / "run" / "target").exists()


def test_a_run_directory_keeps_to_its_kind_of_run(copying, tmp_path, capsys):
    assert copying[0]() == 0
    assert copying[0]("--set", "model.width=0.4") == 0  # nothing was trained yet
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    assert copying[0]("--set", "model.width=0.5") == 2
    assert "model.width was" in capsys.readouterr().err
    assert record(tmp_path)["status"] == "success"  # of the run that is there
    assert copying[0]("--set", "model.width=0.4", "--set", "train.steps=100000") == 0  # a longer run is the same run


def test_a_bad_override_touches_nothing(copying, tmp_path, capsys):
    assert copying[0]("--set", "train.stepz=1") == 2
    assert "did you mean 'train.steps'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_tensorflow_takes_for_a_pattern_is_refused(copying, tmp_path, capsys):
    assert copying[0]("--run-dir", str(tmp_path / "run[1]")) == 2
    assert "with [ ]; choose another --run-dir" in capsys.readouterr().err


def test_a_damaged_record_counts_as_none(copying, tmp_path):
    assert copying[0]() == 0
    (tmp_path / "run" / "steps" / "copy.json").write_text("[1]")
    assert copying[0]() == 0
    assert copying[1] == [1, 1]


def test_a_run_directory_that_cannot_be_made_is_named(copying, tmp_path, capsys):
    (tmp_path / "run").write_text("a file")
    assert copying[0]() == 2
    assert "choose another --run-dir" in capsys.readouterr().err


def test_a_stop_that_foreign_code_turns_into_another_error_is_a_stop(copying, tmp_path):
    (tmp_path / "source").write_text("stop in foreign code")
    assert copying[0]() == 3
    assert (record(tmp_path)["status"], record(tmp_path)["error"]) == ("stopped", "SIGTERM")
