import json

import numpy as np
import pytest

from mtc.errors import UserError
from mtc.report import history
from test.report import fake_run


def read(tmp_path, lines):
    fake_run.journal(str(tmp_path), lines)
    return history.read(str(tmp_path / "metrics.jsonl"))


def test_steps_and_columns_are_in_the_order_of_the_journal(tmp_path):
    found = read(tmp_path, [fake_run.start(), fake_run.train(1), fake_run.train(2, loss=0.25)])
    assert found.steps.tolist() == [1, 2]
    assert found.columns["loss"][1] == 0.25
    assert found.end is None
    assert found.repeated == found.damaged == 0


def test_a_torn_last_line_is_ignored(tmp_path):
    found = read(tmp_path, [fake_run.start(), fake_run.train(1), json.dumps(fake_run.train(2))[:40]])
    assert found.steps.tolist() == [1]
    assert found.damaged == 0


def test_a_torn_line_that_a_resumed_run_wrote_behind_is_counted(tmp_path):
    found = read(tmp_path, [fake_run.start(), fake_run.train(1), '{"v": 1, "ki\n', fake_run.start(1, resumed=True), fake_run.train(2)])
    assert found.steps.tolist() == [1, 2]
    assert found.damaged == 1


def test_of_a_repeated_step_the_later_line_counts(tmp_path):
    before = [fake_run.train(step, loss=1.0) for step in range(1, 6)]
    after = [fake_run.train(step, loss=2.0) for step in range(4, 8)]
    found = read(tmp_path, [fake_run.start()] + before + [fake_run.start(3, resumed=True)] + after)
    assert found.steps.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found.columns["loss"].tolist() == [1, 1, 1, 2, 2, 2, 2]
    assert found.repeated == 2


def test_a_resume_takes_back_steps_even_where_they_were_not_repeated_yet(tmp_path):
    found = read(tmp_path, [fake_run.start()] + [fake_run.train(step) for step in range(1, 9)] + [fake_run.start(3, resumed=True), fake_run.train(4)])
    assert found.steps.tolist() == [1, 2, 3, 4]


def test_the_first_step_of_each_start_is_marked(tmp_path):
    found = read(
        tmp_path, [fake_run.start(), fake_run.train(1), fake_run.train(2), fake_run.start(2, resumed=True), fake_run.train(3), fake_run.train(4)]
    )
    assert found.first_of_start.tolist() == [True, False, True, False]


def test_an_upload_counts_for_the_checkpoint_that_was_saved_before_it(tmp_path):
    saved, uploaded = {"v": 1, "kind": "checkpoint", "step": 2}, {"v": 1, "kind": "upload", "step": 2, "uri": "file:///x"}
    assert read(tmp_path, [fake_run.train(2), saved, uploaded]).uploads[2]["uri"] == "file:///x"
    assert read(tmp_path, [fake_run.train(2), saved, uploaded, saved]).uploads == {}
    assert read(tmp_path, [fake_run.train(1), fake_run.train(2), saved, uploaded, fake_run.start(1), fake_run.train(2)]).uploads == {}


def test_a_removed_upload_is_there_again_once_it_is_sent_again(tmp_path):
    uploaded, removed = {"v": 1, "kind": "upload", "step": 2, "uri": "file:///x"}, {"v": 1, "kind": "upload_removed", "step": 2}
    found = read(tmp_path, [fake_run.train(2), uploaded, removed])
    assert (found.uploads, found.removed) == ({}, {2})
    found = read(tmp_path, [fake_run.train(2), uploaded, removed, uploaded])
    assert (list(found.uploads), found.removed) == ([2], set())


def test_a_resume_takes_back_all_that_happened_after_its_step(tmp_path):
    events = [fake_run.evaluation(4, 0.5), fake_run.bad_sample(3, "a"), fake_run.bad_sample(5, "b"), {"v": 1, "kind": "upload_removed", "step": 6}]
    lines = [fake_run.start()] + fake_run.without_numbers(3) + [fake_run.train(4)] + fake_run.without_numbers(5) + events
    lines.append({"v": 1, "kind": "non_finite", "step": 6, "names": [], "path": ""})
    before = read(tmp_path, lines)
    assert (list(before.evaluations), list(before.faults), before.skipped.tolist()) == ([4], [3, 5], [True, False, True])
    assert [line["name"] for line in before.bad_samples] == ["a", "b"]
    assert before.non_finite["step"] == 6
    after = read(tmp_path, lines + [fake_run.start(3, resumed=True)])
    assert (list(after.evaluations), list(after.faults), after.skipped.tolist()) == ([], [3], [True])
    assert [line["name"] for line in after.bad_samples] == ["a"]
    assert (after.removed, after.non_finite) == (set(), None)


def test_a_bad_sample_counts_once(tmp_path):
    found = read(tmp_path, [fake_run.train(1), fake_run.bad_sample(1, "a"), fake_run.bad_sample(1, "a"), fake_run.bad_sample(1, "a", "synthetic3d")])
    assert len(found.bad_samples) == 2


def test_an_end_belongs_to_its_start(tmp_path):
    end = {"v": 1, "kind": "end", "step": 1, "status": "stopped"}
    assert read(tmp_path, [fake_run.start(), fake_run.train(1), end]).end["status"] == "stopped"
    assert read(tmp_path, [fake_run.start(), fake_run.train(1), end, fake_run.start(1)]).end is None


def test_numbers_that_are_none_are_nan(tmp_path):
    found = read(tmp_path, [fake_run.train(1, loss=None), fake_run.train(2, loss=float("nan"))])
    assert np.isnan(found.columns["loss"]).all()


def test_lines_of_kinds_that_are_not_known_are_left_out(tmp_path):
    assert read(tmp_path, [{"v": 1, "kind": "weather"}, fake_run.train(1)]).damaged == 0


def test_no_journal_and_no_step_say_what_to_run(tmp_path):
    with pytest.raises(UserError, match="metrics.jsonl does not exist: run python -m tasks.train"):
        history.read(str(tmp_path / "metrics.jsonl"))
    with pytest.raises(UserError, match="no training step: run python -m tasks.train"):
        read(tmp_path, [fake_run.start()])


def test_a_journal_of_a_later_version_is_refused(tmp_path):
    with pytest.raises(UserError, match="version 2"):
        read(tmp_path, [fake_run.train(1, v=2)])
