"""Bits that flip: in every byte of a small checkpoint, and at random places of real ones. Each must be noticed, and the one before used instead."""

import os

from benchmarks.crashing.checks import require
from mtc.training import checkpoints


def exhaustively(folder):
    """Flip a bit of every byte of every file of a checkpoint of a few hundred bytes, and cut each file at every length. Returns the number of
    changes.
    """
    run_dir = os.path.join(folder, "tiny")

    def write_bundle(prefix):
        for suffix, data in ((".index", bytes(range(64))), (".data-00000-of-00001", bytes(range(128)))):
            with open(prefix + suffix, "wb") as f:
                f.write(data)

    older = checkpoints.save(run_dir, 1, write_bundle, {"uid": "u", "samples": 2})
    newer = checkpoints.save(run_dir, 2, write_bundle, {"uid": "u", "samples": 4})
    count = 0
    for name in sorted(os.listdir(newer)):
        path = os.path.join(newer, name)
        with open(path, "rb") as f:
            good = f.read()
        changed = (good[:i] + bytes([good[i] ^ 1 << i % 8]) + good[i + 1 :] for i in range(len(good)))
        cut = (good[:length] for length in range(len(good)))
        for bad in [*changed, *cut, good + b"\n"]:
            with open(path, "wb") as f:
                f.write(bad)
            require(checkpoints.problem(newer) is not None, "a change of {} goes unnoticed", path)
            count += 1
        require(checkpoints.newest_good(run_dir) == older, "the older checkpoint is not used")
        with open(path, "wb") as f:
            f.write(good)
    require(checkpoints.newest_good(run_dir) == newer, "the repaired checkpoint is not used")
    return count


def flip(directory, rng):
    """Flip a random bit of a random file of a checkpoint; return the function that mends it."""
    name = rng.choice(sorted(os.listdir(directory)))
    path = os.path.join(directory, name)
    place, bit = rng.randrange(os.path.getsize(path)), rng.randrange(8)

    def change():
        with open(path, "r+b") as f:
            f.seek(place)
            byte = f.read(1)[0]
            f.seek(place)
            f.write(bytes([byte ^ 1 << bit]))

    change()
    require(checkpoints.problem(directory) is not None, "bit {} of byte {} of {} flipped unnoticed", bit, place, path)
    return change
