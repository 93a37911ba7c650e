"""What docs/ascend.md shows can be used as it stands: tables, rank tables, lists of operators, options and the comparison of losses."""

import json
import os
import re

import pytest
import yaml

from mtc.devices import npu_options

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

with open(os.path.join(ROOT, "docs", "ascend.md"), encoding="utf-8") as page:
    TEXT = page.read()

BLOCKS = {kind: re.findall("```{}\n(.*?)```".format(kind), TEXT.replace("\n   ", "\n"), re.S) for kind in ("json", "python")}
RANK_TABLES = [json.loads(block) for block in BLOCKS["json"] if "server_list" in block]
OPTIONS = re.findall(r"npu\.options=(\{.*?\})[`']", TEXT)


@pytest.mark.parametrize("name", ["modes", "options"])
def test_a_table_is_what_the_data_says(name):
    shown = TEXT.split("<!-- {} -->\n".format(name))[1].split("<!-- end -->")[0]
    assert shown == npu_options.markdown(name), "write what `npu_options.markdown('{}')` returns between the marks".format(name)


def test_every_row_of_a_table_has_its_cells():
    for name in ("modes", "options"):
        rows = [re.sub(r"\\\|", "", row).count("|") for row in npu_options.markdown(name).splitlines()]
        assert set(rows) == {7}


def test_rank_tables_have_every_field_as_text_and_ranks_without_a_gap():
    assert [len(table["server_list"]) for table in RANK_TABLES] == [1, 2]
    for table in RANK_TABLES:
        assert (table["status"], table["version"], table["server_count"]) == ("completed", "1.0", str(len(table["server_list"])))
        devices = [device for server in table["server_list"] for device in server["device"]]
        assert [device["rank_id"] for device in devices] == [str(rank) for rank in range(len(devices))]
        assert len({device["device_ip"] for device in devices}) == len(devices)
        for server in table["server_list"]:
            assert [device["device_id"] for device in server["device"]] == [str(i) for i in range(8)]
            assert all(sorted(device) == ["device_id", "device_ip", "rank_id"] for device in server["device"])


def test_lists_of_operators_and_options_are_taken(tmp_path):
    (mixlist,) = [block for block in BLOCKS["json"] if "black-list" in block]
    (tmp_path / "mixlist.json").write_text(mixlist)
    ours = {"precision_mode": "allow_mix_precision"}
    npu_options.check({"modify_mixlist": str(tmp_path / "mixlist.json")}, "910", ours=ours)
    assert npu_options.remarks({"modify_mixlist": str(tmp_path / "mixlist.json")}, "910", ours) == []
    assert len(OPTIONS) == 4
    for text in OPTIONS:
        npu_options.check(yaml.safe_load(text.replace("/tmp/dump", str(tmp_path))), "910", ours=ours)


@pytest.mark.parametrize(("factor", "verdict"), [(1.005, ": good"), (1.02, "NOT good")])
def test_the_comparison_of_losses_tells_rounding_from_a_fault(factor, verdict, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, scale in (("cpu", 1.0), ("npu", factor)):
        (tmp_path / "runs" / "check-{}".format(name)).mkdir(parents=True)
        lines = [{"kind": "start", "step": 0}] + [{"kind": "train", "step": step, "loss": scale / step} for step in range(1, 21)]
        (tmp_path / "runs" / "check-{}".format(name) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (block,) = BLOCKS["python"]
    exec(compile(block, "ascend.md", "exec"), {})
    said = capsys.readouterr().out
    assert said.startswith("20 steps, largest difference ")
    assert verdict in said
