"""Checkpoints in the storage: brought to a run directory, verified, the way that a new machine goes on with a run."""

import contextlib
import logging
import os
import shutil

from mtc import files
from mtc.errors import UserError
from mtc.storage import join_key, uploader
from mtc.training import checkpoints

log = logging.getLogger("mtc.checkpoints")


def newest_good(store, prefix, run_dir, above=-1):
    """Bring the newest good checkpoint of a step over `above` from the storage to the run directory and return its directory, or None.

    Where `latest.json` points at is tried like all others that have a manifest, newest first; damaged ones are named in the log and passed over.
    Errors: those of the storage.
    """
    for name in reversed(uploader.remote_names(store, prefix)):
        if uploader.step_of(name) <= above:
            return None
        directory = fetch(store, prefix, name, run_dir)
        if directory:
            return directory
    return None


def fetch(store, prefix, name, run_dir):
    """Bring a checkpoint to the run directory and return its directory; None, with a warning, where it is damaged or gone.

    One that is there already and good stays. The files go to a temporary directory, are compared with the manifest, and then renamed.
    """
    target = os.path.join(checkpoints.folder(run_dir), name)
    if checkpoints.problem(target) is None:
        return target
    temporary = os.path.join(checkpoints.folder(run_dir), "." + name)  # as of a save: a crash leaves what the next save removes
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    where = store.url(_key(prefix, name))
    try:
        manifest = store.read(_key(prefix, name, checkpoints.MANIFEST))
        listed = uploader.json_object(manifest).get("files")
        if not isinstance(listed, dict) or any(os.path.basename(part) != part for part in listed):
            log.warning("%s is passed over: it has no good %s", where, checkpoints.MANIFEST)
            return None
        log.info("fetching %s", where)
        for part in sorted(listed):
            store.get(_key(prefix, name, part), os.path.join(temporary, part))
        files.write_bytes(os.path.join(temporary, checkpoints.MANIFEST), manifest)
        why = checkpoints.problem(temporary)
        if why:
            log.warning("%s is passed over: %s", where, why)
            return None
        files.fsync_dir(temporary)
        if os.path.isdir(target):
            shutil.rmtree(target)  # damaged
        os.rename(temporary, target)
        files.fsync_dir(checkpoints.folder(run_dir))
        return target
    except FileNotFoundError as error:
        log.warning("%s is passed over: %s", where, error)
        return None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fetch_journal(store, prefix, run_dir):
    """Bring metrics.jsonl where there is none; a run that goes on elsewhere keeps its history."""
    path = os.path.join(run_dir, "metrics.jsonl")
    if not os.path.exists(path):
        with contextlib.suppress(FileNotFoundError):
            store.get(join_key(prefix, "metrics.jsonl"), path)


def problem(store, prefix, name):
    """Return why a checkpoint in the storage is no good one, or None where every byte is as its manifest says. Nothing is kept on this machine."""
    manifest = store.read(_key(prefix, name, checkpoints.MANIFEST))
    content = uploader.json_object(manifest)
    rest = {key: value for key, value in content.items() if key != "digest"}
    if manifest is None or files.json_bytes(content) != manifest or files.digest(rest) != content.get("digest"):
        return "{} is missing or damaged".format(checkpoints.MANIFEST)
    for part, expected in sorted(content["files"].items()):
        try:
            blocks, _ = store.stream(_key(prefix, name, part))
            size, digest = files.digest_of(blocks)
        except (FileNotFoundError, UserError) as error:
            return str(error)
        if (size, digest) != (expected["bytes"], expected["sha256"]):
            return "{} is not as {} says".format(part, checkpoints.MANIFEST)
    return None


def _key(*parts):
    prefix, rest = parts[0], parts[1:]
    return join_key(prefix, uploader.FOLDER, *rest)
