"""What the Training page makes of a run directory: curves that follow a growing file, and how the run stands."""

import fcntl
import json
import math
import os
import random
import socket
import time

import pytest

from mtc_airflow.training_page import history, series, summary
from test.dag.conftest import ROOT
from test.dag.training_runs import event, make_run, step_line, write


@pytest.fixture
def journal(tmp_path):
    """A `History` of a metrics.jsonl, and a function that appends lines to it."""
    path = tmp_path / "metrics.jsonl"

    def append(*lines):
        write(path, lines, "a")
        return found.refresh()

    found = history.History(path)
    return found, append


def test_a_journal_that_does_not_exist_yet_has_no_steps(journal):
    assert len(journal[0].refresh()) == 0
    assert series.thin(journal[0], 100)["steps"] == []


def test_a_journal_is_read_on_where_it_ended_and_a_torn_line_waits_for_its_rest(journal):
    found, append = journal
    append(step_line(1), step_line(2))
    with open(found.path, "a") as f:
        f.write(json.dumps(step_line(3))[:20])
    assert list(found.refresh().steps) == [1, 2]
    with open(found.path, "a") as f:
        f.write(json.dumps(step_line(3))[20:] + "\n")
    assert list(found.refresh().steps) == [1, 2, 3]
    assert found.damaged == 0


def test_a_start_takes_back_what_came_after_it_and_a_repeated_step_counts_later(journal):
    found, append = journal
    append(event("start", 0), *map(step_line, range(1, 8)), event("evaluation", 4, score=0.1), event("evaluation", 6, score=0.2))
    append(event("start", 5), step_line(6, 60.0), step_line(7, 70.0), step_line(7, 77.0))
    assert list(found.steps) == [1, 2, 3, 4, 5, 6, 7]
    assert list(found.columns["loss"])[5:] == [60.0, 77.0]
    assert [e["step"] for e in found.of_kind("evaluation")] == [4]


def test_a_journal_that_was_replaced_is_read_anew(journal):
    found, append = journal
    append(*map(step_line, range(1, 9)))
    os.unlink(found.path)
    append(step_line(1, 5.0))
    assert list(found.columns["loss"]) == [5.0]


def test_lines_that_make_no_sense_are_counted_and_passed_over(journal):
    found, append = journal
    append(step_line(1))
    with open(found.path, "ab") as f:
        f.write(b'\xff\xfe\n[1]\n{"kind": "train", "step": "x"}\n{"kind": "start", "step": "x"}\n\n{"v": 1}\n')
    append(step_line(2))
    assert list(found.steps) == [1, 2]
    assert found.damaged == 4


def test_thinned_curves_keep_the_spikes_and_the_means(journal):
    found, append = journal
    draw = random.Random(1)
    losses = [draw.uniform(1, 2) for _ in range(1000)]
    losses[617] = 99.0
    append(*(step_line(n, loss) for n, loss in enumerate(losses, 1)))
    thinned = series.thin(found, 10)
    assert thinned["steps"] == [100 * n for n in range(1, 11)]
    assert thinned["count"] == 1000
    assert thinned["loss"]["high"][6] == 99.0
    assert thinned["loss"]["low"][0] == min(losses[:100])
    assert thinned["loss"]["mean"][2] == pytest.approx(sum(losses[200:300]) / 100)
    part = series.thin(found, 10, 601, 620)
    assert (part["count"], part["steps"][0], part["steps"][-1]) == (20, 602, 620)


def test_losses_that_were_no_numbers_do_not_spoil_a_curve(journal):
    found, append = journal
    append(step_line(1, math.nan), step_line(2, 3.0), step_line(3, math.nan), step_line(4, math.nan))
    assert series.thin(found, 2)["loss"] == {"mean": [3.0, None], "low": [3.0, None], "high": [3.0, None]}
    assert found.last("loss") is None


def test_a_run_of_400000_steps_is_sent_in_the_points_that_were_asked_for(journal):
    found, _ = journal
    line = json.dumps(step_line(123456, 0.5))
    with open(found.path, "w") as f:
        f.writelines(line.replace("123456", f"{n:06}".lstrip("0") or "0") + "\n" for n in range(1, 400_001))
    answer = series.thin(found.refresh(), 900)
    assert (len(answer["steps"]), answer["steps"][-1], answer["count"]) == (900, 400_000, 400_000)
    assert len(json.dumps(answer)) < 800_000


def test_a_finished_run_is_summed_up(tmp_path):
    found = summary.of_run(make_run(tmp_path / "run"), history.History(tmp_path / "run" / "metrics.jsonl").refresh())
    assert (found["status"], found["live"], found["step"], found["last_step"], found["loss"]) == ("success", False, 20, 20, 0.05)
    assert found["images_per_second"] == pytest.approx(8.0)
    assert found["mfu"] == pytest.approx(0.8)
    assert found["eta_seconds"] is None
    assert found["breakdown"] == pytest.approx({"step": 8.0, "data": 2.0, "checkpoint": 0.03})
    assert [(row["step"], row["state"], row["here"], row["score"]) for row in found["checkpoints"]] == [
        (20, "upload failed", True, None),
        (10, "uploaded", False, 0.4),
    ]
    assert found["previews"] == [10]
    assert found["report"]
    assert found["warnings"] == [
        "loss_pof is 0 by construction: no sample of this configuration can train it",
        "checkpoints of step(s) 20 are on this machine only: no such bucket",
    ]


def test_a_trainer_that_holds_the_lock_is_live_and_has_a_time_to_go(tmp_path):
    run = make_run(tmp_path / "run", last=40)
    (run / ".lock").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": 1.0, "state": "held"}))
    with open(run / ".lock", "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        found = summary.of_run(run, history.History(run / "metrics.jsonl").refresh())
    assert (found["live"], found["status"]) == (True, "running")
    assert found["eta_seconds"] == pytest.approx(20.0)  # a step a second by the clock
    assert 0 < found["memory"]["now"] <= found["memory"]["most"]
    assert any("has not finished a step" in warning for warning in found["warnings"])


def test_a_run_that_was_killed_is_called_so(tmp_path):
    run = make_run(tmp_path / "run")
    write(run / "metrics.jsonl", [event("start", 20)], "a")
    assert summary.brief(run, history.History(run / "metrics.jsonl").refresh())["status"] == "broken off"


def test_the_last_step_is_the_one_that_was_asked_for_while_the_configuration_is_the_same(tmp_path):
    run = make_run(tmp_path / "run")
    asked = {"v": 1, "id": "a", "time": time.time(), "by": "alice", "action": "steps", "value": 50}
    done = {"v": 1, "answers": "a", "step": 3, "outcome": "done", "reason": "", "instead_of": 20}
    write(run / "control.jsonl", [asked, done])
    assert summary.brief(run, history.History(run / "metrics.jsonl").refresh())["last_step"] == 50
    write(run / "control.jsonl", [asked, {**done, "instead_of": 30}])
    assert summary.brief(run, history.History(run / "metrics.jsonl").refresh())["last_step"] == 20


def test_an_empty_run_directory_says_that_nothing_has_started(tmp_path):
    found = summary.of_run(tmp_path / "none", history.History(tmp_path / "none" / "metrics.jsonl").refresh())
    assert (found["status"], found["step"], found["checkpoints"], found["warnings"]) == ("not started", None, [], [])


def test_the_published_losses_are_those_of_the_report():
    text = (ROOT / "mtc" / "report" / "figures.py").read_text()
    assert f'PUBLISHED = {{"gpu": {summary.PUBLISHED["GPU"]}, "npu": {summary.PUBLISHED["Ascend 910"]}}}' in text
