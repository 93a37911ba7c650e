import html.parser
import json
import os
import re

import numpy as np
import pytest

from mtc import config as configuration
from mtc import files
from mtc.report import figures, history
from mtc.skeleton import SKELETONS
from test.report import fake_run
from test.report.conftest import make_report

pytestmark = pytest.mark.last

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Collects what is wrong with a page, and its tags."""

    def __init__(self, text):
        html.parser.HTMLParser.__init__(self)
        self.open, self.wrong, self.tags, self.ids = [], [], [], []
        self.feed(text)
        self.wrong += self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id"]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append("/" + tag)


@pytest.fixture
def run_dir(tmp_path):
    return str(tmp_path / "run")


def read(run_dir, name):
    with open(os.path.join(run_dir, name), encoding="utf-8") as f:
        return f.read()


def test_a_clean_run_gives_all_figures_and_no_warning(clean):
    found = json.loads(read(clean, "report.json"))
    assert found["warnings"] == []
    assert found["verdict"]["learned"] is True
    assert found["loss"]["last_count"] == 10
    last = [fake_run.train(s) for s in range(51, 61)]
    for key in ("loss", "loss_2d", "loss_pof"):
        assert found["loss"]["last_mean" + key[4:]] == pytest.approx(np.mean([line[key] for line in last]))
    for key in ("baseline_2d", "baseline_pof"):
        assert found["loss"][key] == pytest.approx(np.mean([line[key] for line in last]))
    assert found["loss"]["first_mean"] == pytest.approx(np.mean([fake_run.train(s)["loss"] for s in range(1, 11)]))
    assert found["pck"]["trained"]["0.1"] > 0.8 > found["pck"]["mean_pose"]["0.1"] + 0.1
    assert set(found["pck"]["untrained"]) == {"0.1", "0.2"}
    assert set(found["pck_joints"]) == set(SKELETONS["body"].joints)
    assert found["steps"]["first"] == 1
    assert found["steps"]["last"] == found["steps"]["asked"] == 60
    assert (found["samples"]["held_out"], found["samples"]["training"]) == (60, 150)
    assert found["throughput"]["images_per_second"] == pytest.approx(8 / 0.5)  # the first step's 5 s do not count
    assert found["published"]["gpu"] == 0.0038
    assert found["published"]["npu"] == 0.0043
    assert found["published"]["comparable"] is False
    assert found["versions"]["tensorflow"] == "1.15.0"
    assert found["device"]["name"] == "CPU"
    assert found["config"]["model"]["crop"] == 64


def test_checkpoints_have_digests_and_where_they_were_uploaded_to(clean):
    rows = json.loads(read(clean, "report.json"))["checkpoints"]
    assert [row["step"] for row in rows] == [30, 60]
    assert rows[1]["path"] == os.path.join(clean, "checkpoints", "step-00000060")
    assert rows[1]["data"] == "model.data-00000-of-00001"
    assert rows[1]["uploaded"] == "s3://bucket/demo/step-00000060"
    page = read(clean, "report.html")
    for row in rows:
        assert row["data_sha256"] in page
        assert row["manifest_sha256"] in page
        assert row["uploaded"] in page


def test_the_page_is_well_formed_and_loads_nothing(clean):
    text = read(clean, "report.html")
    page = Page(text)
    assert page.wrong == []
    assert len(page.ids) == len(set(page.ids))
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    for tag, attributes in page.tags:
        for key in ("src", "href", "xlink:href", "srcset"):
            assert attributes.get(key, "#").startswith(("#", "data:image/jpeg;base64,")), (tag, attributes)
    assert not re.findall(r"url\((?!#)|@import", text)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2
    assert all("joints within 0.1" in image["alt"] for image in images)
    assert [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")


def test_the_markdown_shows_charts_that_are_there(clean):
    named = re.findall(r"\]\((charts/[a-z_0-9]+\.svg)\)", read(clean, "report.md"))
    assert named == ["charts/loss_2d.svg", "charts/loss_pof.svg", "charts/pck_curve.svg", "charts/pck_joints.svg"]
    assert sorted(os.listdir(os.path.join(clean, "charts"))) == sorted(os.path.basename(name) for name in named)


def test_tables_of_the_markdown_have_as_many_cells_as_their_header(run_dir, world):
    world(fake_run.config(), count=8, training=8, checkpoint=fake_run.finished(run_dir), in_3d=True)
    make_report(run_dir)
    width, rows = 0, 0
    for line in read(run_dir, "report.md").splitlines():
        cells = line.count("|") if line.startswith("|") else 0
        assert not (cells and width and cells != width), line
        width, rows = cells, rows + (cells > 0)
    assert rows > 50


def test_the_same_run_gives_the_same_bytes_and_an_unchanged_one_is_left_alone(run_dir, world):
    world(fake_run.config(), count=8, training=8, checkpoint=fake_run.finished(run_dir))
    make_report(run_dir)
    first = {name: read(run_dir, name) for name in ("report.html", "report.md", "report.json")}
    record = json.loads(read(run_dir, "steps/report.json"))
    assert make_report(run_dir)[0] == 0
    again = json.loads(read(run_dir, "steps/report.json"))
    assert "inputs and outputs are as the last run left them" in again.pop("unchanged")["reason"]
    assert again == record
    os.remove(os.path.join(run_dir, "report.html"))
    make_report(run_dir)
    assert {name: read(run_dir, name) for name in first} == first


def test_the_command_prints_the_headline_and_ends_with_the_path_of_the_page(run_dir, world, capsys):
    world(fake_run.config(), count=8, training=8, checkpoint=fake_run.finished(run_dir))
    make_report(run_dir)
    printed = capsys.readouterr().out
    assert "PCK@0.1" in printed
    assert "mean pose" in printed
    assert printed.rstrip().endswith("report: " + os.path.join(run_dir, "report.html"))


def test_a_profile_makes_a_new_report_that_says_where_the_time_goes(run_dir, world):
    world(fake_run.config(), checkpoint=fake_run.finished(run_dir))
    assert make_report(run_dir)[1]["profile"] is None
    profile = {
        "v": 1,
        "steps": [1010, 1019],
        "ms": 812.5,
        "parts": [{"part": "input wait", "ms": 40.6, "share": 0.05}],
        "types": [],
        "operations": [],
    }
    files.write_json(os.path.join(run_dir, "profile", "summary.json"), profile)
    assert make_report(run_dir)[1]["profile"] == profile
    assert "| input wait | 40.6 | 5.0 |" in read(run_dir, "report.md")
    page = read(run_dir, "report.html")
    assert "Steps 1,010 to 1,019, traced, 812 ms a step" in page
    assert Page(page).wrong == []


def test_a_longer_journal_makes_a_new_report(run_dir, world):
    world(fake_run.config(), count=8, training=8, checkpoint=fake_run.finished(run_dir))
    make_report(run_dir)
    with open(os.path.join(run_dir, "metrics.jsonl"), "a") as f:
        f.write(json.dumps(fake_run.train(61)) + "\n")
    assert make_report(run_dir)[1]["steps"]["last"] == 61


def test_nothing_trained_says_what_to_run(run_dir, world):
    world(fake_run.config(), count=1, training=1)
    assert make_report(run_dir) == (2, None)
    fake_run.journal(run_dir, [fake_run.start()])
    assert make_report(run_dir) == (2, None)
    assert "run python -m tasks.train" in json.loads(read(run_dir, "steps/report.json"))["error"]


def test_a_run_that_broke_off_before_a_checkpoint_is_reported_with_what_there_is(run_dir, world):
    fake_run.journal(run_dir, [fake_run.start()] + [fake_run.train(s) for s in range(1, 21)])
    world(fake_run.config())
    code, found = make_report(run_dir)
    assert code == 0
    assert found["pck"]["trained"] is None
    assert found["pck"]["mean_pose"]["0.1"] is not None
    assert found["verdict"]["learned"] is None
    assert _has(found, "not finished: step 20 of 60; training is going on or broke off")
    assert _has(found, "no good checkpoint on disk")


def test_a_loss_that_cannot_be_but_zero_is_said_loudly(run_dir, world):
    world(fake_run.config(), checkpoint=fake_run.finished(run_dir, dead_terms=["loss_pof"]))
    found = make_report(run_dir)[1]
    assert _has(found, "POF loss (loss_pof) cannot be anything but 0")
    assert "compat.ignore_paf_2d" in found["warnings"][0]
    assert not os.path.exists(os.path.join(run_dir, "charts", "loss_pof.svg"))
    assert "not even computed" in found["warnings"][0]
    assert "0 by construction" in read(run_dir, "report.html")


def test_a_network_that_has_not_learned_is_called_so(run_dir, world):
    world(fake_run.config(), noise=300.0, checkpoint=fake_run.finished(run_dir))
    with open(os.path.join(run_dir, "metrics.jsonl"), "a") as f:
        f.write("".join(json.dumps(fake_run.train(s, loss_2d=0.02)) + "\n" for s in range(51, 61)))
    found = make_report(run_dir)[1]
    assert found["verdict"]["learned"] is False
    assert _has(found, "heat-map loss is not below that of an empty answer")
    assert _has(found, "not shown to be above the mean pose")


def test_warnings_name_uploads_that_are_missing_and_damaged_checkpoints(run_dir, world):
    newest = fake_run.finished(run_dir)
    os.remove(os.path.join(run_dir, "checkpoints", "step-00000030", "model.index"))
    lines = [line for line in read(run_dir, "metrics.jsonl").splitlines(True) if '"upload"' not in line]
    fake_run.journal(run_dir, lines)
    world(fake_run.config(), checkpoint=newest)
    found = make_report(run_dir)[1]
    assert _has(found, "Not uploaded to the storage: step-00000060.")
    assert _has(found, "damaged checkpoints: step-00000030.")
    assert [row["uploaded"] for row in found["checkpoints"]] == [None]
    assert "not uploaded" in read(run_dir, "report.html")


def test_checkpoints_newer_than_the_newest_good_one_are_called_damaged(run_dir, world):
    fake_run.finished(run_dir)
    world(fake_run.config(), checkpoint=os.path.join(run_dir, "checkpoints", "step-00000030"))
    found = make_report(run_dir)[1]
    assert [row["step"] for row in found["checkpoints"]] == [30]
    assert found["warnings"] == [
        "Incomplete or damaged checkpoints: step-00000060. They are not used.",
        "The newest good checkpoint is of step 30, the last recorded step is 60.",
    ]


def test_warnings_name_few_samples_and_losses_that_are_no_numbers(run_dir, world):
    newest = fake_run.finished(run_dir)
    with open(os.path.join(run_dir, "metrics.jsonl"), "a") as f:
        f.write(json.dumps(fake_run.train(60, loss=float("nan"), loss_2d=float("nan"))) + "\n")
    world(fake_run.config(), count=10, training=20, checkpoint=newest)
    found = make_report(run_dir)[1]
    assert _has(found, "Only 10 held-out samples")
    assert _has(found, "Only 20 training samples")
    assert _has(found, "1 of 60 steps have a loss that is no number")
    assert found["loss"]["last_mean"] is None
    assert found["verdict"]["learned"] is None


def test_a_resumed_run_has_a_note_and_no_warning(run_dir, world):
    newest = fake_run.finished(run_dir)
    lines = [json.loads(line) for line in read(run_dir, "metrics.jsonl").splitlines()]
    fake_run.journal(run_dir, lines[:33] + [fake_run.train(s) for s in range(31, 36)] + [fake_run.start(30, resumed=True)] + lines[33:])
    world(fake_run.config(), checkpoint=newest)
    found = make_report(run_dir)[1]
    assert found["warnings"] == []
    assert any("started 2 times" in note and "5 steps" in note for note in found["notes"])


def test_limb_directions_are_judged_where_there_are_3d_labels(run_dir, world):
    world(fake_run.config(), checkpoint=fake_run.finished(run_dir), in_3d=True)
    found = make_report(run_dir)[1]
    # the stand-in answers "away from the camera" for each limb: on random limbs about as good as no answer
    assert 60 < found["pof"]["trained"] < 120
    assert found["pof"]["untrained"] == pytest.approx(90)
    assert found["pof"]["samples"] == 60
    assert len(found["pof"]["limbs"]) == 23
    assert _has(found, "Limb directions are no better") == (found["pof"]["trained"] >= found["pof"]["mean_direction"])


def test_hands_are_reported_by_the_same_code(run_dir, world):
    hand = ("model.kind=hand", "data.mix={synthetic_hand: 1}")
    world(fake_run.config(*hand), checkpoint=fake_run.finished(run_dir), in_3d=True)
    found = make_report(run_dir, *hand)[1]
    assert set(found["pck_joints"]) == set(SKELETONS["hand"].joints)
    assert found["verdict"]["learned"] is True
    assert len(found["pof"]["limbs"]) == 20


def test_the_published_numbers_are_comparable_only_in_the_published_setting():
    chosen = configuration.load("ascend_full")
    row = np.array([[400000.0]])
    run = history.History(row[0].astype(int), *[None] * (len(history.History._fields) - 1))
    assert figures.published(chosen, run, {"path": "model-390000"})["comparable"] is True
    assert "initial weights" in figures.published(chosen, run, None)["not_comparable_because"][0]
    chosen.compat.mask = "miss"
    assert figures.published(chosen, run, {"path": "model-390000"})["not_comparable_because"] == ["compat.mask is miss, there all"]


def test_a_full_run_of_400000_steps_is_thinned(run_dir, world):
    fake_run.checkpoint(run_dir, 400000)
    line = json.dumps(fake_run.train(1)).replace('"step": 1,', '"step": %d,')
    fake_run.journal(run_dir, [fake_run.start()] + [line % s + "\n" for s in range(1, 400001)])
    world(fake_run.config(), count=8, training=8, checkpoint=os.path.join(run_dir, "checkpoints", "step-00400000"))
    code, found = make_report(run_dir, "train.steps=400000")
    assert code == 0
    assert found["steps"]["recorded"] == 400000
    assert os.path.getsize(os.path.join(run_dir, "report.html")) < 2e6


def test_names_of_samples_and_places_cannot_break_the_page(run_dir, world):
    newest = fake_run.finished(run_dir)
    text = read(run_dir, "metrics.jsonl").replace("s3://bucket", "s3://<b>|&")
    fake_run.journal(run_dir, [text])
    world(fake_run.config(), count=8, training=8, checkpoint=newest)
    make_report(run_dir)
    page = read(run_dir, "report.html")
    assert Page(page).wrong == []
    assert "s3://&lt;b&gt;|&amp;/demo" in page
    assert "s3://&lt;b>\\|&/demo" in read(run_dir, "report.md")


def _has(found, text):
    return any(text in warning for warning in found["warnings"])


def test_the_report_says_how_much_of_the_device_was_used_and_what_waited_for_data(run_dir, world):
    lines = [fake_run.start(flop_per_image=2e9, device={"name": "CPU", "kind": "cpu", "flop_per_second": 1e11})]
    lines += [fake_run.train(step, waited=0.05) for step in range(1, 61)]
    fake_run.journal(run_dir, lines)
    world(fake_run.config(), checkpoint=fake_run.checkpoint(run_dir, 60))
    found = make_report(run_dir)[1]["throughput"]
    assert found["mfu"] == pytest.approx(8 * 2e9 / 0.5 / 1e11)
    assert found["waiting"] == pytest.approx(0.1)
    assert "0.32 of what the device does" in read(run_dir, "report.md")
    assert "MFU 0.32" in read(run_dir, "report.html")


def test_an_early_stop_is_a_success_that_says_why(run_dir, world):
    scores = {10: [fake_run.evaluation(10, 0.4, best=True)], 20: [fake_run.evaluation(20, 0.3)], 30: [fake_run.evaluation(30, 0.35)]}
    newest = fake_run.finished(run_dir, steps=30, after=scores, end={"early_stop": True})
    world(fake_run.config(), checkpoint=newest)
    found = make_report(run_dir, "evaluation.samples=50", "evaluation.patience=2", "evaluation.min_gain=0.01")[1]
    assert found["steps"]["early_stop"] is True
    assert not _has(found, "not finished")
    sentence = "Training stopped early, as it was asked to: after step 30 of 60, 2 evaluations in a row had brought no gain of more than 0.01."
    assert sentence in found["verdict"]["sentences"]
    for name in ("report.html", "report.md"):
        assert sentence in read(run_dir, name)
        assert "to 30 of 60 (stopped early)" in read(run_dir, name)


def test_evaluations_during_training_are_shown_and_the_best_is_marked(run_dir, world, capsys):
    scores = {15: 0.41, 30: 0.53, 45: 0.53, 60: 0.5}
    after = {step: [fake_run.evaluation(step, score)] for step, score in scores.items()}
    world(fake_run.config(), checkpoint=fake_run.finished(run_dir, after=after))
    found = make_report(run_dir, "evaluation.samples=50")[1]
    during = found["evaluations"]
    assert {entry["step"]: entry["score"] for entry in during["scores"]} == scores
    assert during["best"] == {"step": 30, "score": 0.53, "checkpoint": "step-00000030", "uploaded": "s3://bucket/demo/step-00000030"}
    assert during["last"] == {"step": 60, "score": 0.5}
    assert found["warnings"] == []
    said = "best after step 30 (0.530), not after the last evaluated one, step 60 (0.500); its checkpoint is checkpoints/step-00000030."
    assert any(said in sentence for sentence in found["verdict"]["sentences"])
    page, text = read(run_dir, "report.html"), read(run_dir, "report.md")
    assert Page(page).wrong == []
    assert page.count("<td>best</td>") == text.count("**best**") == 1
    assert "best: step 30, 0.530" in read(run_dir, "charts/evaluations.svg")
    assert "(charts/evaluations.svg)" in text
    assert "PCK@0.1: best 0.530 (step 30), last 0.500 (step 60)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("removed_remotely", "where"), [(False, "its checkpoint is only in the storage: s3://b/20"), (True, "no good checkpoint of it is left")]
)
def test_a_best_checkpoint_that_is_not_here_any_more_is_said(run_dir, world, removed_remotely, where):
    upload = {"v": 1, "kind": "upload", "step": 20, "uri": "s3://b/20", "seconds": 0.1}
    after = {20: [fake_run.evaluation(20, 0.5), upload], 60: [fake_run.evaluation(60, 0.4)]}
    if removed_remotely:
        after[40] = [{"v": 1, "kind": "upload_removed", "step": 20}]
    world(fake_run.config(), checkpoint=fake_run.finished(run_dir, after=after))
    found = make_report(run_dir, "evaluation.samples=50", "checkpoint.keep_best=0")[1]
    assert any(where in sentence for sentence in found["verdict"]["sentences"])
    assert _has(found, "No good checkpoint of step 20, the best on held-out samples, is left: checkpoint.keep_best above 0") == removed_remotely


def test_a_single_evaluation_needs_no_chart(run_dir, world):
    world(fake_run.config(), checkpoint=fake_run.finished(run_dir, after={60: [fake_run.evaluation(60, 0.5)]}))
    found = make_report(run_dir, "evaluation.samples=50")[1]
    assert any("0.500 after step 60, the only evaluation" in sentence for sentence in found["verdict"]["sentences"])
    assert not os.path.exists(os.path.join(run_dir, "charts", "evaluations.svg"))


@pytest.mark.parametrize(("lost", "kind"), [(3, "notes"), (20, "warnings")])
def test_steps_that_overflowed_are_told_and_warned_of_where_they_are_many(run_dir, world, lost, kind):
    lines = [fake_run.start(), dict(fake_run.start(0), precision="mixed_fp16")]
    for step in range(1, 61):
        more = {"loss_scale": 4096.0 if step > lost else 65536.0}
        lines.append(fake_run.train(step, **more) if step > lost else fake_run.train(step, overflow=True, **more))
        lines += [{"v": 1, "kind": "overflow", "step": step, "scale": 65536.0}] if step <= lost else []
    fake_run.journal(run_dir, lines + [{"v": 1, "kind": "end", "step": 60, "status": "success", "overflows": lost}])
    world(fake_run.config(), checkpoint=fake_run.checkpoint(run_dir, 60))
    found = make_report(run_dir)[1]
    assert found["precision"] == {"name": "mixed_fp16", "changes": [[0, "mixed_fp16"]], "overflows": lost, "loss_scale": 4096}
    said = [sentence for sentence in found["warnings"] + found["notes"] if "overflowed" in sentence]
    assert len(said) == 1
    assert said[0] in found[kind]
    assert "{} of 60 steps changed no weight".format(lost) in said[0]
    assert "4,096 at the end" in said[0]
    with open(os.path.join(run_dir, "report.md"), encoding="utf-8") as f:
        assert "- Precision: mixed_fp16, loss scale 4,096\n" in f.read()


def test_skipped_steps_are_warned_of_once_and_are_in_no_mean(run_dir, world):
    lines = [fake_run.start()]
    for step in range(1, 61):
        lines += fake_run.without_numbers(step) if step in (20, 58) else [fake_run.train(step)]
    fake_run.journal(run_dir, lines + [{"v": 1, "kind": "end", "step": 60, "status": "success", "skipped": 2}])
    world(fake_run.config(), checkpoint=fake_run.checkpoint(run_dir, 60))
    found = make_report(run_dir)[1]
    kept = [fake_run.train(step)["loss"] for step in range(1, 61) if step not in (20, 58)]
    assert found["loss"]["last_mean"] == pytest.approx(np.mean(kept[-10:]))
    assert found["loss"]["non_finite"] == 0
    assert found["skipped"]["count"] == 2
    said = [warning for warning in found["warnings"] if "no number" in warning]
    assert len(said) == 1
    assert "2 of 60 steps were skipped" in said[0]
    assert "The batches are in faults/step-00000020, faults/step-00000058;" in said[0]


def test_a_step_without_numbers_that_ended_the_run_is_named_with_its_batch(run_dir, world):
    newest = fake_run.checkpoint(run_dir, 20)
    fault = {"v": 1, "kind": "non_finite", "step": 21, "loss": None, "grad_norm": None, "names": ["a.jpg"], "path": run_dir + "/faults/step-00000021"}
    end = {"v": 1, "kind": "end", "step": 20, "status": "failed"}
    fake_run.journal(run_dir, [fake_run.start()] + [fake_run.train(s) for s in range(1, 21)] + [fault, end])
    world(fake_run.config(), checkpoint=newest)
    found = make_report(run_dir)[1]
    assert _has(found, "Step 21 was not made, because its loss or gradient was no number, and training ended there:")
    assert _has(found, "its batch is in faults/step-00000021.")
    assert _has(found, "not finished: step 20 of 60; training ended with status 'failed'")


def test_bad_samples_are_counted_by_source_and_the_first_are_named(run_dir, world):
    bad = [fake_run.bad_sample(5, "{}<i>.jpg".format(n)) for n in range(4)] + [fake_run.bad_sample(6, "x", "synthetic3d", "No such file")]
    world(fake_run.config(), checkpoint=fake_run.finished(run_dir, after={6: bad}))
    found = make_report(run_dir)[1]
    assert found["bad_samples"]["by_source"] == {"coco": 4, "synthetic3d": 1}
    (said,) = [warning for warning in found["warnings"] if "replaced" in warning]
    assert said.startswith(
        "5 samples could not be used (4 of coco, 1 of synthetic3d), and were replaced by the next one of the same source: 0<i>.jpg"
    )
    assert said.endswith("2<i>.jpg (cannot be decoded); and 2 more.")
    assert Page(read(run_dir, "report.html")).wrong == []
    assert "<i>" not in read(run_dir, "report.html") + read(run_dir, "report.md")


def test_checkpoints_that_retention_removed_are_no_cause_for_worry(run_dir, world):
    after = {60: [{"v": 1, "kind": "upload_removed", "step": 30}, {"v": 1, "kind": "checkpoint", "step": 10}]}
    world(fake_run.config(), checkpoint=fake_run.finished(run_dir, after=after))
    found = make_report(run_dir)[1]
    assert [(row["step"], row["remote"]) for row in found["checkpoints"]] == [(30, "removed"), (60, "uploaded")]
    assert found["warnings"] == []
    assert "removed by storage.keep_last" in read(run_dir, "report.html")


def test_the_time_that_checkpoints_cost_is_part_of_the_throughput(clean):
    assert json.loads(read(clean, "report.json"))["throughput"]["stalled"] == pytest.approx(2 * 0.23 / (5 + 59 * 0.5))
    assert "1.3 % more for checkpoints" in read(clean, "report.html")
    assert "Checkpoints held training up for 1.3 % of that time." in read(clean, "report.md")


def test_averages_of_the_weights_are_named_where_they_are_evaluated(run_dir, world):
    world(fake_run.config(), checkpoint=fake_run.finished(run_dir))
    found = make_report(run_dir, "train.ema=0.99")[1]
    assert any("moving averages of its weights (train.ema=0.99)" in note for note in found["notes"])
    for name in ("report.html", "report.md"):
        assert "The trained network has the moving averages of its weights" in read(run_dir, name)


def test_what_was_asked_for_while_it_trained_is_told(run_dir, world):
    def asked(step, action, value=None):
        return {"v": 1, "kind": "control", "step": step, "by": "alice", "action": action, "value": value}

    after = {10: [asked(10, "save")], 20: [asked(20, "lr_factor", 0.5)], 30: [asked(30, "steps", 60)]}
    world(fake_run.config(), checkpoint=fake_run.finished(run_dir, after=after))
    found = make_report(run_dir)[1]
    assert [request["action"] for request in found["requests"]] == ["save", "lr_factor", "steps"]
    told = [note for note in found["notes"] if "alice" in note]
    assert told == [
        "After step 20, alice asked for 0.5 times the scheduled learning rate.",
        "After step 30, alice asked for another last step, 60.",
    ]
