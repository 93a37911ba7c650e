"""The command that draws what a run is trained on."""

import os
import shutil
import signal

import cv2
import numpy as np
import pytest

from mtc import config as configuration
from mtc import files, lock
from mtc.data import pipeline, readers
from mtc.report import contact_sheet, pictures
from mtc.skeleton import SKELETONS
from tasks import preview

pytestmark = pytest.mark.last

BLURRED = ("augment.blur=0.25", "augment.blur_sigma=2", "augment.rotate=20", "data.crop_scale_sigma=0")


@pytest.fixture(autouse=True)
def handlers():
    """Leave the signal handlers as they were."""
    old = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in old:
        signal.signal(number, handler)


@pytest.fixture
def drawn(monkeypatch):
    """The columns, rows and footnotes of the sheets that are made."""
    made, real = [], contact_sheet.sheet

    def sheet(title, subtitle, columns, rows, footnotes=()):
        made.append((columns, rows, footnotes))
        return real(title, subtitle, columns, rows, footnotes)

    monkeypatch.setattr(contact_sheet, "sheet", sheet)
    return made


@pytest.fixture
def hand(small):
    """Return the arguments of a small run with hands."""
    return lambda *overrides: small("model.kind=hand", "data.mix={synthetic_hand: 1}", *overrides)


@pytest.fixture
def under_way(small_config, tmp_path):
    """Return the directory of a run that is being trained, and its config: under_way("augment.rotate=10")."""

    def run(*overrides):
        config, folder = small_config(*overrides), tmp_path / "run"
        files.write_json(str(folder / "config.json"), configuration.to_dict(config))
        files.write_json(str(folder / "steps" / "train.json"), {"v": 1, "status": "stopped"})
        for name in ("metrics.jsonl", "train.log", "checkpoints/step-00000002/MANIFEST.json"):
            files.write_bytes(str(folder / name), name.encode())
        return folder, config

    return run


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def picture(path):
    return cv2.imread(str(path))[:, :, ::-1]


