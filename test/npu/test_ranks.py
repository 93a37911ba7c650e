"""Several ranks of the double that really exchange numbers, and journals of processes that a test starts."""

import contextlib
import json
import os
import subprocess
import sys
import threading

import pytest

from mtc.training.ranks.link import free_port
from test.npu.conftest import DOUBLE, clean_environment

pytestmark = [pytest.mark.first, pytest.mark.timeout(600)]  # each starts TensorFlow twice
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCENARIO = os.path.join(ROOT, "test", "npu", "scenarios", "two_ranks.py")


def by_table(folder):
    devices = [{"device_id": str(i), "device_ip": "192.168.10{}.101".format(i), "rank_id": str(i)} for i in range(2)]
    table = {"status": "completed", "version": "1.0", "server_count": "1", "server_list": [{"server_id": "here", "device": devices}]}
    path = folder / "table.json"
    path.write_text(json.dumps(table))
    hub = "127.0.0.1:{}".format(free_port())
    return [{"RANK_TABLE_FILE": str(path), "RANK_ID": str(rank), "RANK_SIZE": "2", "NPU_DOUBLE_HUB": hub} for rank in range(2)]


def run(environments, folder, overflow):
    """Run a rank for each environment, with its steps that overflow; return [(what it found, path of its journal)]."""
    started = []
    for number, environment in enumerate(environments):
        journal = folder / "journal-{}.jsonl".format(number)
        given = {"JOB_ID": "10087", "NPU_DOUBLE_JOURNAL": str(journal), "NPU_DOUBLE_OVERFLOW": overflow[number], "NPU_DOUBLE_TIMEOUT": "300",
                 "PYTHONPATH": os.pathsep.join([DOUBLE, ROOT]), "TF_CPP_MIN_LOG_LEVEL": "2"}  # fmt: skip
        command = [sys.executable, "-W", "ignore", SCENARIO]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "universal_newlines": True}
        started.append((subprocess.Popen(command, env=dict(clean_environment(), **given, **environment), **pipes), journal))
    found = []
    for process, journal in started:
        try:
            output, errors = process.communicate(timeout=500)
        finally:
            process.kill()
        assert process.returncode == 0, errors[-3000:]
        found.append((json.loads(output.splitlines()[-1]), journal))
    return found


def test_two_processes_train_on_the_average_of_their_gradients(tmp_path, npu_double):
    (first, one), (second, two) = run(by_table(tmp_path), tmp_path, overflow=("3", ""))
    assert [(found["rank"], found["size"]) for found in (first, second)] == [(0, 2), (1, 2)]
    for found in (first, second):
        assert found["gather"] == [[0, 1], [2, 0], [1, 1], [2, 3]]
        assert found["broadcast"] == [[[1, 1], [2, 3]], [[2, 2], [3, 4]]]
        assert found["max"] == [[1, 1], [2, 3]]
        assert len(found["nodes"]) == 30
    assert (first["scatter"], second["scatter"]) == ([[1, 2]], [[4, 3]])
    assert (first["reduce"], second["reduce"]) == ([[0, 1], [2, 0]], [[1, 2], [4, 3]])
    # Rank 0 sees the means 2, 6, 10, 14 and rank 1 sees 3, 7, 11, 15; at the third step rank 0 alone overflows, and both skip it.
    expected, values = 1.0, []
    for mean in (2.5, 6.5, None, 14.5):
        expected -= 0.5 * mean if mean else 0.0
        values.append([[expected] * 3, [expected + 29] * 3])
    assert first["values"] == second["values"] == values
    assert first["scales"] == second["scales"] == [1024, 1024, 512, 512]
    assert first["step"] == second["step"] == 3
    journals = [npu_double.read_journal(str(path)) for path in (one, two)]
    assert npu_double.graphs_differ(*journals) == ""
    assert "only one makes run" in npu_double.graphs_differ(journals[0], journals[1][:-5])
    reads = [entry["overflow"] for entry in journals[0] if entry.get("api") == "float_status.read"]
    assert reads == [False, False, True, False]
    assert [entry["loops"] for entry in journals[1] if entry["kind"] == "run" and entry["trains"]] == [1] * 4


def test_ranks_meet_where_the_tables_first_device_says(npu_double, monkeypatch, tmp_path):
    from npu_double import world

    environment = by_table(tmp_path)[0]
    monkeypatch.setenv("RANK_TABLE_FILE", environment["RANK_TABLE_FILE"])
    host, port = world._address()
    assert (host, world._address()) == ("127.0.0.1", (host, port))
    assert 20000 <= port < 30000
    monkeypatch.setenv("NPU_DOUBLE_HUB", environment["NPU_DOUBLE_HUB"])
    assert "{}:{}".format(*world._address()) == environment["NPU_DOUBLE_HUB"]


@pytest.fixture
def two_ranks(npu_double, monkeypatch):
    """This process as rank 0, and a thread as rank 1 that joins and does `tasks` in order."""
    from npu_double import hub, world

    monkeypatch.setenv("NPU_DOUBLE_HUB", "127.0.0.1:{}".format(free_port()))
    monkeypatch.setenv("NPU_DOUBLE_TIMEOUT", "5")
    monkeypatch.setenv("RANK_SIZE", "2")
    monkeypatch.setenv("RANK_ID", "0")

    def start(*tasks):
        def other():
            line = hub._connect(world._address())
            hub._ask(line, {"do": "join", "rank": 1, "size": 2, "worker": None})
            with contextlib.suppress(hub.Failed):
                for task in tasks:
                    hub._ask(line, task)
            line.close()

        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        world.start()
        thread.join(5)

    return start


