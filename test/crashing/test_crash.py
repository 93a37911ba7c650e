"""Fifty kills and two hundred flipped bits, on every run of the tests: half of them on each TensorFlow where there are two (MTC_CRASH_CYCLES).

`python -m benchmarks.crash` does a thousand.
"""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import crash

CYCLES = int(os.environ.get("MTC_CRASH_CYCLES", "50"))
FLIPS = 4 * CYCLES
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.mark.timeout(900)
def test_nothing_is_lost(tmp_path):
    out = tmp_path / "crash.json"
    counts = ["--cycles", str(CYCLES), "--flips", str(FLIPS), "--seed", "4", "--jobs", "1"]
    command = [sys.executable, os.path.join("benchmarks", "crash.py")] + counts
    done = subprocess.run(
        command + ["--folder", str(tmp_path), "--out", str(out)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    found = json.loads(out.read_text())
    assert (found["holds"], found["broken"], found["cycles"], found["flips"]) == (True, [], CYCLES, FLIPS)
    assert found["checks"] >= CYCLES
    assert found["exhaustive"] > 1000
    assert len(found["points"]) >= 5
    assert sum(found["kinds"].values()) == CYCLES
    assert "never two writers" in done.stdout


def test_a_broken_promise_makes_the_exit_code_1_and_names_the_seed(tmp_path, monkeypatch, capsys):
    broken = {"seed": 1000, "broken": "Broken: the newest finished checkpoint is lost", "traceback": ""}
    monkeypatch.setattr(crash, "_data", lambda folder: "")
    monkeypatch.setattr(crash, "_work", _Broken(broken))
    assert crash.main(["--cycles", "5", "--jobs", "1", "--folder", str(tmp_path), "--out", str(tmp_path / "out.json")]) == 1
    printed = capsys.readouterr().out
    assert "BROKEN (seed 1000)" in printed
    assert "holds" not in printed


class _Broken:
    """A worker whose promise does not hold; it can be sent to another process."""

    def __init__(self, result):
        self.result = result

    def __call__(self, work):
        return self.result
