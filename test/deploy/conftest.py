"""Real servers, the ones of Debian's packages, and Airflow on them as docs/deploy.md says: for .venv-deploy (`scripts/setup.sh --deploy`)."""

import os

import pytest

from test.dag.conftest import REAL_PYTHON, _clean_up, interruptible  # noqa: F401 - fixtures
from test.deploy import servers


@pytest.fixture(scope="session", autouse=True)
def _what_is_needed():
    if not os.access(REAL_PYTHON, os.X_OK):
        pytest.skip(f"no training interpreter at {REAL_PYTHON}; set MTC_PYTHON")


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server."""
    with servers.Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis():
    """The port of a Redis server."""
    with servers.redis() as port:
        yield port
