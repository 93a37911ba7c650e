"""Credentials of the storage are in the environment, and nowhere else: not in files, not in what is printed, not in a command line."""

import json
import os
import sys

import pytest

from test import leaks

pytestmark = pytest.mark.last


@pytest.fixture
def server(tmp_path):
    with leaks.s3_server(tmp_path / "server") as endpoint:
        yield endpoint


@pytest.fixture
def run(small, tmp_path):
    """Run `python -m tasks.train` to S3; return its exit code, its record, and all places that hold one of the values."""

    def run(endpoint, environ, values, *overrides):
        places = ("storage.uri=s3://bucket/runs", "storage.endpoint={}".format(endpoint))
        command = [sys.executable, "-m", "tasks.train"] + small("train.steps=2", *(places + overrides))
        code, lines = leaks.run(command, tmp_path / "output", values, env=environ)
        found, count = leaks.places_of(values, tmp_path / "run", tmp_path / "server", tmp_path / "output")
        assert count > 2
        return code, json.loads((tmp_path / "run" / "steps" / "train.json").read_text()), sorted(lines) + found

    return run


def test_a_run_to_s3_leaves_no_credentials(run, server, tmp_path):
    code, record, found = run(server, leaks.credentials(), leaks.VALUES)
    assert (code, found) == (0, []), (tmp_path / "output").read_text()
    assert record["figures"]["uploaded"] == "s3://bucket/runs/run/checkpoints/step-00000002"
    assert list((tmp_path / "server").rglob("MANIFEST.json"))


def test_a_wrong_secret_ends_with_2_and_is_not_repeated(run, server):
    wrong = "wrong" + leaks.SECRET
    code, record, found = run(server, leaks.credentials(secret=wrong), leaks.VALUES + (wrong,))
    assert (code, found) == (2, [])
    assert "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in record["error"]


def test_uploads_that_fail_tell_no_credentials(run, server, tmp_path):
    proxy = pytest.importorskip("benchmarks.crashing.proxy")  # needs botocore
    with proxy.Proxy(server, key_id=leaks.KEY_ID, secret=leaks.SECRET) as faulty:
        faulty.plan(("500", "503", "skew", "garbage", "drop"), rate=1.0, match=lambda method, path: method == "PUT" and "/checkpoints/" in path)
        code, record, found = run(faulty.url, leaks.credentials(), leaks.VALUES, "storage.patience=3")
    assert (code, found) == (1, [])
    assert "step-00000002 could not be uploaded" in record["error"]
    assert '"upload_failed"' not in (tmp_path / "run" / "metrics.jsonl").read_text()  # it may pass: the next trainer tries again


def test_the_search_finds_what_is_there(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x" + leaks.credentials()["AWS_SESSION_TOKEN"])
    command = [sys.executable, "-c", "import time; time.sleep(1)", leaks.SECRET]
    code, lines = leaks.run(command, tmp_path / "output")
    assert (code, lines) == (0, {" ".join(command) + " "})
    assert leaks.places_of(leaks.VALUES, tmp_path / "folder", tmp_path / "output") == ([os.path.join(str(tmp_path), "folder", "file")], 2)
