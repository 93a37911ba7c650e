"""`python -m tasks.doctor`, which the task `validate` runs: in the real training interpreter."""

import json
import os
import subprocess

import pytest

from test.dag.conftest import REAL_PYTHON, ROOT

pytestmark = pytest.mark.skipif(not os.access(REAL_PYTHON, os.X_OK), reason=f"no training interpreter at {REAL_PYTHON}; set MTC_PYTHON")


def doctor(run_dir, program=("-m", "tasks.doctor"), **settings):
    """Run it with the demo's config; return (exit code, output, record)."""
    words = [word for key, value in settings.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    command = [REAL_PYTHON, *program, "--config", "demo", "--run-dir", str(run_dir), *words]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return answer.returncode, answer.stderr, json.loads((run_dir / "steps" / "doctor.json").read_text())


def test_a_machine_that_is_ready_passes_every_time_anew(tmp_path):
    for _ in range(2):
        code, output, record = doctor(tmp_path / "run", data__root=tmp_path / "data", storage__uri=tmp_path / "storage", train__device="cpu")
        assert code == 0, output
        assert output.count("  ok  ") == len(record["figures"]["checks"]) == 10
        assert "nothing to do" not in output


def test_all_faults_are_named_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "data").mkdir()
    settings = {"data__root": tmp_path / "file" / "data", "storage__uri": "ftp://host/x", "snapshot__uri": tmp_path / "gone" / "model-1"}
    code, output, record = doctor(tmp_path / "run", **settings)
    assert code == 2
    assert output.count("  FAULT  ") == 3
    for named in (str(tmp_path / "file"), "ftp://host/x", str(tmp_path / "gone" / "model-1")):
        assert named in record["error"]


def test_a_disk_without_room_is_refused_before_the_download(tmp_path):
    full = (
        "import shutil, sys; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**12, 10**12, 10**6);"
        "from tasks import doctor; sys.exit(doctor.main())"
    )
    code, _, record = doctor(tmp_path / "run", program=["-c", full], data__root=tmp_path / "data", storage__uri=tmp_path / "storage")
    assert code == 2
    assert f"{tmp_path / 'data'} needs " in record["error"]
    assert "1 MB free: make room or choose another folder" in record["error"]
