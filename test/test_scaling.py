import functools
import json
import math
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import scaling, scaling_model, scaling_network, scaling_page, scaling_predictions
from benchmarks.scaling_model import Case, Cost, Fit, Layer
from mtc.errors import UserError

pytestmark = pytest.mark.first

LAYERS = [Layer("a", 40_000, 400, 3e9), Layer("b", 4_000_000, 4_000, 2e9), Layer("c", 1_000_000, 100, 1e9)]
FREE = Fit(message=0.0, trips=0.0, wire=0.0, byte=0.0, in_flight=1, overlap=1.0)
COSTLY = Fit(message=2e-4, trips=1.5, wire=1.1, byte=1e-9, in_flight=4, overlap=0.6)


def case(**more):
    return Case(**dict({"ranks": 2, "rate": 1e9, "delay": 1e-3, "bucket": 4e6, "crowd": 1.0, "seconds": 1.0, "compute": 0.1, "link": "l"}, **more))


def cutting(megabytes=4.0):
    return functools.partial(scaling_model.cut, bucket=megabytes * 1e6)


# --- the model


def test_without_costs_a_step_is_its_computation():
    assert scaling_model.predicted(case(rate=math.inf, delay=0.0), LAYERS, FREE) == pytest.approx(0.1)


def test_one_rank_communicates_nothing():
    assert scaling_model.predicted(case(ranks=1), LAYERS, COSTLY) == 0.1
    assert scaling_model.ring(1e6, 1, 1.0, 1.0) == Cost(0.0, 0.0)


def test_a_ring_costs_what_the_formula_says():
    cost = scaling_model.ring(size=8e6, ranks=4, alpha=1e-3, beta=1e-9)
    assert cost.wire == pytest.approx(2 * 3 / 4 * 8e6 * 1e-9)
    assert cost.latency == pytest.approx(6e-3)


@pytest.mark.parametrize(("worse", "by"), [("ranks", (2, 4, 8)), ("delay", (1e-4, 1e-3, 1e-2)), ("rate", (1e10, 1e9, 1e8)), ("crowd", (1, 2, 4))])
@pytest.mark.parametrize("compute", [0.0, 0.1])
def test_a_worse_network_never_makes_a_step_shorter(worse, by, compute):
    times = [scaling_model.predicted(case(compute=compute, **{worse: value}), LAYERS, COSTLY) for value in by]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_a_step_lies_between_full_and_no_overlap():
    of_overlap = [scaling_model.predicted(case(), LAYERS, COSTLY._replace(overlap=value)) for value in (1.0, 0.5, 0.0)]
    alone = scaling_model.predicted(case(compute=0.0), LAYERS, COSTLY)
    assert max(0.1, alone) <= of_overlap[0] < of_overlap[1] < of_overlap[2]
    assert of_overlap[1] == pytest.approx((of_overlap[0] + of_overlap[2]) / 2)


def test_gradients_are_ready_in_the_order_of_the_backward_pass():
    pieces, end = scaling_model.timeline(LAYERS, 17.0, cutting(0.05))  # 3 x 6e9 - 3e9 = 15e9 FLOP; the forward pass has 6 of 15
    assert sum(piece.size for piece in pieces) == sum(layer.weights + layer.biases for layer in LAYERS) + scaling_model.LOSSES_BYTES
    assert [piece.ready for piece in pieces] == sorted(piece.ready for piece in pieces)
    assert pieces[0].ready == pytest.approx(17.0 * (6 + 2) / 15)
    assert pieces[-1].ready == end == pytest.approx(17.0)


def test_no_backward_pass_before_what_it_waits_for():
    late, end = scaling_model.timeline(LAYERS, 15.0, cutting(), begin=10.0)
    assert end == pytest.approx(10.0 + 9.0)
    assert late[0].ready > 10.0