def test_workers_without_a_table_find_their_ranks_by_address_and_device(npu_double, monkeypatch):
    from npu_double import hub, world

    job = {"CM_CHIEF_IP": "10.0.0.1", "CM_CHIEF_PORT": str(free_port()), "CM_CHIEF_DEVICE": "3", "CM_WORKER_SIZE": "2", "CM_WORKER_IP": "10.0.0.1"}
    for name, value in dict(job, ASCEND_DEVICE_ID="3").items():
        monkeypatch.setenv(name, value)
    found = []

    def other():
        line = hub._connect(world._address())
        found.append(hub._ask(line, {"do": "join", "rank": None, "size": 2, "worker": ("10.0.0.1", 2)}))
        hub._ask(line, {"do": "bye"})
        line.close()

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    world.start()
    thread.join(5)
    assert (found, world.rank(), world.size()) == ([0], 1, 2)


def test_who_waits_for_a_rank_that_left_is_told(two_ranks, npu_double):
    import numpy as np
    from npu_double import hub

    two_ranks({"do": "bye"})
    with pytest.raises(hub.Failed, match=r"rank 0 waits at gradient \(run 0\) for ranks \[1\], which have left"):
        hub.exchange("gradient", (0, 1), np.zeros(2), None)


def test_who_waits_for_a_rank_that_is_elsewhere_is_told_where(two_ranks, npu_double, monkeypatch):
    import numpy as np
    from npu_double import hub, world

    elsewhere = {"do": "exchange", "key": ((0, 1), "loss", 0), "rank": 1, "array": np.zeros(2), "facts": None}
    thread = threading.Thread(target=lambda: two_ranks(elsewhere), daemon=True)
    thread.start()
    while not world._state["ready"]:
        thread.join(0.01)
    monkeypatch.setenv("NPU_DOUBLE_TIMEOUT", "1")
    with pytest.raises(hub.Failed, match=r"waits at gradient .* \[1\], which did not come within 1.0 s; they wait at \['loss'\]"):
        hub.exchange("gradient", (0, 1), np.zeros(2), None)


def test_ranks_that_bring_different_things_are_told(two_ranks, npu_double):
    import numpy as np
    from npu_double import hub, world

    key = ((0, 1), "gradient", 0)
    thread = threading.Thread(target=lambda: two_ranks({"do": "exchange", "key": key, "rank": 1, "array": np.zeros(3), "facts": None}), daemon=True)
    thread.start()
    while not world._state["ready"]:
        thread.join(0.01)
    with pytest.raises(hub.Failed, match=r"gradient: rank 0 brings float64 \(2,\) None, rank 1 float64 \(3,\) None"):
        hub.exchange("gradient", (0, 1), np.zeros(2), None)
    thread.join(5)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK_SIZE": "2", "RANK_ID": "0"}, "without RANK_TABLE_FILE"),
        ({"RANK_SIZE": "2", "RANK_ID": "2"}, "RANK_ID is '2', not 0 to 1"),
        ({"RANK_SIZE": "2", "CM_WORKER_SIZE": "2"}, "both set"),
        ({"RANK_ID": "0", "CM_WORKER_SIZE": "2"}, "RANK_ID must not be set beside CM_"),
        ({"CM_WORKER_SIZE": "2", "CM_CHIEF_IP": "10.0.0.1"}, "CM_CHIEF_PORT is not set"),
    ],
)
def test_a_job_that_is_not_described_does_not_start(variables, message, npu, graph, monkeypatch):
    import tensorflow.compat.v1 as tf

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with tf.Session() as session, pytest.raises(tf.errors.OpError, match=message):
        session.run(npu.npu_ops.initialize_system())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.update(status="initializing"), "status is 'initializing'"),
        (lambda table: table.update(server_count=1), "server_count is 1 for 1 servers"),
        (lambda table: table["server_list"][0]["device"].pop(), "3 devices; a 910 takes 1, 2, 4 or 8"),
        (lambda table: table["server_list"][0]["device"][0].update(device_id="4"), "not within 0-3 or 4-7"),
        (lambda table: table["server_list"][0]["device"][0].update(rank_id="1"), "twice"),
        (lambda table: table["server_list"][0]["device"][0].update(rank_id="7"), "not 0 to n-1"),
        (lambda table: table["server_list"][0]["device"][0].pop("device_ip"), "device_ip of"),
    ],
)
def test_a_rank_table_that_hccl_would_refuse_is_refused(change, message, npu_double):
    from npu_double import world

    devices = [{"device_id": str(i), "device_ip": "192.168.10{}.101".format(i), "rank_id": str(i)} for i in range(4)]
    table = {"status": "completed", "version": "1.0", "server_count": "1", "server_list": [{"server_id": "here", "device": devices}]}
    assert sorted(world.check_table(table)) == [0, 1, 2, 3]
    change(table)
    with pytest.raises(ValueError, match=message):
        world.check_table(table)
