"""What the launcher tells its ranks, and what it makes of their ends."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tasks import launch

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def environments(*words, **environ):
    return launch._environments(launch._parse(list(words)), environ)


def of(environment, *names):
    return tuple(environment.get(name) for name in names)


def test_ranks_of_one_machine_meet_at_a_free_port_of_it():
    found = environments("--ranks", "2", TF_CONFIG="old", RANK="7")
    assert [of(each, "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR") for each in found] == [
        ("0", "0", "2", "2", "127.0.0.1"),
        ("1", "1", "2", "2", "127.0.0.1"),
    ]
    assert found[0]["MASTER_PORT"] == found[1]["MASTER_PORT"] != "0"
    assert [of(each, "CUDA_VISIBLE_DEVICES", "ASCEND_DEVICE_ID", "TF_CONFIG", "RANK_ID") for each in found] == [
        ("0", "0", None, None),
        ("1", "1", None, None),
    ]


def test_ranks_of_several_machines_are_numbered_through(tmp_path):
    found = environments("--ranks", "2", "--nodes", "3", "--node-rank", "1", "--master", "10.0.0.1:2222", "--device-ids", "4,5")
    assert [of(each, "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ASCEND_DEVICE_ID") for each in found] == [
        ("2", "0", "6", "10.0.0.1", "2222", "4"),
        ("3", "1", "6", "10.0.0.1", "2222", "5"),
    ]
    found = environments("--ranks", "1", "--nodes", "2", "--meet-in", str(tmp_path / "meeting.json"), "--record", "train_machine_0")
    assert of(found[0], "MTC_MEETING", "MASTER_ADDR", "MTC_RANK_RECORD") == (str(tmp_path / "meeting.json"), None, "train_machine_0")


def test_npus_get_the_rank_table_or_the_size_for_hccl_without_one(tmp_path):
    table = tmp_path / "table.json"
    table.write_text("{}")
    found = environments("--ranks", "2", "--rank-table", str(table))
    assert [of(each, "RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE", "JOB_ID") for each in found] == [
        ("0", "2", str(table), "mtc"),
        ("1", "2", str(table), "mtc"),
    ]
    found = environments("--ranks", "2", CM_CHIEF_IP="10.0.0.1", JOB_ID="17")
    assert [of(each, "CM_WORKER_SIZE", "RANK_ID", "JOB_ID") for each in found] == [("2", None, "17")] * 2


def test_gpus_are_taken_from_those_that_are_visible():
    found = environments("--ranks", "2", "--device-ids", "1,0", CUDA_VISIBLE_DEVICES="5,7")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["7", "5"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--ranks", "2", "--nodes", "2"), "--nodes 2 without --master HOST:PORT"),
        (("--ranks", "2", "--node-rank", "1"), "--node-rank 1: there are 1 machines"),
        (("--ranks", "2", "--device-ids", "0"), "--device-ids 0: 1 devices for 2 ranks"),
        (("--ranks", "2", "--nodes", "2", "--master", "host"), "--master host: expected HOST:PORT"),
        (("--ranks", "2", "--rank-table", "/nowhere.json"), "--rank-table /nowhere.json: does not exist"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(words, sentence, capsys):
    assert launch.main(list(words)) == 2
    assert sentence in capsys.readouterr().err


def test_no_ranks_are_refused(capsys):
    with pytest.raises(SystemExit) as refused:
        launch.main(["--ranks", "0"])
    assert refused.value.code == 2


@pytest.mark.parametrize(
    ("codes", "first", "code"),
    [
        ([0, 0], 0, 0),
        ([3, 3], 0, 3),
        ([2, 2], 0, 2),
        ([-9, 1], 0, 1),
        ([1, -9], 0, 1),
        ([0, -9], 0, 1),
        ([0, None], 0, 1),
        ([3, 3], None, 3),
        ([0, 1], None, 1),
    ],
)
def test_the_exit_code_is_rank_0s_and_none_hides_a_death(codes, first, code):
    assert launch._exit_code(codes, first) == code


FAKE = """
    import os, signal, sys, time
    rank = int(os.environ["RANK"])
    print("line of", rank, sys.argv[1:], flush=True)
    print("on stderr", file=sys.stderr, flush=True)
    if "wait" in sys.argv:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        print("waiting", flush=True)
        time.sleep(60)
    if "linger" in sys.argv and rank:
        time.sleep(60)
"""


@pytest.fixture
def fake(tmp_path):
    """Return a function that starts the launcher with another tasks.train, which says what it was given."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "train.py").write_text(textwrap.dedent(FAKE))
    code = (
        "import sys; sys.path.insert(0, {!r}); from tasks import launch; sys.path.pop(0); launch._AFTER_THE_FIRST = 1; sys.exit(launch.main())"
    ).format(ROOT)

    def start(*words):
        return subprocess.Popen(
            [sys.executable, "-c", code, *words], cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=dict(os.environ, PYTHONPATH=str(tmp_path)),
        )  # fmt: skip

    return start


def test_lines_are_printed_with_their_rank(fake):
    printed, _ = fake("--ranks", "2", "--", "--config", "demo").communicate(timeout=60)
    assert sorted(printed.splitlines()) == [
        "[0] line of 0 ['--config', 'demo']",
        "[0] on stderr",
        "[1] line of 1 ['--config', 'demo']",
        "[1] on stderr",
    ]


def test_a_signal_is_handed_on(fake):
    process = fake("--ranks", "2", "--", "wait")
    waiting = 0
    while waiting < 2:
        line = process.stdout.readline()
        assert line
        waiting += "waiting" in line
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 3


def test_a_rank_that_stays_when_others_have_ended_is_killed(fake):
    process = fake("--ranks", "2", "--", "linger")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ranks that did not end after another had are killed" in printed