def test_pieces_in_flight_hide_latency_but_not_the_wire():
    pieces = [scaling_model.Piece(1, 0.0)] * 8
    costs = [Cost(wire=1.0, latency=10.0)] * 8
    assert scaling_model.ends(pieces, costs, in_flight=1) == 88.0
    assert scaling_model.ends(pieces, costs, in_flight=math.inf) == 18.0
    assert 18.0 < scaling_model.ends(pieces, costs, in_flight=4) < 88.0


def test_a_core_works_on_a_piece_while_the_wire_has_the_one_before():
    pieces = [scaling_model.Piece(1, 0.0)] * 8
    assert scaling_model.ends(pieces[:1], [Cost(wire=3.0, latency=0.5, core=2.0)]) == 5.5
    assert scaling_model.ends(pieces, [Cost(wire=3.0, latency=0.5, core=2.0)] * 8, in_flight=math.inf) == 2.0 + 8 * 3.0 + 0.5
    assert scaling_model.ends(pieces, [Cost(wire=2.0, latency=0.5, core=3.0)] * 8, in_flight=math.inf) == 8 * 3.0 + 2.0 + 0.5


def test_pieces_are_those_that_the_collectives_make(tmp_path):
    tf = pytest.importorskip("tensorflow.compat.v1")
    from mtc.training.ranks.collectives import Collectives

    class Recorded(Collectives):
        def __init__(self, bucket):
            self._bucket, self.sent = bucket, []

        def _all_reduce(self, flat):
            self.sent.append(4 * int(flat.shape[0]))
            return flat

    rng = np.random.RandomState(1)
    for bucket in (64, 1000, 10**6):
        counts = [int(count) for count in rng.randint(1, 200, 12)]
        with tf.Graph().as_default():
            recorded = Recorded(bucket)
            recorded.sum([tf.zeros([count]) for count in counts])
        assert [sum(size for _, size in piece) for piece in scaling_model.cut([4 * count for count in counts], bucket)] == recorded.sent


def test_shares_cut_whole_tensors():
    pieces = scaling_model.cut_by_shares([50, 30, 16, 4], (96, 4))
    assert pieces == [[(0, 50), (1, 30), (2, 16)], [(3, 4)]]


@pytest.mark.parametrize("in_flight", [1, 4, math.inf])
def test_a_fit_finds_the_numbers_behind_synthetic_measurements(in_flight):
    truth = Fit(message=3e-4, trips=2.0, wire=1.2, byte=2e-9, in_flight=in_flight, overlap=0.7)
    made = synthetic(truth)
    found = scaling_model.fitted(made, LAYERS)
    assert max(abs(error) for error in scaling_model.errors(made, LAYERS, found)) < 0.01
    assert found[:4] == pytest.approx(truth[:4], rel=0.05)
    assert found.overlap == pytest.approx(0.7, abs=0.02)


def test_what_is_held_out_is_not_fitted_to():
    made = synthetic(COSTLY)
    wrong = [one._replace(seconds=5 * one.seconds) if one.link == "200.0" else one for one in made]
    apart = scaling_model.held_out(wrong, LAYERS, lambda one: one.link)
    assert {link: len(errors) for link, errors in apart.items()} == {link: 8 for link in ("200.0", "1000.0", "10000.0", "inf")}
    assert apart["200.0"] == pytest.approx([-0.8] * 8, abs=0.05)


def test_nothing_can_be_fitted_to_one_rank():
    with pytest.raises(ValueError, match="more than one rank"):
        scaling_model.fitted([case(ranks=1)], LAYERS)


def synthetic(truth):
    made = []
    for ranks in (2, 4):
        for rate, delay in ((math.inf, 0.0), (1e10, 1e-4), (1e9, 1e-3), (2e8, 5e-3)):
            for bucket in (2.5e5, 4e6):
                for compute in (0.0, 0.1 * ranks):
                    one = case(ranks=ranks, rate=rate, delay=delay, bucket=bucket, compute=compute, crowd=max(1, ranks / 2), link=str(rate / 1e6))
                    made.append(one._replace(seconds=scaling_model.predicted(one, LAYERS, truth)))
    return made


