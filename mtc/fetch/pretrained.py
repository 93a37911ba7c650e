"""Finds and brings the pretrained snapshot: a TensorFlow checkpoint `<prefix>.index` with its shards `<prefix>.data-00000-of-00001`.

`fetch` brings what `snapshot.uri` names into the folder snapshots/, `locate` says where it is, without TensorFlow, so that both the fetch step
and the trainer agree. What the user put somewhere is used in place; only archives and remote checkpoints are copied, into `snapshots/<name>/`, with
a `source.json`.
"""

import logging
import os
import re
import shutil
import urllib.parse
from typing import NamedTuple

from mtc import files
from mtc.errors import UserError
from mtc.fetch import download, extract, locked
from mtc.storage import open_storage, split_uri

log = logging.getLogger("mtc.fetch")

ANY_NAME = r"[^\0]+"
_SHARD = re.compile(r"(?P<prefix>.*)\.data-\d{5}-of-(?P<shards>\d{5})$")
_UNFINISHED = (".extracting", ".old", ".making")


class Place(NamedTuple):
    """What a snapshot's URI is."""

    kind: str
    """none, auto, here (a folder or prefix on this machine), archive (on this machine or remote) or bucket (a checkpoint's files in S3)."""
    path: str
    """Local path, or URI of what is remote."""
    folder: str
    """Where `fetch` puts it, for archive and bucket."""


def locate(snapshot, folder="snapshots"):
    """Return the prefix of the checkpoint to start from (".../model-390000"), or None for initial weights.

    `snapshot` is the config section. "auto" takes the only checkpoint below `folder`; of several steps in one directory the newest counts.
    Errors: UserError where checkpoints in several directories leave a choice, a file of the checkpoint is missing, or `fetch` has not
    brought it yet.
    """
    place = _place(snapshot.uri, folder)
    if place.kind == "none":
        return None
    if place.kind == "auto":
        return _only_checkpoint(folder, "set snapshot.uri to one of them") if os.path.isdir(folder) else None
    if place.kind == "here":
        if os.path.isdir(place.path):
            prefix = _only_checkpoint(place.path, "set snapshot.uri to one of them")
            if prefix is None:
                raise UserError("snapshot.uri={}: no checkpoint (a file *.index) is in this folder".format(snapshot.uri))
            return prefix
        return _whole(place.path)
    if _source(place.folder) != _wanted_source(place, snapshot):
        raise UserError("the snapshot {} is not in {} yet: run python -m tasks.fetch snapshot first".format(snapshot.uri, folder))
    prefix = _only_checkpoint(place.folder, "set snapshot.uri to one of them")
    if prefix is None:
        raise UserError("{} (from {}) holds no checkpoint (a file *.index): give another snapshot.uri".format(place.folder, snapshot.uri))
    return prefix


def fetch(snapshot, folder="snapshots", endpoint="", region=""):
    """Bring the snapshot to this machine where it is an archive or remote, and return what `locate` returns.

    Errors: UserError names the file, what is wrong and what to do; storage.TransientError where a source cannot be reached.
    """
    place = _place(snapshot.uri, folder)
    if place.kind in ("archive", "bucket"):
        with locked(folder):
            if _source(place.folder) != _wanted_source(place, snapshot):
                if os.path.lexists(place.folder) and _source(place.folder) is None:
                    raise UserError(
                        "{0} is there and was not made from {1}: move it away, or set snapshot.uri={0}".format(place.folder, snapshot.uri)
                    )
                (_fetch_archive if place.kind == "archive" else _fetch_bucket)(place, snapshot, folder, endpoint, region)
    elif snapshot.sha256:
        log.warning("snapshot.sha256 belongs to an archive and snapshot.uri=%s is not one: nothing is compared", snapshot.uri)
    prefix = locate(snapshot, folder)
    if prefix is None:
        idle = sorted(name for name in (os.listdir(folder) if os.path.isdir(folder) else ()) if name.endswith(extract.ENDINGS))
        if place.kind == "auto" and idle:
            log.warning("%s is not unpacked: set snapshot.uri=%s to use it", os.path.join(folder, idle[0]), os.path.join(folder, idle[0]))
    return prefix


def checkpoint_files(prefix):
    """Return the paths of a checkpoint's index and shards, all present; UserError names the one that is missing."""
    folder, base = os.path.split(prefix)
    shards = [_SHARD.match(name) for name in os.listdir(folder or ".")] if os.path.isdir(folder or ".") else []
    counts = sorted({int(match.group("shards")) for match in shards if match and match.group("prefix") == base}) or [1]
    paths = [prefix + ".index"] + ["{}.data-{:05d}-of-{:05d}".format(prefix, i, counts[-1]) for i in range(counts[-1])]
    for path in paths:
        if not os.path.isfile(path):
            raise UserError("{} is missing: the checkpoint {} is not whole; put all of its files side by side".format(path, prefix))
    return paths


