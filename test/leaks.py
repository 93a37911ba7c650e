"""Credentials that occur nowhere else, a server that asks for them, and a search for places that they have leaked to."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import uuid

from test.conftest import _wait_for_port

KEY_ID, SECRET, TOKEN = ("{}{}".format(what, uuid.uuid4().hex) for what in ("id", "secret", "token"))
VALUES = (KEY_ID, SECRET, TOKEN)


def credentials(secret=SECRET):
    """Return the environment of a process that has these credentials and finds no others."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environ.update(AWS_ACCESS_KEY_ID=KEY_ID, AWS_SECRET_ACCESS_KEY=secret, AWS_SESSION_TOKEN=TOKEN)
    return dict(environ, AWS_EC2_METADATA_DISABLED="true", AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)


@contextlib.contextmanager
def s3_server(folder):
    """Serve a folder with the bucket "bucket" over S3 to who has the credentials; yield the endpoint. They are in no command line."""
    (folder / "bucket").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [os.path.join(os.path.dirname(sys.executable), "rclone"), "serve", "s3", "--addr", "127.0.0.1:{}".format(port), str(folder)]
    environ = dict(os.environ, RCLONE_CONFIG=os.devnull, RCLONE_AUTH_KEY='"{},{}"'.format(KEY_ID, SECRET))  # of a list in CSV, one entry
    server = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_for_port(server, port)
        yield "http://127.0.0.1:{}".format(port)
    finally:
        server.terminate()
        server.communicate(timeout=20)


def run(command, log, values=VALUES, timeout=300, **more):
    """Run a command, its output into the file `log`; return (exit code, command lines of any process that held one of the values meanwhile)."""
    with open(str(log), "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, **more)
        found, looks = set(), 0
        while True:
            try:
                process.wait(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                looks += 1
                found |= _command_lines_with(values)
                if looks > 10 * timeout:
                    process.kill()
                    raise
    assert looks, "the command was too quick to be watched"
    return process.returncode, found


def places_of(values, *roots):
    """Return the files below the roots (folders or files) whose content or name holds one of the values, and how many files there are."""
    wanted, found, count = [value.encode("utf-8") for value in values], [], 0
    for root in roots:
        for path in sorted(pathlib.Path(str(root)).rglob("*")) or [pathlib.Path(str(root))]:
            if path.is_file():
                count += 1
                data = os.fsencode(str(path)) + path.read_bytes()
                found += [str(path)] if any(value in data for value in wanted) else []
    return found, count


def _command_lines_with(values):
    found = set()
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            found |= {line} if any(value in line for value in values) else set()
    return found