# --- predictions


@pytest.mark.parametrize("system", scaling_predictions.SYSTEMS, ids=lambda system: system.name)
def test_efficiency_falls_with_devices_and_rises_with_the_batch(system):
    def efficiency(devices, batch):
        return scaling_predictions.predict(LAYERS, system, devices, batch).efficiency

    assert efficiency(1, 8) == pytest.approx(1.0)
    of_devices = [efficiency(devices, 8) for devices in (1, *scaling_predictions.DEVICES)]
    assert of_devices == sorted(of_devices, reverse=True)
    of_batches = [efficiency(64, batch) for batch in (1, 8, 64, 512)]
    assert of_batches == sorted(of_batches)


def test_perfect_links_and_devices_scale_perfectly():
    ideal = scaling_predictions.ASCEND._replace(inside=1e30, between=1e30, hop_inside=0.0, hop_between=0.0)
    assumed = scaling_predictions.ASSUMED._replace(spread=0.0)
    assert scaling_predictions.predict(LAYERS, ideal, 1024, 1, assumed=assumed).efficiency == pytest.approx(1.0)


def test_sums_by_server_beat_one_ring_over_many_servers():
    system = scaling_predictions.H200
    for devices in (64, 1024):
        flat = scaling_predictions.flat(4e6, devices, system)
        ring = scaling_predictions.hierarchical(4e6, devices, system)
        halving = scaling_predictions.hierarchical(4e6, devices, system, between="halving")
        assert sum(halving) < sum(ring) < sum(flat)
    assert scaling_predictions.flat(4e6, 8, system) == scaling_predictions.hierarchical(4e6, 8, system)


def test_limits_are_where_the_prediction_crosses_them():
    system = scaling_predictions.ASCEND
    batch = scaling_predictions.batch_for(LAYERS, system, 64, 0.8)
    assert scaling_predictions.predict(LAYERS, system, 64, batch).efficiency >= 0.8
    assert scaling_predictions.predict(LAYERS, system, 64, batch - 1).efficiency < 0.8
    devices = scaling_predictions.bound_from(LAYERS, system, 1)
    made = scaling_predictions.predict(LAYERS, system, devices, 1)
    assert made.communication > made.compute


# --- networks


def test_a_device_is_shaped_by_tbf_and_delayed_by_netem():
    link = scaling_network.Link("l", 1e9, 1e-3)
    relayed = scaling_network.shaping(link, 1500, netem=False)
    assert relayed == [["root", "tbf", "rate", "1000000000bit", "burst", "25000", "latency", "200ms"]]
    delay, rate = scaling_network.shaping(link, 1500, netem=True)
    assert delay == ["root", "handle", "1:", "netem", "delay", "1000us", "limit", "200000"]
    assert rate[:5] == ["parent", "1:1", "handle", "10:", "tbf"]
    assert scaling_network.shaping(scaling_network.Link("l", None, 0.0), 1500, netem=True) == []
    assert scaling_network.shaping(scaling_network.Link("l", None, 1e-3), 1500, netem=True) == [delay]


def test_faster_relays_have_larger_packets():
    sizes = [scaling_network.packet_size(rate) for rate in (1e6, 1e9, 1e10, None)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1500, 65000)


def test_without_root_it_says_so_and_ends_with_2(monkeypatch, capsys):
    monkeypatch.setattr(scaling_network.sys, "platform", "linux")
    monkeypatch.setattr(scaling_network.shutil, "which", lambda name: "/sbin/" + name)
    monkeypatch.setattr(scaling_network.os, "geteuid", lambda: 1000)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert scaling.main(["--quick"]) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "as root" in capsys.readouterr().err


