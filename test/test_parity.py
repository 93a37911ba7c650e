"""The comparison with the reference's numbers, and that it can fail."""

import os
import shutil

import numpy as np
import pytest

from test import parity

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "shared", "golden")
FILES = parity.golden_files(GOLDEN) if os.path.isdir(GOLDEN) else []
with_golden = pytest.mark.skipif(not os.path.isdir(GOLDEN), reason="the golden numbers are not part of the project")


@with_golden
@pytest.mark.parametrize("path", FILES, ids=[os.path.basename(path) for path in FILES])
def test_this_code_gives_the_references_numbers(path):
    assert [(what, error, bound) for what, error, bound in parity.compare(path) if not error <= bound] == []


@with_golden
@pytest.mark.parametrize(
    ("name", "key", "change"),
    [("coco_crops", "scale", 1.001), ("upsample_bicubic", "y", 1.001), ("targets_hand3d", "pof", 1.001), ("crop3d", "scale2d", np.nan)],
)
def test_a_changed_number_is_a_mismatch(tmp_path, capsys, name, key, change):
    with np.load(os.path.join(GOLDEN, name + ".npz")) as z:
        values = dict(z)
    values[key] = values[key] * np.float32(change)
    np.savez(str(tmp_path / (name + ".npz")), **values)
    assert parity.main(["--golden", str(tmp_path)]) == 1
    assert "FAIL  {}.npz".format(name) in capsys.readouterr().out


@pytest.mark.last
@with_golden
def test_a_changed_loss_is_a_mismatch(tmp_path, capsys):
    for name in os.listdir(GOLDEN):
        if name.startswith("targets_body"):
            shutil.copy(os.path.join(GOLDEN, name), str(tmp_path))
    with np.load(os.path.join(GOLDEN, "loss_ignore2d.npz")) as z:
        values = dict(z)
    values["loss_2d"] = values["loss_2d"] * np.float32(1.0001)
    np.savez(str(tmp_path / "loss_ignore2d.npz"), **values)
    assert parity.main(["--golden", str(tmp_path)]) == 1
    assert "FAIL  loss_ignore2d.npz" in capsys.readouterr().out


def test_a_file_that_no_check_knows_is_a_mismatch(tmp_path, capsys):
    np.savez(str(tmp_path / "poses.npz"), x=np.zeros(3))
    assert parity.main(["--golden", str(tmp_path)]) == 1
    assert "no check for a file of this name" in capsys.readouterr().out


def test_a_file_without_its_numbers_is_a_mismatch(tmp_path, capsys):
    np.savez(str(tmp_path / "upsample_x.npz"), x=np.zeros((1, 4, 4, 1), np.float32))
    assert parity.main(["--golden", str(tmp_path)]) == 1
    assert "KeyError" in capsys.readouterr().out


def test_a_missing_or_empty_folder_is_a_users_mistake(tmp_path, capsys):
    for folder in (tmp_path / "none", tmp_path):
        assert parity.main(["--golden", str(folder)]) == 2
    assert "no folder with golden numbers" in capsys.readouterr().err
