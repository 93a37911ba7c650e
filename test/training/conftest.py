"""What makes many short trainings quick."""

import pytest

from mtc.devices import peak
from mtc.training import graph
from test.graph_cache import cached

_BUILD, _MEASURE = cached(graph.build), peak.measure
_PEAKS = {}


@pytest.fixture(autouse=True)
def _shared_graphs(monkeypatch):
    """Build equal graphs, and measure the machine, once."""
    monkeypatch.setattr(graph, "build", _BUILD)
    monkeypatch.setattr(peak, "measure", _measure)


def _measure(kind, config):
    if kind not in _PEAKS:
        _PEAKS[kind] = _MEASURE(kind, config)
    return _PEAKS[kind]