def test_without_iproute2_it_names_the_package(monkeypatch):
    monkeypatch.setattr(scaling_network.sys, "platform", "linux")
    monkeypatch.setattr(scaling_network.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install iproute2"):
        scaling_network.check()


@pytest.mark.parametrize("words", [["--ranks", "0"], ["--ranks", "1,x"], ["--ranks", "17"], ["--steps", "0"], ["--nonsense"]])
def test_wrong_arguments_are_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        scaling.arguments(words)
    assert ended.value.code == 2
    assert words[-1].strip("-") in capsys.readouterr().err


def test_ranks_are_ordered_and_have_defaults():
    assert scaling.arguments(["--ranks", "4,1,2,2"]).ranks == [1, 2, 4]
    assert scaling.arguments([]).ranks == [1, 2, 4]
    assert scaling.arguments(["--quick"]).ranks == [1, 2]


# --- the page


def test_the_page_is_made_of_the_figures_beside_it():
    with open(scaling_page.FIGURES, encoding="utf-8") as f:
        document = json.load(f)
    with open(scaling_page.PAGE, encoding="utf-8") as f:
        text = f.read()
    blocks = re.findall(r"<!-- (\w+): made by", text)
    assert sorted(blocks) == sorted(scaling_page.blocks(document))
    assert scaling_page.page(text, document) == text


def test_a_page_is_not_made_of_a_quick_look(tmp_path, monkeypatch, capsys):
    path = tmp_path / "scaling.json"
    monkeypatch.setattr(scaling.signal, "signal", lambda *_: None)
    assert scaling.main(["--page", "--out", str(path)]) == 2
    assert "make scaling" in capsys.readouterr().err
    path.write_text(json.dumps({"settings": {"quick": True}}))
    assert scaling.main(["--page", "--out", str(path)]) == 2
    assert "--quick" in capsys.readouterr().err


def test_one_rank_has_a_table_and_nothing_to_fit():
    with open(scaling_page.FIGURES, encoding="utf-8") as f:
        document = json.load(f)
    document.update(communication=[], steps=[])
    assert "Nothing to fit" in scaling_page.tables(document)


def test_overlap_is_the_part_of_the_shorter_that_is_hidden():
    assert scaling_page.overlap(step=3.0, compute=3.0, communication=2.0) == 1.0
    assert scaling_page.overlap(step=5.0, compute=3.0, communication=2.0) == 0.0
    assert scaling_page.overlap(step=4.0, compute=3.0, communication=2.0) == 0.5


# --- really


@pytest.fixture(scope="module")
def networks():
    try:
        scaling_network.check()
    except UserError as error:
        pytest.skip(str(error))
    return scaling_network


def namespaces():
    return subprocess.run(["ip", "netns", "list"], stdout=subprocess.PIPE, check=True).stdout.decode()


@pytest.mark.timeout(900)  # starts TensorFlow several times
def test_two_ranks_train_over_a_shaped_network(networks, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "MODEL", ("model.width=0.1", "model.stages=1", "model.crop=32"))
    scaling.prepare(str(tmp_path))
    seconds = scaling.train(str(tmp_path), 2, networks.Link("slow", 1e9, 1e-3), 4.0, steps=3)
    assert len(seconds) == 3
    assert "mtc-scaling-{}-".format(os.getpid()) not in namespaces()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_network_that_was_interrupted(networks, number, tmp_path):
    program = (
        "import signal, sys, time\n"
        "from benchmarks.scaling_network import Link, Network\n"
        "signal.signal(signal.SIGTERM, lambda n, f: sys.exit(1))\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with Network(2, Link('slow', 1e9, 1e-3)) as network:\n"
        "    network.start(0, ['sleep', '600'])\n"
        "    print('made', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=scaling.ROOT)
    try:
        assert process.stdout.readline() == b"made\n"
        mine = "mtc-scaling-{}-".format(process.pid)
        assert mine in namespaces()
        process.send_signal(number)
        process.wait(60)
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    assert mine not in namespaces()


def test_what_a_killed_process_has_left_is_removed(networks):
    killed = subprocess.Popen(["true"])
    killed.wait()
    name = "mtc-scaling-{}-0".format(killed.pid)
    subprocess.run(["ip", "netns", "add", name], check=True)
    networks.check()
    assert name not in namespaces()
