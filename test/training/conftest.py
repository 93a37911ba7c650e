"""What makes many short trainings quick."""

import pytest

from mtc.training import graph
from test.graph_cache import cached
from test.shallow import shallow, whole  # noqa: F401 (fixtures)

_BUILD = cached(graph.build)


@pytest.fixture(autouse=True)
def _shared_graphs(monkeypatch):
    """Build equal graphs once."""
    monkeypatch.setattr(graph, "build", _BUILD)
