"""The fixture that lets a folder's tests train a shallow network and start quickly: `from test.shallow import shallow` in its conftest.py."""

import importlib
import os

import pytest

from test.shallow.sitecustomize import VALUES

FOLDER = os.path.dirname(os.path.abspath(__file__))
"""What goes in front of PYTHONPATH."""
_WHOLE = {(name, key): getattr(importlib.import_module(name), key) for name, values in VALUES.items() for key in values}


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """A shallow network that starts quickly, in this process and in those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for (name, key), value in _WHOLE.items():
            patch.setattr(importlib.import_module(name), key, VALUES[name][key](value))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [FOLDER, os.environ.get("PYTHONPATH")])))
        yield


@pytest.fixture
def whole(monkeypatch):
    """The whole network after all, in this process."""
    for (name, key), value in _WHOLE.items():
        monkeypatch.setattr(importlib.import_module(name), key, value)
