"""One holder at a time, known by name, and what its successor learns of it."""

import json
import os
import socket
import subprocess
import sys

import pytest

from mtc import lock
from mtc.errors import TakenOver, UserError

HOLD = """
import sys
from mtc import lock
with lock.exclusive(sys.argv[1], 'trainer', keep_history=True) as held:
    print(held.holder.token, flush=True)
    {}
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / ".lock")


def hold(path, then="sys.stdin.read()"):
    """Start a process that takes the lock; return it and its token."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True
    )
    return process, process.stdout.readline().strip()


def test_a_second_holder_is_refused_with_the_firsts_name_process_and_machine(path):
    with lock.exclusive(path, "trainer"), pytest.raises(
        UserError, match=r"another trainer \(process {} on {}, since 20..-".format(os.getpid(), socket.gethostname())
    ), lock.exclusive(path, "trainer", patience=0.0):
        pass


def test_a_holder_in_another_process_is_named_too(path):
    process, _ = hold(path)
    with pytest.raises(UserError, match="process {} ".format(process.pid)), lock.exclusive(path, "trainer", patience=0.0):
        pass
    process.communicate()
    with lock.exclusive(path, "trainer", patience=0.0) as held:
        assert (held.previous.pid, held.previous.state) == (process.pid, "released")


def test_a_killed_holder_is_proven_gone(path):
    process, token = hold(path)
    process.kill()
    process.communicate()
    with lock.exclusive(path, "trainer", patience=0.0) as held:
        assert held.previous.token == token
        assert held.previous.state == "held"
        assert held.previous_is_gone
        assert held.holder.fence == held.previous.fence + 1


def test_a_holder_on_another_machine_that_released_nothing_is_not(path, monkeypatch):
    process, _ = hold(path)
    process.kill()
    process.communicate()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    with lock.exclusive(path, "trainer", patience=0.0) as held:
        assert not held.previous_is_gone


def test_a_holder_that_was_told_to_stop_is_waited_for(path, monkeypatch):
    monkeypatch.setattr(lock, "LEAVING_PATIENCE", 0.0)
    with lock.exclusive(path, "trainer") as held:
        held.leave()
        monkeypatch.setattr(lock, "LEAVING_PATIENCE", 1e9)
        polls = []

        def poll(seconds):
            polls.append(seconds)
            if len(polls) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(lock.time, "sleep", poll)
        with pytest.raises(KeyboardInterrupt), lock.exclusive(path, "trainer", patience=0.0):
            pass
    assert len(polls) == 3


def test_who_was_replaced_finds_out_before_it_writes(path):
    with lock.exclusive(path, "trainer") as held:
        held.check()
        other = held.holder._replace(token="other", host="otherhost")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(other._asdict(), f)
        with pytest.raises(TakenOver, match="otherhost"):
            held.check()
    with open(path, encoding="utf-8") as f:
        assert "other" in f.read()  # and does not claim to have released what is not its own


def test_a_damaged_lock_file_is_no_obstacle(path):
    for content in ("", "4711", "{torn", '{"token": 1}'):
        with open(path, "w", encoding="utf-8") as f:
            f.write(content)
        with lock.exclusive(path, "trainer", patience=0.0) as held:
            assert held.previous is None
            assert held.previous_is_gone


def test_the_history_tells_who_had_it_when(path):
    for _ in range(2):
        process, _ = hold(path, "pass")
        process.communicate()
    process, token = hold(path)
    process.kill()
    process.communicate()
    lines = lock.history(path)
    assert [(line["event"], line["fence"]) for line in lines] == [("taken", 1), ("released", 1), ("taken", 2), ("released", 2), ("taken", 3)]
    assert lines[-1]["token"] == token
    times = [line["time"] for line in lines]
    assert times == sorted(times)


def test_without_being_asked_for_there_is_no_history(path):
    with lock.exclusive(path, "fetch"):
        pass
    assert lock.history(path) == []
    assert not os.path.exists(path + ".history")
