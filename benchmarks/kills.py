"""`python -m benchmarks.kills`: kill `tasks.fetch` and `tasks.preprocess` again and again, and see that the end is the same to the last byte.

A small data set in COCO's form is served as archives by a slow web server of this process. The two commands are started until they succeed, and
killed (SIGKILL) at moments that a seed draws: when so many bytes of an archive have arrived, when so many members are unpacked, when so much of the
preprocessing is done, or just so many milliseconds after the start. When all is done, it is compared with what nobody has disturbed, and begins anew
until the kills are used up. The server checks that nobody asks for a byte that is there already. Ends with a traceback where something is broken.
"""

import argparse
import collections
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

from benchmarks import coco
from benchmarks.child import ROOT
from mtc import files

BYTES_PER_SECOND = 6e6
SHARE = 1 / 80
"""Of train2017's people: 800 images, enough for several processes."""
PADDING = 3000
"""Bytes that an image file has beside its header."""
MOST_A_COMMAND = 6
"""Times that a command is killed at most before it may come to its end."""
LONGEST = 60.0
"""Seconds after which a command that was not killed counts as hanging."""


def main(argv=None):
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of all moments; default: %(default)s")
    parser.add_argument("--folder", help="where to work; default: a temporary folder")
    options = parser.parse_args(argv)
    folder = tempfile.mkdtemp(prefix="mtc-kills-", dir=options.folder)
    try:
        figures = run(folder, options.kills, options.seed, lambda text: print(text, file=sys.stderr, flush=True))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    files.write_json(os.path.join(ROOT, "benchmarks", "out", "kills.json"), figures)
    print(json.dumps(figures, indent=2, sort_keys=True))
    return 0


def run(folder, kills, seed, tell=lambda text: None):
    """Return the figures. Errors: AssertionError where the end differs or bytes were asked for twice."""
    site = os.path.join(folder, "site")
    make_site(site)
    rng, made, rounds = random.Random(seed), collections.Counter(), 0
    with Server(site) as server:
        root = os.path.join(folder, "undisturbed")
        for store in ("rle", "png"):
            Life(server, root, folder, store).undisturbed()
        expected = {store: contents(root + "-" + store) for store in ("rle", "png")}
        while sum(made.values()) < kills:
            store = rng.choice(("rle", "png"))
            life = Life(server, os.path.join(folder, "round{}".format(rounds)), folder, store)
            made += life.disturbed(rng, kills - sum(made.values()))
            found = contents(life.root)
            assert found == expected[store], "round {}: {} differ".format(
                rounds, sorted(name for name in set(found) | set(expected[store]) if found.get(name) != expected[store].get(name))[:5]
            )
            shutil.rmtree(life.root)
            rounds += 1
            tell("{} kills, {} times to the end".format(sum(made.values()), rounds))
        assert not server.repeated, server.repeated
        return {"kills": sum(made.values()), "seed": seed, "rounds": rounds, "moments": dict(made), "requests": server.requests}


def make_site(folder):
    """Write the archives of a small data set in COCO's form, and their manifest."""
    raw, rng, entries = os.path.join(folder, "raw"), random.Random(0), []
    coco.write(raw, "train", SHARE)
    coco.write(raw, "val", SHARE / 20, 1, 10**6)
    for path, names in (
        ("zips/train2017.zip", ["train2017"]),
        ("zips/val2017.zip", ["val2017"]),
        ("annotations/annotations_trainval2017.zip", ["annotations"]),
    ):
        target = os.path.join(folder, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with zipfile.ZipFile(target, "w") as archive:
            for name in names:
                for member in sorted(os.listdir(os.path.join(raw, name))):
                    with open(os.path.join(raw, name, member), "rb") as f:
                        data = f.read()
                    padding = bytes(rng.getrandbits(8) for _ in range(PADDING)) if member.endswith(".jpg") else b""
                    archive.writestr(name + "/" + member, data + padding)
        members = r"annotations/[a-z_]+_(train|val)2017\.json" if "annotations" in names else names[0] + r"/\d{12}\.jpg"
        entries.append({"path": path, "bytes": os.stat(target).st_size, "sha256": files.sha256(target), "members": members})
    shutil.rmtree(raw)
    with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8") as f:
        json.dump({"v": 1, "archives": entries}, f)


class Server:
    """Serves a folder slowly, with ranges; notes whoever asks for bytes that lie in `watched` already."""

    def __init__(self, folder):
        self.folder, self.requests, self.repeated, self.watched = folder, 0, [], ""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *arguments):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass  # clients are killed

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:{}".format(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, handler):
        """Give a file, from where it was asked for on."""
        name = handler.path.lstrip("/")
        with open(os.path.join(self.folder, name), "rb") as f:
            data = f.read()
        asked = re.match(r"bytes=(\d+)-$", handler.headers.get("Range", ""))
        start = int(asked.group(1)) if asked else 0
        target = os.path.join(self.watched, "archives", name)
        held = next((os.stat(path).st_size for path in (target, target + ".part") if os.path.exists(path)), 0)
        self.requests += 1
        if start < held:
            self.repeated.append("{} from {}, of which {} bytes were there".format(name, start, held))
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", "bytes {}-{}/{}".format(start, len(data) - 1, len(data)))
        handler.send_header("Content-Length", str(len(data) - start))
        handler.send_header("ETag", '"1"')
        handler.end_headers()
        for at in range(start, len(data), 1 << 15):
            handler.wfile.write(data[at : at + (1 << 15)])
            time.sleep((1 << 15) / BYTES_PER_SECOND)


