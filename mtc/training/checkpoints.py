"""Checkpoints: directories that are whole or do not exist.

`checkpoints/step-00000500/` holds a TensorFlow Saver bundle with the reference's variable names (`model-500.*`, and TensorFlow's own file
`checkpoint`, so that other tools find it), `state.json` (step, run, config, all that is not a weight) and `MANIFEST.json` (size and SHA-256 of every
other file, and a digest of itself). Crash safety: all files are written to a temporary directory and flushed, the manifest last; the directory is
flushed and renamed, and its parent flushed. A crash before the rename leaves only the temporary directory, which nobody reads and the next save
removes; a directory without a good manifest does not count.
"""

import json
import logging
import os
import re
import shutil

from mtc import config as configuration
from mtc import files
from mtc.errors import UserError

log = logging.getLogger("mtc.checkpoints")

MANIFEST, STATE = "MANIFEST.json", "state.json"
_NAME = re.compile(r"step-(\d{8,})")


def folder(run_dir):
    """Where a run's checkpoints are."""
    return os.path.join(run_dir, "checkpoints")


def name_of(step):
    """Return the name of a step's checkpoint."""
    return "step-{:08d}".format(step)


def step_of(directory):
    """Return the step of a checkpoint's directory."""
    return int(_NAME.fullmatch(os.path.basename(directory)).group(1))


def save(run_dir, step, write_bundle, state):
    """Write the checkpoint of a step and return its directory.

    write_bundle(prefix) writes the Saver bundle under a path prefix; state: JSON-able, "step" is added. A good checkpoint of the same step
    stays as it is. Errors: OSError, and what write_bundle raises; the checkpoints that are there stay.
    """
    target = os.path.join(folder(run_dir), name_of(step))
    if problem(target) is None:
        return target
    os.makedirs(folder(run_dir), exist_ok=True)
    for name in os.listdir(folder(run_dir)):
        if name.startswith(".step-"):  # of a save that a crash cut off; the run's lock says that nobody else is writing
            shutil.rmtree(os.path.join(folder(run_dir), name))
    temporary = os.path.join(folder(run_dir), "." + name_of(step))
    os.makedirs(temporary)
    try:
        bundle = "model-{}".format(step)
        write_bundle(os.path.join(temporary, bundle))
        lines = 'model_checkpoint_path: "{0}"\nall_model_checkpoint_paths: "{0}"\n'.format(bundle)
        files.write_bytes(os.path.join(temporary, "checkpoint"), lines.encode("ascii"))
        files.write_json(os.path.join(temporary, STATE), dict(state, v=1, step=step, bundle=bundle))
        listed = {name: _describe(os.path.join(temporary, name)) for name in sorted(os.listdir(temporary))}
        manifest = {"v": 1, "step": step, "files": listed}
        files.write_json(os.path.join(temporary, MANIFEST), dict(manifest, digest=files.digest(manifest)))
        files.fsync_dir(temporary)
        if os.path.isdir(target):  # damaged, or it would have been kept above
            shutil.rmtree(target)
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    files.fsync_dir(folder(run_dir))
    return target


def problem(directory):
    """Return why a directory is no good checkpoint, or None where every byte of it is as its manifest says."""
    try:
        with open(os.path.join(directory, MANIFEST), "rb") as f:
            written = f.read()
        manifest = json.loads(written.decode("utf-8"))
        rest = {key: value for key, value in manifest.items() if key != "digest"}
        if files.json_bytes(manifest) != written or files.digest(rest) != manifest.get("digest"):
            return "{} is damaged".format(MANIFEST)
        for name, expected in manifest["files"].items():
            path = os.path.join(directory, name)
            if os.path.getsize(path) != expected["bytes"] or files.sha256(path) != expected["sha256"]:
                return "{} is not as {} says".format(name, MANIFEST)
        if STATE not in manifest["files"] or not any(name.endswith(".index") for name in manifest["files"]):
            return "its {} does not list all files".format(MANIFEST)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return "{}: {}".format(type(error).__name__, error)
    return None


def listed(run_dir):
    """Return the directories of all checkpoints, good or not, newest first."""
    try:
        names = os.listdir(folder(run_dir))
    except OSError:
        return []
    steps = sorted(((int(_NAME.fullmatch(n).group(1)), n) for n in names if _NAME.fullmatch(n)), reverse=True)
    return [os.path.join(folder(run_dir), name) for _, name in steps]


def newest_good(run_dir):
    """Return the directory of the newest good checkpoint, or None. Damaged ones are named in the log and passed over."""
    passed_over = False
    for directory in listed(run_dir):
        why = problem(directory)
        if why is None:
            if passed_over:
                log.warning("falling back to checkpoint %s", directory)
            return directory
        passed_over = True
        log.warning("checkpoint %s is passed over: %s", directory, why)
    return None


def state(directory):
    """Return the state.json of a checkpoint."""
    return files.read_json(os.path.join(directory, STATE))


def bundle_prefix(directory):
    """Return the path prefix of a checkpoint's Saver bundle."""
    return os.path.join(directory, state(directory)["bundle"])


def check_is_of(directory, uid, config, accept=False):
    """Refuse a checkpoint of another run or another configuration; `accept` (checkpoint.foreign=accept) takes it with a warning.

    uid: of this run. Errors: UserError names the checkpoint and what is different.
    """
    found = state(directory)
    different = ""
    if found.get("uid") != uid:
        different = "is of another run (uid {}, this one is {})".format(found.get("uid"), uid)
    else:
        known = configuration.completed_identity(found.get("config") or {})
        changed = configuration.difference(known, configuration.identity(config))
        if changed:
            different = "is of another configuration: {}".format(changed)
    if different and not accept:
        raise UserError(
            "checkpoint {} {}; move it away, choose another --run-dir, or set checkpoint.foreign=accept to go on from it".format(directory, different)
        )
    if different:
        log.warning("checkpoint %s %s; checkpoint.foreign=accept: going on from it", directory, different)


def remove(directory):
    """Remove a checkpoint: its manifest first, so that it does not exist from then on, however far the rest comes."""
    try:
        os.unlink(os.path.join(directory, MANIFEST))
        files.fsync_dir(directory)
    except FileNotFoundError:
        pass
    shutil.rmtree(directory)
    files.fsync_dir(os.path.dirname(directory))


def _describe(path):
    with open(path, "rb") as f:  # TensorFlow wrote the bundle without flushing it to the disk
        os.fsync(f.fileno())
    return {"bytes": os.path.getsize(path), "sha256": files.sha256(path)}
