"""How long a step of several ranks takes: an alpha-beta model of their sums, overlapped with the backward pass, fitted to what was measured.

A piece of S bytes on a ring of N ranks goes 2 (N - 1) hops, each of S / N bytes: alpha-beta says 2 (N - 1) alpha + 2 (N - 1) / N S beta (Thakur,
Rabenseifner, Gropp: Optimization of Collective Communication Operations in MPICH, 2005). A piece can go when its last gradient is there, which the
layers' FLOP tell, and when those before it are out of the way. Only numpy, no TensorFlow. Predictions: `benchmarks.scaling_predictions`.
"""

import functools
import math
from typing import Any, List, NamedTuple, Sequence

import numpy as np

LOSSES_BYTES = 20
"""The five losses, which travel behind the gradients."""


class Layer(NamedTuple):
    """A convolution, as the model sees it."""

    name: str
    weights: int
    """Bytes of its kernel's gradient."""
    biases: int
    flop: float
    """Of the forward pass; the backward pass has twice as many, but for the first layer, whose input needs no gradient."""


class Piece(NamedTuple):
    """What travels at once."""

    size: int
    """Bytes."""
    ready: float
    """Seconds from the step's start."""


class Cost(NamedTuple):
    """What a piece costs: first a core, then the wire, each of which has one piece at a time."""

    wire: float
    """Seconds in which nothing else can be sent."""
    latency: float
    """Seconds from then until it is there, in which other pieces may be sent."""
    core: float = 0.0
    """Seconds of a core, before."""


class Fit(NamedTuple):
    """What was fitted to measurements over gRPC."""

    message: float
    """Seconds of work for each hop of each piece."""
    trips: float
    """One-way delays of the cable that a hop waits for."""
    wire: float
    """Bits on the wire for each bit of a gradient (headers, acknowledgements, a cable that is not kept full)."""
    byte: float
    """Seconds of a core for each byte that a rank sends (gRPC, copies, addition)."""
    in_flight: float
    """Pieces under way at the same time; math.inf: all."""
    overlap: float
    """Part of the ideal overlap with the backward pass that is reached, 0 to 1."""