def said(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


# ---- the sheet of samples


def test_a_sheet_appears_in_the_run_directory_and_nothing_else(small, tmp_path, drawn, capsys):
    assert preview.main(small() + ["--count", "3"]) == 0
    assert list(tree(tmp_path / "run")) == [os.path.join("previews", "samples.jpg")]
    columns, rows, _ = drawn[0]
    down, across = contact_sheet.panel_place(columns, rows, 2, 4)
    assert picture(tmp_path / "run" / "previews" / "samples.jpg").shape == (down.stop + contact_sheet.MARGIN, across.stop + contact_sheet.MARGIN, 3)
    assert str(tmp_path / "run" / "previews" / "samples.jpg") in capsys.readouterr().out


def test_the_sheet_shows_exactly_the_samples_of_trainings_first_batches(small, small_config, drawn):
    overrides = ("augment.rotate=30", "augment.flip=0.5", "augment.blur=0.5")
    config = small_config(*overrides)
    assert preview.main(small(*overrides) + ["--count", "5"]) == 0
    with pipeline.Pipeline(readers.training(config), config, SKELETONS["body"]) as batches:
        trained = [next(batches) for _ in range(3)]
    rows = drawn[0][1]
    for n, row in enumerate(rows):
        batch, i = trained[n // 2], n % 2
        assert "sample {}:  {}  from {},  {}D".format(n, batch.names[i], *(("synthetic3d", 3) if batch.is_3d[i] else ("coco", 2))) in row.caption
        assert (row.panels[0] == pictures.draw(batch.image[i], batch.uv[i], batch.valid[i], SKELETONS["body"])).all()
        assert (row.panels[1] == contact_sheet.mask_panel(batch.image[i], batch.mask[i])).all()
        assert (4 in row.notes) == (not batch.is_3d[i])


def test_it_starts_where_it_is_told_to(small, drawn):
    assert preview.main(small() + ["--count", "4"]) == 0
    assert preview.main(small() + ["--first", "2", "--count", "2"]) == 0
    for before, now in zip(drawn[0][1][2:], drawn[1][1]):
        assert before.caption == now.caption
        assert all((a == b).all() for a, b in zip(before.panels, now.panels))


def test_the_targets_are_drawn_where_the_labels_are(small, small_config, drawn):
    config = small_config()
    assert preview.main(small() + ["--count", "4"]) == 0
    with pipeline.Pipeline(readers.training(config), config, SKELETONS["body"]) as batches:
        second = [next(batches), next(batches)]
    for n, row in enumerate(drawn[0][1]):
        batch, i = second[n // 2], n % 2
        dark = contact_sheet.fit(contact_sheet.dark(batch.image[i])).astype(int)
        changed = np.abs(row.panels[2] - dark).max(axis=2) > 60
        scale = pictures.SIDE / 64.0
        inside = batch.valid[i] & ((batch.uv[i] > 1) & (batch.uv[i] < 62)).all(axis=1)
        assert inside.any()
        for x, y in np.trunc(batch.uv[i][inside]):
            assert changed[int((y + 0.5) * scale), int((x + 0.5) * scale)]
        assert not changed.all()
        a, b = SKELETONS["body"].limbs[1]
        if inside[a] and inside[b]:
            x, y = (batch.uv[i][a] + batch.uv[i][b]) / 2 * scale
            assert np.ptp(row.panels[3][int(y), int(x)]) > 40  # a coloured limb


def test_what_gives_no_pof_loss_is_said(small, drawn):
    for ignored in ("true", "false"):
        assert preview.main(small("data.mix={coco: 1}", "compat.ignore_paf_2d=" + ignored) + ["--count", "1"]) == 0
    captions = [rows[0].caption for _, rows, _ in drawn]
    assert ["no POF loss" in caption for caption in captions] == [True, False]


@pytest.mark.parametrize("crop", [32, 184])
def test_hands_and_crops_of_other_sizes(hand, tmp_path, crop):
    assert preview.main(hand("model.crop={}".format(crop)) + ["--count", "2"]) == 0
    assert picture(tmp_path / "run" / "previews" / "samples.jpg").shape[1] == 5 * pictures.SIDE + 4 * contact_sheet.GAP + 2 * contact_sheet.MARGIN


def test_a_png_holds_the_sheet_itself(small, small_config, tmp_path):
    out = tmp_path / "elsewhere" / "sheet.PNG"
    assert preview.main(small() + ["--count", "1", "--out", str(out)]) == 0
    config = small_config()
    assert (picture(out) == preview.samples_sheet(readers.training(config), config, 0, 1)).all()
    assert not (tmp_path / "run").exists()


# ---- beside a training


def test_a_training_in_the_same_directory_is_not_disturbed(under_way):
    run, _ = under_way("train.seed=5")
    with lock.exclusive(str(run / ".lock"), "trainer"), lock.exclusive(str(run / "steps" / ".train.lock"), "training"):
        before = tree(run)
        assert preview.main(["--run-dir", str(run), "--count", "2", "--set", "train.steps=9"]) == 0
        after = tree(run)
    assert after.pop(os.path.join("previews", "samples.jpg"))
    assert after == before


def test_without_a_config_it_draws_what_the_run_directory_trains_on(under_way, drawn):
    run, config = under_way("train.seed=5", "augment.rotate=10")
    assert preview.main(["--run-dir", str(run), "--count", "2"]) == 0
    with pipeline.Pipeline(readers.training(config), config, SKELETONS["body"]) as batches:
        batch = next(batches)
    for i, row in enumerate(drawn[0][1]):
        assert batch.names[i] in row.caption
        assert (row.panels[0] == pictures.draw(batch.image[i], batch.uv[i], batch.valid[i], SKELETONS["body"])).all()


# ---- the sheet of augmentations


def test_each_augmentation_has_a_row_that_says_how_strong_it_is(small, tmp_path, drawn):
    assert preview.main(small(*BLURRED) + ["--each"]) == 0
    columns, rows, footnotes = drawn[0]
    captions = {row.caption.partition(":")[0]: row.caption for row in rows}
    assert list(captions) == [augmentation.title for augmentation in preview.AUGMENTATIONS]
    assert "augment.rotate=20 (as in training)" in captions["rotation"]
    assert "crop_scale_sigma=0.3 (training: off)" in captions["scale"]
    assert "augment.blur=1 (training: 0.25), augment.blur_sigma=2" in captions["blur"]
    assert footnotes == []
    down, across = contact_sheet.panel_place(columns, rows, len(rows) - 1, len(columns) - 1)
    assert picture(tmp_path / "run" / "previews" / "each.jpg").shape == (down.stop + contact_sheet.MARGIN, across.stop + contact_sheet.MARGIN, 3)


def test_each_row_shows_the_same_samples_without_and_with_it(small, drawn):
    assert preview.main(small() + ["--each", "--count", "2", "--first", "1"]) == 0
    columns, rows, _ = drawn[0]
    plain = [c for c, column in enumerate(columns) if column.heading.endswith("without")]
    assert [columns[c].heading for c in plain] == ["sample 1, without", "sample 2, without"]
    for row in rows:
        for c in plain:
            assert (row.panels[c] == rows[0].panels[c]).all()
            assert any((row.panels[c + k] != row.panels[c]).any() for k in range(1, 1 + preview.DRAWS)), row.caption
    assert (rows[0].panels[plain[0]] != rows[0].panels[plain[1]]).any()


def test_the_row_of_the_flip_shows_mirrored_images(small, drawn, monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda image, uv, valid, skeleton: image)  # labels have other colours on the other side
    assert preview.main(small() + ["--each"]) == 0
    row = next(row for row in drawn[0][1] if row.caption.startswith("flip"))
    for c in range(1, 1 + preview.DRAWS):
        assert np.abs(row.panels[c][:, ::-1].astype(int) - row.panels[0]).mean() < 2
        assert np.abs(row.panels[c].astype(int) - row.panels[0]).mean() > 10


def test_an_augmentation_that_the_configuration_forbids_is_named_not_drawn(hand, drawn):
    assert preview.main(hand() + ["--each", "--count", "1"]) == 0
    _, rows, footnotes = drawn[0]
    assert len(rows) == len(preview.AUGMENTATIONS) - 1
    assert not any(row.caption.startswith("flip") for row in rows)
    assert len(footnotes) == 1
    assert footnotes[0].startswith("flip:  not drawn, augment.flip=1")


def test_only_one_augmentation_is_on_at_a_time(small_config):
    config = small_config("augment.rotate=20", "augment.hue=0.1", "augment.blur=0.5")
    before = configuration.to_dict(config)
    for augmentation in preview.AUGMENTATIONS:
        made, _ = preview.switch_on(config, augmentation)
        on = [a.title for a in preview.AUGMENTATIONS if getattr(getattr(made, a.section), a.key)]
        assert on == [augmentation.title]
    assert configuration.to_dict(config) == before


# ---- mistakes


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--set", "augment.rotat=5"], "did you mean 'augment.rotate'?"),
        (["--set", "data.root=/nowhere"], "/nowhere"),
        (["--config", "demoo"], "did you mean 'demo'?"),
        (["--count", "0"], "--count 0: must be 1 to 40"),
        (["--each", "--count", "7"], "--count 7: must be 1 to 6 with --each"),
        (["--first", "-1"], "--first -1: must be 0 or more"),
        (["--out", "sheet.gif"], "--out sheet.gif: expected a file name that ends in .jpg or .png"),
        (["--out", os.path.join(os.devnull, "sheet.jpg")], "sheet.jpg cannot be written"),
    ],
)
def test_mistakes_end_with_one_sentence_and_write_nothing(small, tmp_path, capsys, words, sentence):
    assert preview.main(small() + words) == 2
    assert sentence in said(capsys)
    assert not (tmp_path / "run").exists()


def test_an_image_that_cannot_be_read_is_named(small, small_data, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(small_data, str(root), ignore=shutil.ignore_patterns("archives"))
    for image in (root / "train2017").iterdir():
        image.write_bytes(image.read_bytes()[:-500])
    for words in ([], ["--each"]):
        assert preview.main(small("data.root={}".format(root)) + words) == 2
        assert str(root / "train2017") in said(capsys)
    assert not (tmp_path / "run").exists()


def test_a_damaged_config_in_the_run_directory_is_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"train": ')
    assert preview.main(["--run-dir", str(tmp_path)]) == 2
    assert "config.json cannot be read" in said(capsys)


def test_an_older_picture_survives_a_mistake_and_a_signal(small, tmp_path, monkeypatch):
    assert preview.main(small() + ["--count", "1"]) == 0
    before = tree(tmp_path / "run")
    monkeypatch.setattr(readers, "training", lambda config: os.kill(os.getpid(), signal.SIGTERM))
    assert preview.main(small()) == 3
    assert tree(tmp_path / "run") == before
