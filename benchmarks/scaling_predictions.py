"""What the model of `benchmarks.scaling_model` says of many Ascend 910 or H200: from published figures, and assumptions that are all named here."""

import functools
import math
from typing import Any, Callable, NamedTuple, Tuple

from benchmarks import scaling_model
from benchmarks.scaling_model import Cost


class System(NamedTuple):
    """Servers of a kind of device."""

    name: str
    peak: float
    """FLOP/s."""
    server: int
    """Devices a server."""
    inside: float
    """Bytes/s that a device sends to another of its server, as published."""
    between: float
    """Bytes/s that a device sends to another server, as published."""
    hop_inside: float
    """Seconds; assumed."""
    hop_between: float
    cutting: Callable[[Any], Any]
    """Makes the pieces that travel at once."""
    cut: str
    """The same in words."""
    sources: Tuple[Tuple[str, str, str], ...]
    """(figure, value, where it is published)."""


class Assumptions(NamedTuple):
    """What nobody has measured here: on the side of caution."""

    mfu: float = 0.30
    """Part of the peak that the convolutions reach, at any batch."""
    link: float = 0.7
    """Part of a link's published rate that sums reach."""
    overlap: float = 0.8
    """Part of the ideal overlap with the backward pass that is reached."""
    spread: float = 0.02
    """Standard deviation of a device's own step, relative; all wait for the slowest: 1 + spread sqrt(2 ln N)."""
    bytes_an_element: int = 4
    """Of a gradient on its way."""


ASSUMED = Assumptions()
DEVICES = (8, 64, 256, 1024)
BATCHES = (1, 8, 32)
SAMPLES_A_CORE = 232
"""Samples/s of the input pipeline on a core: docs/performance.md."""

_HOT_CHIPS = "Huawei, DaVinci: A Scalable Architecture for Neural Network Computing, Hot Chips 31, 2019"
_H200 = "NVIDIA, H200 Tensor Core GPU data sheet"

ASCEND = System(
    name="Ascend 910",
    peak=256e12,
    server=8,
    inside=30e9,
    between=100e9 / 8,
    hop_inside=5e-6,
    hop_between=15e-6,
    cutting=functools.partial(scaling_model.cut_by_shares, shares=(96.54, 3.46)),
    cut="two, 96.54 % and 3.46 %, HCCL's default (npu.gradient_fusion)",
    sources=(
        ("peak, fp16", "256 TFLOPS", _HOT_CHIPS),
        ("within half a server", "HCCS, 240 Gbit/s (30 GB/s) a port", _HOT_CHIPS),
        ("between the halves", "PCIe 4.0 x16; taken to be no slower than HCCS", "assumed"),
        ("between servers", "a 100 Gbit/s RoCE port an NPU", "Huawei, Atlas 800 Training Server (model 9000), technical white paper"),
    ),
)
H200 = System(
    name="H200",
    peak=989e12,
    server=8,
    inside=450e9,
    between=400e9 / 8,
    hop_inside=3e-6,
    hop_between=10e-6,
    cutting=functools.partial(scaling_model.cut, bucket=4e6),
    cut="of 4 MB, the default of distributed.bucket_mb",
    sources=(
        ("peak, bf16, dense", "989 TFLOPS (half of the 1,979 with sparsity)", _H200),
        ("within a server", "NVLink, 900 GB/s in both directions together, so 450 GB/s each way", _H200),
        ("between servers", "a 400 Gbit/s ConnectX-7 a GPU", "NVIDIA, DGX H200 data sheet"),
    ),
)
SYSTEMS = (ASCEND, H200)


class Prediction(NamedTuple):
    """Of a step."""

    step: float
    """Seconds."""
    images: float
    """A second, of all devices."""
    efficiency: float
    """Images/s over those of as many devices that need not wait for each other."""
    compute: float
    """Seconds of the slowest device."""
    communication: float
    """Seconds of all sums by themselves."""


def hierarchical(size, devices, system, link=1.0, between="ring"):
    """Return the `Cost` of a piece that is summed in each server, then between servers by each device for its own share, and handed round in each.

    between: "ring", or "halving": recursive halving and doubling, 2 log2 hops for 2 (M - 1).
    """
    inside, servers = min(devices, system.server), max(1, devices // system.server)
    first = scaling_model.ring(size, inside, system.hop_inside, 1 / (link * system.inside))
    second = scaling_model.ring(size / inside, servers, system.hop_between, 1 / (link * system.between))
    if between == "halving":
        second = second._replace(latency=2 * math.ceil(math.log2(servers)) * system.hop_between)
    return Cost(first.wire + second.wire, first.latency + second.latency)


def flat(size, devices, system, link=1.0):
    """Return the `Cost` of a piece on one ring through all devices: its slowest hop sets the pace."""
    if devices <= system.server:
        return hierarchical(size, devices, system, link)
    return scaling_model.ring(size, devices, system.hop_between, 1 / (link * min(system.inside, system.between)))


def predict(layers, system, devices, batch, assumed=ASSUMED, cutting=None, algorithm=hierarchical):
    """Return the `Prediction` of a step of a network with these `scaling_model.Layer`s; batch: images a device.

    Pieces go one after another, each with its latency: the libraries' sums are one stream.
    """
    work = [layer.flop for layer in layers]
    one = batch * (3 * sum(work) - work[0]) / (system.peak * assumed.mfu)
    compute = one * (1 + assumed.spread * math.sqrt(2 * math.log(devices)))
    pieces, end = scaling_model.timeline(layers, compute, cutting or system.cutting)
    sizes = [piece.size * assumed.bytes_an_element / 4 for piece in pieces]
    costs = [algorithm(size, devices, system, assumed.link) for size in sizes] if devices > 1 else [Cost(0.0, 0.0)] * len(pieces)
    made = scaling_model.step(pieces, costs, end, in_flight=1, overlap=assumed.overlap)
    images = devices * batch / made
    return Prediction(made, images, one / made, compute, sum(cost.wire + cost.latency for cost in costs))


def bound_from(layers, system, batch, **options):
    """Return the least number of devices (a power of two up to 4096) whose sums take longer than their computation; None where there is none."""
    for power in range(1, 13):
        found = predict(layers, system, 2**power, batch, **options)
        if found.communication > found.compute:
            return 2**power
    return None


def batch_for(layers, system, devices, efficiency, **options):
    """Return the least batch a device (up to 1024) with at least this efficiency; None where there is none."""
    for batch in range(1, 1025):
        if predict(layers, system, devices, batch, **options).efficiency >= efficiency:
            return batch
    return None


def cores(layers, system, batch=8):
    """Return how many cores a server needs for the input of its devices, if none of them waits."""
    return predict(layers, system, 1, batch).images * system.server / SAMPLES_A_CORE