class Life:
    """A data set from nothing to the end."""

    def __init__(self, server, root, folder, store):
        self._server, self.root, self._run, self._store = server, root, root + "-run", store

    def undisturbed(self):
        """Make it without a kill, in <root>-<store>."""
        self.root = "{}-{}".format(self.root, self._store)
        for words in (["tasks.fetch", "coco"], ["tasks.preprocess"]):
            assert self._once(words, lambda seconds: False) == 0

    def disturbed(self, rng, kills):
        """Make it with at most so many kills; return a Counter of the moments."""
        made = collections.Counter()
        for words in (["tasks.fetch", "coco"], ["tasks.preprocess"]):
            most = min(kills, sum(made.values()) + rng.randint(1, MOST_A_COMMAND))
            while True:
                name, moment = self._moment(words[0], rng) if sum(made.values()) < most else ("", lambda seconds: False)
                code = self._once(words, moment)
                if code == 0:
                    break
                assert code == -signal.SIGKILL, "{} ended with {}:\n{}".format(words, code, self._said())
                made[name] += 1
        return made

    def _moment(self, command, rng):
        """Return (its name, whether it has come, so many seconds after the start)."""
        kind = rng.choice(("arriving", "arriving", "unpacking", "any")) if command == "tasks.fetch" else rng.choice(("masks", "any"))
        if kind == "arriving":
            path = os.path.join(self.root, "archives", "zips", "train2017.zip.part")
            share = rng.uniform(0.02, 1) * os.stat(os.path.join(self._server.folder, "zips", "train2017.zip")).st_size
            return kind, lambda seconds: _size(path) >= share
        if kind == "unpacking":
            path, count = os.path.join(self.root, "train2017.zip.extracting", "train2017"), rng.randint(1, 600)
            return kind, lambda seconds: _count(path) >= count
        if kind == "masks" and self._store == "png":
            path, count = os.path.join(self.root, "mask2017"), rng.randint(1, 1700)
            return kind, lambda seconds: _count(path) >= count
        after = rng.uniform(0.05, 2.5)
        return kind, lambda seconds: seconds >= after

    def _once(self, words, moment):
        """Run a command and kill it at a moment; return its exit code."""
        self._server.watched = self.root
        overrides = ["data.root=" + self.root, "fetch.source=" + self._server.url, "fetch.manifest=" + self._server.folder + "/manifest.json"]
        overrides += ["data.mask_store=" + self._store, "data.workers=2", "data.max_bad_fraction=0.01"]
        command = [sys.executable, "-m", *words, "--run-dir", self._run]
        for override in overrides:
            command += ["--set", override]
        started = time.monotonic()
        with open(self._run + ".log", "w", encoding="utf-8") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
            while process.poll() is None:
                seconds = time.monotonic() - started
                if moment(seconds):
                    process.kill()
                assert seconds < LONGEST, "{} hangs:\n{}".format(words, self._said())
                time.sleep(0.002)
        return process.returncode

    def _said(self):
        with open(self._run + ".log", encoding="utf-8") as f:
            return f.read()


def contents(root):
    """Return {path: SHA-256} of all that training reads, and of all that should not be there: what is left over makes a difference too."""
    found = {}
    for folder, names, contents_of in os.walk(root):
        names[:] = [name for name in names if name not in (".steps", "archives")]
        for name in contents_of:
            if name in (".fetch.lock", "fetched.json"):
                continue
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = files.sha256(path)
    return found


def _size(path):
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _count(path):
    try:
        return len(os.listdir(path))
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
