"""The lives of runs: each is trained to its end through kills, stops, full disks, lost machines and flipped bits, with every promise checked after
each.

One process is one worker: it forks trainers (`benchmarks.crashing.trainer`) one at a time, or two where that is the point. All choices follow from
the seed; how far a trainer gets until a timed kill depends on the machine, of course.
"""

import collections
import contextlib
import errno
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from benchmarks.crashing import checks, flips, server
from benchmarks.crashing.checks import Broken, require
from mtc import lock
from mtc.storage import lease as leases
from mtc.storage import open_storage
from mtc.training import checkpoints

STEPS, EVERY = 24, 3
TINY = (
    "model.stages=1", "model.crop=32", "model.width=0.02", "train.batch_size=2", "train.lr_steps=1000", "train.threads=1", "data.workers=2",
    "train.steps={}".format(STEPS), "train.snapshot_every={}".format(EVERY), "train.log_every=4", "train.device=cpu", "train.ema=0.9",
    "storage.lease_seconds=1", "storage.patience=60", "evaluation.samples=0",
)  # fmt: skip
KINDS = {
    "kill at a random time": 40,
    "kill at a named point": 40,
    "SIGTERM": 6,
    "a second trainer, then kill": 5,
    "machine lost": 3,
    "put to sleep and replaced": 4,
    "bit flipped in the newest checkpoint": 3,
    "disk full": 4,
}
"""Kinds of cycles and how often each comes."""
_HANDS = 5
"""A hand of cards has a fifth of that: shares hold in few cycles, too."""

MOST_CYCLES = 14
"""Cycles of a life; then it is let live to its end."""

PATIENCE = 120.0
"""Seconds after which a trainer that should have ended counts as hanging."""


