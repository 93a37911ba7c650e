"""Who is which rank, by the environment; each contradiction is told in a sentence."""

import json

import pytest

from mtc.errors import UserError
from mtc.training.ranks import world


def tf_config(addresses, index, kind="worker", **cluster):
    return json.dumps({"cluster": dict({"worker": addresses}, **cluster), "task": {"type": kind, "index": index}})


def table(tmp_path, *servers, **changes):
    """Write a rank table of servers with these numbers of devices; return its path."""
    rank, found = 0, []
    for number, count in enumerate(servers):
        devices = [{"device_id": str(i), "device_ip": "192.168.100.{}".format(rank + i), "rank_id": str(rank + i)} for i in range(count)]
        found.append({"server_id": "10.0.0.{}".format(number + 1), "device": devices})
        rank += count
    values = {"status": "completed", "version": "1.0", "server_count": str(len(servers)), "server_list": found}
    path = tmp_path / "table.json"
    path.write_text(json.dumps(dict(values, **changes)))
    return str(path)


@pytest.mark.parametrize("environ", [{}, {"WORLD_SIZE": "1"}, {"RANK_SIZE": "1", "RANK_ID": "0"}, {"TF_CONFIG": tf_config(["a:1"], 0)}])
def test_a_process_alone_is_no_rank(environ):
    assert world.of_environment("cpu", environ) is None


def test_what_torchrun_sets():
    environ = {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert world.of_environment("gpu", environ) == world.World(2, 4, ("10.0.0.1", 1234))


def test_tf_config_names_all_servers_and_the_chief_is_the_first():
    assert world.of_environment("cpu", {"TF_CONFIG": tf_config(["a:5", "b:6"], 1)}) == world.World(1, 2, ("a", 6), ("a:5", "b:6"))
    found = world.of_environment("cpu", {"TF_CONFIG": tf_config(["b:6"], 0, chief=["a:5"]), "MASTER_PORT": "9"})
    assert found == world.World(1, 2, ("a", 9), ("a:5", "b:6"))


def test_a_rank_table_says_where_rank_0_is(tmp_path):
    environ = {"RANK_ID": "3", "RANK_SIZE": "4", "RANK_TABLE_FILE": table(tmp_path, 2, 2)}
    assert world.of_environment("npu", environ) == world.World(3, 4, ("10.0.0.1", world.PORT))
    environ["RANK_TABLE_FILE"] = table(tmp_path, 4)
    assert world.of_environment("npu", environ).meeting == ("127.0.0.1", world.PORT)


def test_without_a_rank_table_hccl_decides_on_ranks():
    environ = {"CM_CHIEF_IP": "10.0.0.9", "CM_CHIEF_PORT": "60000", "CM_CHIEF_DEVICE": "0", "CM_WORKER_SIZE": "8", "CM_WORKER_IP": "10.0.0.9"}
    assert world.of_environment("npu", environ) == world.World(None, 8, ("10.0.0.9", world.PORT))


@pytest.mark.parametrize(
    ("kind", "environ", "words"),
    [
        ("cpu", {"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR"),
        ("cpu", {"WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "RANK is not set"),
        ("cpu", {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a"}, "RANK=2: there are 2 ranks"),
        ("cpu", {"WORLD_SIZE": "two"}, "WORLD_SIZE=two: expected a whole number"),
        ("cpu", {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "0"}, "MASTER_PORT=0"),
        ("cpu", {"RANK_SIZE": "8", "RANK_ID": "0"}, "RANK_SIZE=8 is for NPUs"),
        ("cpu", {"TF_CONFIG": "{"}, "TF_CONFIG: expected"),
        ("cpu", {"TF_CONFIG": tf_config(["a:1", "b"], 0)}, "'b' is not host:port"),
        ("cpu", {"TF_CONFIG": tf_config(["a:1", "b:1"], 2)}, "task worker 2 is not in the cluster"),
        ("cpu", {"TF_CONFIG": tf_config(["a:1", "b:1"], 0, ps=["c:1"])}, "no parameter servers"),
        ("npu", {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a"}, "ranks on NPUs need RANK_TABLE_FILE"),
        ("npu", {"RANK_SIZE": "2", "RANK_ID": "0"}, "RANK_SIZE=2 without RANK_TABLE_FILE"),
        ("npu", {"RANK_SIZE": "2", "RANK_ID": "0", "RANK_TABLE_FILE": "/nowhere.json"}, "/nowhere.json does not exist"),
        ("npu", {"RANK_SIZE": "2", "CM_WORKER_SIZE": "2"}, "RANK_SIZE and CM_WORKER_SIZE are set"),
        ("npu", {"CM_WORKER_SIZE": "2", "CM_CHIEF_IP": "a", "CM_CHIEF_PORT": "1"}, "without CM_CHIEF_DEVICE"),
    ],
)
def test_contradictions_are_refused(kind, environ, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        world.of_environment(kind, environ)


@pytest.mark.parametrize(
    ("servers", "changes", "words"),
    [
        ((2,), {}, "has ranks 0, 1, RANK_SIZE is 4"),
        ((4,), {"status": "initializing"}, "not 'completed'"),
        ((4,), {"server_list": None}, "expected status"),
    ],
)
def test_a_rank_table_that_does_not_fit_is_refused(tmp_path, servers, changes, words):
    environ = {"RANK_ID": "0", "RANK_SIZE": "4", "RANK_TABLE_FILE": table(tmp_path, *servers, **changes)}
    with pytest.raises(UserError, match=words):
        world.of_environment("npu", environ)


def test_a_server_without_an_address_needs_master_addr(tmp_path):
    path = table(tmp_path, 1, 1, server_list=[{"server_id": "node_{}".format(i), "device": [{"rank_id": str(i)}]} for i in range(2)])
    environ = {"RANK_ID": "0", "RANK_SIZE": "2", "RANK_TABLE_FILE": path}
    with pytest.raises(UserError, match="set MASTER_ADDR"):
        world.of_environment("npu", environ)
    assert world.of_environment("npu", dict(environ, MASTER_ADDR="10.1.1.1")).meeting == ("10.1.1.1", world.PORT)
