"""The storages that everything is tested on: a folder, an S3 server that ignores conditions on writes, and one that honours them."""

import uuid

import pytest

from mtc.storage import lease as leases
from mtc.storage import open_storage


@pytest.fixture(params=["file", "s3", "s3-conditional"])
def storage(request, tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "_SETTLE", 0.0)
    if request.param == "file":
        return open_storage(str(tmp_path / "store"))
    endpoint = request.getfixturevalue("s3") if request.param == "s3" else request.getfixturevalue("s3_proxy").url
    return open_storage("s3://bucket/" + uuid.uuid4().hex, endpoint=endpoint)


@pytest.fixture(params=["file", "s3-conditional"])
def conditional(request, tmp_path):
    """Open, again and again, a storage that honours conditions."""
    uri = str(tmp_path / "store") if request.param == "file" else "s3://bucket/" + uuid.uuid4().hex
    endpoint = "" if request.param == "file" else request.getfixturevalue("s3_proxy").url
    return lambda: open_storage(uri, endpoint=endpoint)