class Life:
    """A run, on one machine or another."""

    def __init__(self, worker, number):
        self.worker, self.rng, self.number = worker, worker.rng, number
        self.name = "run{:04d}".format(number)
        self.remote = self.rng.choice(("folder", "S3"))
        self.keeps_all = self.rng.random() < 0.5
        self.machine, self.seen, self.spoiled, self.pointed = 0, {}, set(), -1
        self.deaths, self.refused, self.loses = collections.defaultdict(list), set(), False
        self.cycles = []
        uri = os.path.join(worker.folder, "storage") if self.remote == "folder" else "s3://bucket/runs"
        self.settings = ["storage.uri={}".format(uri), "checkpoint.keep_last={}".format(0 if self.keeps_all else 2)]
        if self.remote == "S3":
            self.settings.append("storage.endpoint={}".format(worker.url))
        self.store = open_storage(uri, endpoint=worker.url if self.remote == "S3" else "")

    @property
    def run_dir(self):
        """The run directory on the machine that the run is on now."""
        return os.path.join(self.worker.disk, "machine{}".format(self.machine), self.name)

    def live(self, most):
        """Train to the end through at most `most` cycles; return their list."""
        while len(self.cycles) < min(most, MOST_CYCLES):
            kind = self.worker.deal()
            if kind == "disk full" and not self.worker.small_disk:
                kind = "kill at a random time"
            if self._cycle(kind):
                break  # it was through before anything could happen: that does not count
            self.cycles.append(kind)
        else:
            require(self._run_to_the_end(), "the run does not come to its end")
        self._check()
        expected = [] if self.loses else range(EVERY, STEPS + 1, EVERY)
        with self.worker.calm():
            checks.final(self.run_dir, self.store, self.name, STEPS, self.worker.straight_bundle, expected)
        return self.cycles

    def flip_bits(self, count):
        """Flip so many bits of the finished run's checkpoints, one after another; each must be noticed, and is mended."""
        directories = [directory for directory in checkpoints.listed(self.run_dir) if checkpoints.problem(directory) is None]
        for _ in range(count):
            directory = self.rng.choice(directories)
            mend = flips.flip(directory, self.rng)
            newest = checkpoints.newest_good(self.run_dir)
            require(newest != directory, "a damaged checkpoint is used")
            mend()
        require(checkpoints.newest_good(self.run_dir) == directories[0], "a mended checkpoint is not used")

    def clear(self):
        """Make room for the next life."""
        for machine in range(self.machine + 1):
            shutil.rmtree(os.path.join(self.worker.disk, "machine{}".format(machine), self.name), ignore_errors=True)

    def _cycle(self, kind):
        """Do one thing to the run; returns whether it came to its end all the same."""
        if kind == "machine lost":
            self._move()
            kind = "kill at a random time"
        elif kind == "bit flipped in the newest checkpoint":
            good = checkpoints.newest_good(self.run_dir)
            if good:
                flips.flip(good, self.rng)
                self.spoiled.add(checkpoints.step_of(good))
                self.seen.pop(checkpoints.step_of(good), None)
            kind = "kill at a random time"
        if kind == "put to sleep and replaced":
            return self._sleep_and_replace()
        if kind == "disk full":
            return self._fill_the_disk()
        point = None
        if kind == "kill at a named point":
            fitting = [name for name in sorted(self.worker.points) if {"folder": "(S3)", "S3": "(folder)"}[self.remote] not in name]
            point = self.rng.choice(fitting), self.rng.randint(1, 3), os.path.join(self.worker.folder, "point")
        child, started = self._start(point), time.monotonic()
        if point:
            ended = child.wait(PATIENCE)
        else:
            ended = child.wait(self.rng.uniform(0, self.worker.duration))
            self.worker.learn(time.monotonic() - started, ended is None)
            if kind.startswith("a second") and ended is None:
                self._refuse_a_second(child)
            if ended is None:
                child.kill(signal.SIGTERM if kind == "SIGTERM" else signal.SIGKILL)
                ended = child.wait(PATIENCE)
        return self._ended(child, ended, {-signal.SIGKILL, 0} | ({3, -signal.SIGTERM} if kind == "SIGTERM" else set()))

    def _start(self, point=None, take_over=True):
        touched = os.path.join(self.worker.folder, "point")
        if os.path.exists(touched):
            os.unlink(touched)
        arguments = self.worker.arguments(self.run_dir, self.settings) + (["--take-over"] if take_over else [])
        output = os.path.join(self.worker.folder, "output.txt")
        if os.path.exists(output):
            os.unlink(output)
        return self.worker.start(arguments, output, point)

    def _ended(self, child, status, allowed):
        """Check how a trainer ended, and all that must hold then; returns whether the run is at its end."""
        if status is None:
            child.kill(signal.SIGABRT)
            raise Broken("the trainer hangs: {}".format(child.printed()[-3000:]))
        self.deaths[child.pid].append(child.died)
        code = _code(status)
        require(code in allowed, "the trainer ended with {}: {}", code, child.printed()[-3000:])
        touched = os.path.join(self.worker.folder, "point")
        if code == -signal.SIGKILL and os.path.exists(touched):
            with open(touched, encoding="utf-8") as f:
                self.worker.reached[f.read()] += 1
        self._check()
        return code == 0

    def _check(self):
        self.spoiled = {
            step for step in self.spoiled if checkpoints.problem(os.path.join(checkpoints.folder(self.run_dir), checkpoints.name_of(step)))
        }
        self.seen = checks.local_checkpoints(self.run_dir, self.seen, self.keeps_all, self.spoiled)
        checks.journal(self.run_dir, self.worker.straight)
        checks.locks(self.run_dir, self.deaths, self.refused)
        with self.worker.calm():
            self.pointed = checks.remote_checkpoints(self.store, self.name, self.pointed)
        self.worker.checked += 1

    def _move(self):
        """Lose the machine, and with it what was not uploaded yet."""
        self.machine += 1
        self.seen, self.spoiled, self.refused, self.loses = {}, set(), set(), True

    def _run_to_the_end(self):
        child = self._start()
        return self._ended(child, child.wait(PATIENCE), {0})

    def _refuse_a_second(self, first):
        """Start a trainer of the same run beside one that runs: it must leave at once, with the first one's name."""
        if first.wait(0) is not None:
            return
        first.kill(signal.SIGSTOP)  # so that it does not come to its end meanwhile
        holder = lock.read(os.path.join(self.run_dir, ".lock"))
        if holder is None or holder.pid != first.pid or holder.state != "held":
            first.kill(signal.SIGCONT)
            return  # it has not the lock yet
        output = os.path.join(self.worker.folder, "second.txt")
        if os.path.exists(output):
            os.unlink(output)
        second = self.worker.start(self.worker.arguments(self.run_dir, self.settings), output)
        status = second.wait(PATIENCE)
        first.kill(signal.SIGCONT)
        held = "is held by another python -m tasks.train (process {} ".format(first.pid)
        require(status is not None and _code(status) == 2, "a second trainer was not refused: {}", second.printed()[-2000:])
        require(held in second.printed(), "the refusal does not name the holder: {}", second.printed()[-2000:])
        self.refused.add(second.pid)

    def _sleep_and_replace(self):
        """Stop a trainer in its tracks, let another machine take over, and wake the first: it must notice and leave. Returns whether it was
        through.
        """
        sleeper = self._start()
        ended = sleeper.wait(self.rng.uniform(0.3, 1.0) * self.worker.duration)
        if ended is not None:
            return self._ended(sleeper, ended, {0})
        sleeper.kill(signal.SIGSTOP)
        went_on = self._is_training(sleeper)
        self._move()
        successor = self._start()
        ended = successor.wait(self.rng.uniform(0.5, 1.1) * self.worker.duration + 4)  # 2 to 4 s of it to see that the lease is not renewed
        if ended is None:
            successor.kill()
            ended = successor.wait(PATIENCE)
        self._ended(successor, ended, {0, -signal.SIGKILL})
        before, replaced = self._stored(), went_on and self._lease().get("pid") == successor.pid
        sleeper.kill(signal.SIGCONT)
        status = sleeper.wait(PATIENCE)
        require(status is not None, "the sleeper does not end")
        if replaced:
            require(_code(status) == 1, "a trainer that was replaced went on, and ended with {}: {}", _code(status), sleeper.printed()[-2000:])
            changed = checks.changed_by_the_replaced(before, self._stored())
            self.worker.replaced += 1
            if any(key.endswith("/metrics.jsonl") for key in changed):  # an older copy of the journal, until somebody uploads the next
                self._check()
                return self._run_to_the_end()
        # 2: it had no lease yet, and may not take over what is held; 0: it was through, or takes over from a successor that is dead
        require(_code(status) in (0, 1, 2), "the sleeper ended with {}: {}", _code(status), sleeper.printed()[-2000:])
        self._check()
        return _code(ended) == 0

    def _is_training(self, child):
        """Whether a trainer holds the lease and is in the middle of its steps."""
        path = os.path.join(self.run_dir, "metrics.jsonl")
        if self._lease().get("pid") != child.pid or not os.path.exists(path):
            return False
        with open(path, encoding="utf-8") as f:
            return '"kind": "end"' not in f.read().rpartition('"kind": "start"')[2]

    def _lease(self):
        with self.worker.calm():
            return leases.read(self.store, self.name) or {}

    def _stored(self):
        """Return {key: bytes} of all that the storage has of the run, but for the lease."""
        with self.worker.calm():
            keys = self.store.sizes(self.name)
            return {key: self.store.read(key) for key in keys if not key.endswith("/lease.json")}

    def _fill_the_disk(self):
        """Leave the disk little room while a trainer runs: it ends with 1 and says why, or gets by."""
        filler = os.path.join(self.worker.disk, "filler")
        child = self._start()
        ended = child.wait(self.rng.uniform(0, 0.8 * self.worker.duration))
        room = self.rng.choice((0, 4096, 65536, 200000))
        with open(filler, "wb") as f:
            _fill(f, room)
        if ended is None:
            ended = child.wait(PATIENCE)
        os.unlink(filler)
        printed = child.printed()
        done = self._ended(child, ended, {0, 1})
        require(done or "No space left" in printed, "the full disk is not named: {}", printed[-2000:])
        self.worker.full += not done
        return done and self._run_to_the_end()  # which mends what a full disk did not take, such as the record of the step