def cut(sizes: Sequence[int], bucket: float) -> List[Any]:
    """Return the pieces in which tensors of these sizes in bytes travel, [[(number of the tensor, bytes)]], as `Collectives.sum` cuts them."""
    bucket = int(bucket)
    pieces, room = [[]], bucket  # type: List[List[Any]], int
    for number, size in enumerate(sizes):
        left = size
        while left:
            if pieces[-1] and room < min(size, bucket):
                pieces.append([])
                room = bucket
            length = min(left, max(room // 4 * 4, 4))
            pieces[-1].append((number, length))
            room, left = room - length, left - length
    return pieces


def cut_by_shares(sizes: Sequence[int], shares: Sequence[float]) -> List[Any]:
    """Return the pieces like `cut`, whole tensors each, where a piece is to have so many percent of all bytes, as HCCL fuses gradients."""
    limits = np.cumsum(shares) / 100.0 * sum(sizes)
    pieces = [[] for _ in shares]  # type: List[List[Any]]
    for number, size in enumerate(sizes):
        before = sum(sizes[:number])
        pieces[min(int(np.searchsorted(limits, before + size / 2)), len(shares) - 1)].append((number, size))
    return [piece for piece in pieces if piece]


def timeline(layers, compute, cutting, begin=0.0):
    """Return (the `Piece`s of a step in the order in which they go, the seconds at which its computation ends).

    layers: in the order in which they are computed; compute: seconds of the forward and backward pass; cutting(sizes): what makes pieces of tensors,
    see `cut`; begin: seconds before which no backward pass can start.
    """
    work = [layer.flop for layer in layers]
    whole = 3 * sum(work) - work[0]
    now = max(compute * sum(work) / whole, begin)
    sizes, ready = [], []
    for number, layer in reversed(list(enumerate(layers))):
        now += compute * (2 if number else 1) * layer.flop / whole
        for size in (layer.biases, layer.weights):
            sizes.append(size)
            ready.append(now)
    sizes.append(LOSSES_BYTES)
    ready.append(now)
    return [Piece(sum(size for _, size in piece), ready[piece[-1][0]]) for piece in cutting(sizes)], now


def ring(size, ranks, alpha, beta):
    """Return the `Cost` of a piece on a ring; alpha: seconds a hop, beta: seconds a byte."""
    return Cost(wire=2 * (ranks - 1) / ranks * size * beta, latency=2 * (ranks - 1) * alpha)


def ends(pieces, costs, in_flight=1):
    """Return the seconds at which all pieces have arrived. They keep their order, with at most in_flight under way at a time."""
    core, wire, arrived = 0.0, 0.0, []  # seconds from which on each is free
    for number, (piece, cost) in enumerate(zip(pieces, costs)):
        start = max(piece.ready, core)
        if number >= in_flight:
            start = max(start, arrived[int(number - in_flight)])
        core = start + cost.core
        wire = max(core, wire) + cost.wire
        arrived.append(wire + cost.latency)
    return max(arrived, default=0.0)


def step(pieces, costs, compute, in_flight=1, overlap=1.0):
    """Return the seconds of a step: computation and communication, less that part of the ideal overlap that is reached.

    pieces: of `timeline`; compute: seconds at which the computation ends.
    """
    ideal = max(compute, ends(pieces, costs, in_flight))
    serial = compute + ends([piece._replace(ready=0.0) for piece in pieces], costs, in_flight)
    return serial - overlap * max(0.0, serial - ideal)


class Case(NamedTuple):
    """What was measured of ranks on a network."""

    ranks: int
    rate: float
    """Bit/s; math.inf: without limit."""
    delay: float
    """Seconds one way."""
    bucket: float
    """Bytes."""
    crowd: float
    """Ranks a core, at least 1: how much slower the work of each is."""
    seconds: float
    compute: float = 0.0
    """Seconds of the computation alone; 0 where the case is of communication alone."""
    link: str = ""


def costs(pieces, case, fit):
    """Return the `Cost`s of pieces over gRPC."""
    hops = 2 * (case.ranks - 1)
    made = []
    for piece in pieces:
        work = case.crowd * hops * (fit.message + fit.byte * piece.size / case.ranks)
        cost = ring(piece.size, case.ranks, alpha=fit.trips * case.delay, beta=fit.wire * 8 / case.rate)
        made.append(cost._replace(core=work))
    return made


def predicted(case, layers, fit):
    """Return the seconds of a case: of communication alone, or of a step."""
    if case.ranks == 1:
        return case.compute
    cutting = functools.partial(cut, bucket=case.bucket)
    if not case.compute:
        pieces = timeline(layers, 0.0, cutting)[0]
        return ends(pieces, costs(pieces, case, fit), fit.in_flight)
    # the weights of the losses are summed over all ranks before any backward pass can start
    begin = 2 * (case.ranks - 1) * (fit.trips * case.delay + fit.message * case.crowd)
    pieces, compute = timeline(layers, case.compute, cutting, begin)
    return step(pieces, costs(pieces, case, fit), compute, fit.in_flight, fit.overlap)


def fitted(cases, layers):
    """Return the `Fit` with the least squares of relative errors: what sums cost by communication alone, then the overlap by the steps.

    cases: `Case`s of both kinds.
    """
    sums = [case for case in cases if not case.compute and case.ranks > 1]
    steps = [case for case in cases if case.compute and case.ranks > 1]
    if not sums:
        raise ValueError("nothing to fit: no communication of more than one rank was measured")
    pieces = [timeline(layers, 0.0, functools.partial(cut, bucket=case.bucket))[0] for case in sums]
    start = np.log([2e-4, 1.5, 1.1, 1e-9])
    best = None
    for in_flight in (1, 2, 4, 8, math.inf):

        def residuals(logs, in_flight=in_flight):
            fit = Fit(*np.exp(logs), in_flight=in_flight, overlap=1.0)
            return np.array([ends(some, costs(some, case, fit), in_flight) / case.seconds - 1 for some, case in zip(pieces, sums)])

        logs, squares = _least_squares(residuals, start)
        if best is None or squares < best[0]:
            best = squares, Fit(*(float(value) for value in np.exp(logs)), in_flight=in_flight, overlap=1.0)
    fit = best[1]
    if steps:
        none = np.array([predicted(case, layers, fit._replace(overlap=0.0)) / case.seconds for case in steps])
        gain = none - np.array([predicted(case, layers, fit) / case.seconds for case in steps])
        fit = fit._replace(overlap=float(np.clip(np.dot(gain, none - 1) / max(np.dot(gain, gain), 1e-12), 0.0, 1.0)))
    return fit


def errors(cases, layers, fit):
    """Return the relative errors of the model, (predicted - measured) / measured, of cases of more than one rank."""
    return [predicted(case, layers, fit) / case.seconds - 1 for case in cases if case.ranks > 1]


def held_out(cases, layers, group):
    """Return {value of group(case): relative errors of its cases by a fit to all others}; a group without which nothing can be fitted has none."""
    found = {}
    for value in sorted({group(case) for case in cases if case.ranks > 1}):
        rest = [case for case in cases if group(case) != value]
        if any(case.ranks > 1 and not case.compute for case in rest):
            found[value] = errors([case for case in cases if group(case) == value], layers, fitted(rest, layers))
    return found


def _least_squares(residuals, start, rounds=60):
    """Return (parameters, sum of squares) of a minimum of the squares of residuals(parameters), by Levenberg and Marquardt with finite differences.

    Parameters are logarithms; they stay within e^12 of their start, for one that nothing depends on would leave.
    """
    now, damping = np.array(start, float), 1e-2
    here = residuals(now)
    for _ in range(rounds):
        slopes = np.stack([(residuals(now + 1e-5 * unit) - here) / 1e-5 for unit in np.eye(len(now))], axis=1)
        square = slopes.T @ slopes
        move = np.linalg.solve(square + damping * (np.diag(np.diag(square)) + 1e-9 * np.eye(len(now))), -slopes.T @ here)
        new = np.clip(now + np.clip(move, -2, 2), start - 12, start + 12)
        there = residuals(new)
        if there @ there < here @ here:
            done = here @ here - there @ there < 1e-5 * (here @ here)
            now, here, damping = new, there, damping / 4
            if done:
                break
        else:
            damping *= 5
            if damping > 1e12:
                break
    return now, float(here @ here)