def _place(uri, folder):
    """Return the `Place` of snapshot.uri; UserError where it is nothing that can be used."""
    if uri in ("none", "auto"):
        return Place(uri, "", "")
    kind, path = split_uri(uri)
    archive = path.endswith(extract.ENDINGS) if kind in ("file", "s3") else urllib.parse.urlsplit(uri).path.endswith(extract.ENDINGS)
    name = os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(uri).path if kind in ("http", "https") else path).rstrip("/"))
    for ending in sorted(extract.ENDINGS, key=len, reverse=True):
        if name.endswith(ending):
            name = name[: -len(ending)]
            break
    target = os.path.join(folder, name)
    if kind == "file":
        path = os.path.expanduser(path)
        if os.path.isdir(path):
            return Place("here", path, "")
        if archive and os.path.isfile(path):
            return Place("archive", path, target)
        if archive and (_source(target) or {}).get("uri") == uri:  # unpacked, and then deleted to save the room
            return Place("here", target, "")
        prefix = _without_ending(path)
        if os.path.isfile(prefix + ".index"):
            return Place("here", prefix, "")
        raise UserError(
            "snapshot.uri={}: there is no such folder, checkpoint ({}.index) or archive ({})".format(uri, prefix, ", ".join(extract.ENDINGS))
        )
    if name in ("", ".", ".."):
        raise UserError("snapshot.uri={}: the URI names no file".format(uri))
    if archive:
        return Place("archive", uri, target)
    if kind == "s3":
        return Place("bucket", uri, target)
    raise UserError("snapshot.uri={}: over http(s) only an archive ({}) can be fetched".format(uri, ", ".join(extract.ENDINGS)))


def _fetch_archive(place, snapshot, folder, endpoint, region):
    wanted = _wanted_source(place, snapshot)
    if split_uri(snapshot.uri)[0] == "file":
        archive = place.path
        download.verify(archive, None, snapshot.sha256 or None, record=place.folder + ".ok.json")
    else:
        archive = os.path.join(folder, os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(place.path).path)))
        download.fetch(place.path, archive, None, snapshot.sha256 or None, endpoint=endpoint, region=region)
    log.info("unpacking %s to %s", archive, place.folder)
    making = place.folder + ".making"
    extract.unpack(archive, making, ANY_NAME)
    files.write_json(_source_path(making), wanted)
    extract.publish(making, place.folder)
    if archive != place.path:  # 600 MB that are not needed twice
        os.unlink(archive)
        os.unlink(archive + ".ok.json")


def _fetch_bucket(place, snapshot, folder, endpoint, region):
    """Bring a checkpoint's files: all below the URI where it is a folder, or those whose names begin with it where it is a prefix."""
    parent, _, base = split_uri(place.path)[1].rstrip("/").rpartition("/")
    if not parent:
        raise UserError("snapshot.uri={}: expected s3://bucket/folder or s3://bucket/folder/model-390000".format(place.path))
    storage = open_storage("s3://" + parent, endpoint=endpoint, region=region)
    found = storage.sizes(base) or {key: size for key, size in storage.sizes().items() if key.startswith(base + ".")}
    if not any(key.endswith(".index") for key in found):
        raise UserError("snapshot.uri={}: no checkpoint (an object *.index) is there".format(place.path))
    staging = place.folder + ".making"
    shutil.rmtree(staging, ignore_errors=True)
    for key in sorted(found):
        log.info("fetching %s", storage.url(key))
        storage.get(key, os.path.join(staging, *key[len(base) + 1 :].split("/")) if key.startswith(base + "/") else os.path.join(staging, key))
    _check_manifest(staging, place.path)
    files.write_json(_source_path(staging), _wanted_source(place, snapshot))
    extract.publish(staging, place.folder)


def _check_manifest(folder, uri):
    """Compare the files of a checkpoint of our own with its manifest."""
    try:
        manifest = files.read_json(os.path.join(folder, "MANIFEST.json"))
        listed = {} if manifest is None else {name: facts["sha256"] for name, facts in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError("{}/MANIFEST.json cannot be read: the checkpoint is damaged; use another one".format(uri)) from None
    for name, sha256 in sorted(listed.items()):
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or files.sha256(path) != sha256:
            raise UserError("{}/{} is not what its MANIFEST.json says: the checkpoint is damaged; use another one".format(uri, name))


def _only_checkpoint(folder, advice):
    """Return the prefix of the newest checkpoint in the one directory below `folder` that holds any, or None; all of its files are there."""
    found = {}
    for directory, names, contents in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith(".") and not name.endswith(_UNFINISHED))
        prefixes = [os.path.join(directory, name[: -len(".index")]) for name in contents if name.endswith(".index")]
        if prefixes:
            found[directory] = max(prefixes, key=lambda prefix: (_step(prefix), prefix))
    if len(found) > 1:
        raise UserError("{} holds several checkpoints ({}): {}".format(folder, ", ".join(sorted(found.values())), advice))
    return _whole(next(iter(found.values()))) if found else None


def _whole(prefix):
    checkpoint_files(prefix)
    return prefix


def _step(prefix):
    match = re.search(r"-(\d+)$", prefix)
    return int(match.group(1)) if match else -1


def _without_ending(path):
    """Return a checkpoint's prefix, whichever of its files was named."""
    match = _SHARD.match(path)
    if match:
        return match.group("prefix")
    return path[: path.rfind(".")] if path.endswith((".index", ".meta")) else path


def _wanted_source(place, snapshot):
    """Return what source.json must say. A local archive is known by its size and time too, because its content may change under its name."""
    wanted = {"uri": snapshot.uri, "sha256": snapshot.sha256.lower()}
    if split_uri(snapshot.uri)[0] == "file":
        found = os.stat(place.path)
        wanted.update(bytes=found.st_size, mtime_ns=found.st_mtime_ns)
    return wanted


def _source_path(folder):
    return os.path.join(folder, "source.json")


def _source(folder):
    """Return what source.json says, or None where the folder was not made by `fetch`."""
    try:
        return files.read_json(_source_path(folder))
    except (ValueError, OSError):
        return None