def _fill(f, room):
    """Let a file take what its disk has left, but for so many bytes. The trainer that is at work there takes some at the same time."""
    while True:
        free = os.statvfs(f.fileno())
        size = max(0, free.f_bavail * free.f_frsize - room)
        try:
            if size:
                os.posix_fallocate(f.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


class Worker:
    """Lives runs one after another until it has made its share of cycles."""

    def __init__(self, folder, disk, small_disk, root, seed, rate=0.1):
        """disk: folder for run directories; small_disk: whether that is a small file system of its own. root: of the data. rate: of faults in S3."""
        from benchmarks.crashing import points, trainer  # with TensorFlow

        logging.getLogger("mtc").addHandler(logging.NullHandler())  # what the checks provoke on purpose
        self.folder, self.disk, self.small_disk, self.root = folder, disk, small_disk, root
        self.rng, self.trainer, self.points = random.Random(seed), trainer, points.POINTS
        self.reached, self.replaced, self.full, self.checked = collections.Counter(), 0, 0, 0
        self._hand = []
        command = [sys.executable, "-m", "benchmarks.crashing.server", os.path.join(folder, "s3"), str(seed), str(rate)]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True)
        self.url = self._server.stdout.readline().strip()
        require(self.url, "the S3 server does not start")
        os.environ.update(
            AWS_ACCESS_KEY_ID=server.ID, AWS_SECRET_ACCESS_KEY=server.SECRET, AWS_EC2_METADATA_DISABLED="true",
            AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        )  # fmt: skip
        trainer.prepare(self.arguments("unused", []))
        self._run_straight()

    def arguments(self, run_dir, settings):
        """Return the command line of a trainer."""
        words = ["--config", "demo"]
        for override in TINY + ("data.root={}".format(self.root),) + tuple(settings):
            words += ["--set", override]
        return words[:2] + words[2:] + ["--run-dir", run_dir]

    def start(self, arguments, output, point=None):
        """Start a trainer."""
        return self.trainer.start(arguments, output, {}, point)

    def deal(self):
        """Return the kind of the next cycle."""
        if not self._hand:
            self._hand = [kind for kind, share in KINDS.items() for _ in range(share // _HANDS)]
            rest = [share % _HANDS for share in KINDS.values()]
            self._hand += self.rng.choices(list(KINDS), rest, k=sum(rest) // _HANDS)
            self.rng.shuffle(self._hand)
        return self._hand.pop()

    def learn(self, seconds, was_in_time):
        """Aim timed kills where trainers live: later where they were in time, earlier where the trainer had come to its end before."""
        self.duration = self.duration * 1.03 if was_in_time else self.duration + 0.3 * (seconds - self.duration)

    @contextlib.contextmanager
    def calm(self):
        """Have the S3 server make no faults, while it is only looked at."""
        for word in ("calm", "wild"):
            self._server.stdin.write(word + "\n")
            self._server.stdin.flush()
            self._server.stdout.readline()
            if word == "calm":
                yield

    def work(self, cycles, flip_count, tell):
        """Make so many cycles and flips; return the results."""
        made, lives, kinds, flipped = 0, 0, collections.Counter(), 0
        while made < cycles:
            life = Life(self, lives)
            done = life.live(cycles - made)
            made += len(done)
            lives += 1
            kinds.update(done)
            share = min(flip_count - flipped, -(-flip_count * len(done) // cycles)) if made < cycles else flip_count - flipped
            life.flip_bits(share)
            flipped += share
            life.clear()
            tell(made)
        return {
            "cycles": made, "lives": lives, "kinds": dict(kinds), "points": dict(self.reached), "flips": flipped, "checks": self.checked,
            "replaced": self.replaced, "full": self.full,
        }  # fmt: skip

    def close(self):
        """Stop the server."""
        self._server.stdin.close()
        self._server.wait(20)

    def _run_straight(self):
        """Train once without a kill: what every run has to come to."""
        run_dir, output = os.path.join(self.folder, "straight"), os.path.join(self.folder, "straight.txt")
        started = time.monotonic()
        child = self.start(self.arguments(run_dir, ["storage.uri={}".format(os.path.join(self.folder, "straight_storage"))]), output)
        status = child.wait(PATIENCE)
        require(status == 0, "the straight run fails: {}", child.printed()[-3000:])
        self.duration = time.monotonic() - started
        self.straight = checks.steps_of(run_dir)
        self.straight_bundle = checks.bundle(os.path.join(run_dir, "checkpoints", checkpoints.name_of(STEPS)))


def _code(status):
    """Return the exit code of a wait status, negative for a signal."""
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
