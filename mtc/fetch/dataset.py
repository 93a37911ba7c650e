"""Brings COCO 2017 (or the synthetic data set of its form) into `data.root`: train2017/, val2017/ and annotations/.

One path for all sources: find or download each archive, verify it, unpack it. `<data.root>/fetched.json` says what was unpacked from where;
it is written before a folder appears and completed after, so that after a crash a folder is either known to be whole or made again. Folders
that are there without a record are the user's: they are used as they are and never replaced.
"""

import contextlib
import dataclasses
import glob
import logging
import os
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from mtc import files
from mtc.errors import UserError
from mtc.fetch import download, extract, locked, manifest, size_text, subset
from mtc.sections import Fetch
from mtc.storage import split_uri

log = logging.getLogger("mtc.fetch")

SPLITS = ("train2017", "val2017")
ANNOTATIONS = tuple("annotations/person_keypoints_{}.json".format(split) for split in SPLITS)
RECORD = "fetched.json"
SUBSET = "images"
"""Stands in the record for images that were fetched one by one."""
_NEEDED_FOLDERS = SPLITS + ("annotations",)
_OTHER_FOLDERS = ("synthetic3d", "synthetic_hand")


def fetch(config, again=False):
    """Make `config.data.root` hold the data set of `config.fetch.source`; return the figures of the step.

    again: unpack the archives even where all seems to be there.
    They are images (per split), bytes (of the archives), seconds, archives (their SHA-256) and origin. Errors: UserError names the file,
    what is wrong with it and what to do; storage.TransientError where a source cannot be reached.
    """
    started, root = time.time(), config.data.root
    with locked(root):
        for folder in [root] + [path for path, _, _ in os.walk(os.path.join(root, "archives"))]:
            files.remove_leftovers(folder)
        record = _read_record(root)
        if again:
            _withdraw(root, record, record["archives"])
        if not any(record.values()) and not missing(root):
            log.info("%s holds %s and was not made by this command: used as it is", root, ", ".join(_NEEDED_FOLDERS))
            origin, hashes, size = "data.root as it was", {}, 0
        else:
            origin, hashes, size = _bring(config, root, record)
        lacking = missing(root)
        if lacking:
            raise UserError("{} lacks {} after fetching from {}: check fetch.source and fetch.manifest".format(root, ", ".join(lacking), origin))
    images = {split: _count(os.path.join(root, split), ".jpg") for split in SPLITS}
    log.info("%s: %s", root, ", ".join("{} images in {}".format(count, split) for split, count in images.items()))
    return {"images": images, "bytes": size, "seconds": round(time.time() - started, 3), "archives": hashes, "origin": origin}


def missing(folder):
    """Return what a folder lacks to be the data set: names of folders and files that are not there or not readable."""
    lacking = []
    for split in SPLITS:
        try:
            with os.scandir(os.path.join(folder, split)) as entries:
                if not any(entry.name.endswith(".jpg") for entry in entries):
                    lacking.append(split + "/*.jpg")
        except OSError as error:
            lacking.append("{}/ ({})".format(split, error.strerror))
    for name in ANNOTATIONS:
        try:
            with open(os.path.join(folder, name), "rb"):
                pass
        except OSError as error:
            lacking.append("{} ({})".format(name, error.strerror))
    return lacking


def annotation_files(root):
    """Return the paths of the annotations in a fetched data set: COCO's, and those of the 3D sources that are there."""
    found = [os.path.join(root, name) for name in ANNOTATIONS]
    for name in _OTHER_FOLDERS:
        found += sorted(glob.glob(os.path.join(glob.escape(os.path.join(root, name)), "*.json")))
    return found


def found_archives(config):
    """Return [[path, bytes, mtime_ns], ...] of the archives in a source folder, [] for other sources: part of what a fetch depends on."""
    folder = _source_folder(config)
    paths = [_in_folder(folder, archive) for archive in manifest.load(config.fetch.manifest)] if folder else []
    stats = [(path, os.stat(path)) for path in paths if path]
    return [[path, found.st_size, found.st_mtime_ns] for path, found in stats]


def notice_damage(root):
    """Take back what fetched.json says of archives whose folders have lost files or bytes since; `fetch` then unpacks them again.

    Sizes are compared, not contents: the digest of 118,287 files is not worth a start.
    """
    if not os.path.isdir(root):
        return
    record = _read_record(root)
    damaged = [path for path, entry in record["archives"].items() if entry["complete"] and not _is_whole(root, entry)]
    if damaged:
        _withdraw(root, record, damaged)


def _bring(config, root, record):
    """Link or unpack the source into `root`; return (origin, {archive path: sha256}, bytes of the archives)."""
    source, folder = config.fetch.source, _source_folder(config)
    if config.fetch.images or config.fetch.ids:
        return _bring_subset(config, root, record, folder)
    if source == "synthetic":
        folder = _make_synthetic(config.synthetic, root)
        archives = manifest.load(os.path.join(folder, "manifest.json"))
    else:
        archives = manifest.load(config.fetch.manifest)
        if config.fetch.manifest == "none":
            log.warning("fetch.manifest=none: sizes and SHA-256 of the archives are not checked")
        if folder and _is_extracted(folder, archives):
            _link(folder, root, record)
            return folder, {}, 0
    done = {}
    if folder:
        for archive in archives:
            path = _in_folder(folder, archive)
            found = download.verify(path, archive.bytes, archive.sha256, record=_target(root, archive) + ".ok.json", source=path)
            if not _is_unpacked(record, archive, root, found.sha256, path):
                _unpack(path, archive, found.sha256, path, root, record, done)
            done[archive.path] = found.sha256, found.bytes
    else:
        _download(config, root, record, archives, done)
    _forget_subset(root, record)
    return source, {path: sha256 for path, (sha256, _) in done.items()}, sum(size for _, size in done.values())


def _download(config, root, record, archives, done):
    """Bring archives from a server, several at once, and unpack each as soon as it is here; note them in `done`."""
    wanted = [archive for archive in archives if not _is_unpacked(record, archive, root, archive.sha256, _url(config, archive))]
    for archive in archives:
        if archive not in wanted:
            entry = record["archives"][archive.path]
            done[archive.path] = entry["sha256"], entry["bytes"]
    if wanted:
        _forget_synthetic(root)
        _check_room(root, wanted)
    stop = threading.Event()
    with ThreadPoolExecutor(config.fetch.parallel) as pool:
        waiting = {}
        try:
            for archive in wanted:
                waiting[pool.submit(_fetch_archive, config, root, archive, stop)] = archive
            for arrived in as_completed(waiting):
                archive, found = waiting[arrived], arrived.result()
                _unpack(found.path, archive, found.sha256, _url(config, archive), root, record, done)
                done[archive.path] = found.sha256, found.bytes
                if not config.fetch.keep_archives:
                    _delete(found.path)
        finally:
            stop.set()
            for arriving in waiting:
                arriving.cancel()
    if not config.fetch.keep_archives:  # those of an earlier run
        for archive in archives:
            _delete(_target(root, archive))


def _url(config, archive):
    return config.fetch.source.rstrip("/") + "/" + archive.path


def _fetch_archive(config, root, archive, stop=None):
    """Bring an archive of a server; the official manifest's mirrors stand for the official source alone. Returns it as `download.Verified`."""
    mirrors = archive.mirrors if config.fetch.manifest != "official" or config.fetch.source == Fetch.source else ()
    options = {"endpoint": config.storage.endpoint, "region": config.storage.region, "mirrors": mirrors, "stop": stop}
    return download.fetch(_url(config, archive), _target(root, archive), archive.bytes, archive.sha256, **options)


def _delete(archive):
    for path in (archive, archive + ".ok.json"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _bring_subset(config, root, record, folder):
    """Fetch the images that `fetch.images` or `fetch.ids` name; return as `_bring`."""
    source = config.fetch.source
    if source == "synthetic":
        raise UserError("fetch.images and fetch.ids choose images of COCO: fetch.source=synthetic has none; set synthetic.train_images")
    others = sorted(name for path, entry in record["archives"].items() if path != SUBSET for name in entry["folders"]) + sorted(record["links"])
    if others:
        raise UserError("{} holds {} of another fetch: choose another data.root for a part of COCO".format(root, ", ".join(others)))
    archive = next((one for one in manifest.load(config.fetch.manifest) if re.fullmatch(one.members, ANNOTATIONS[0])), None)
    if archive is None:
        raise UserError("fetch.manifest={}: no archive holds {}".format(config.fetch.manifest, ANNOTATIONS[0]))
    if folder:
        path = _in_folder(folder, archive)
        if not path:
            raise UserError("fetch.source={} lacks {}: put it there".format(source, archive.path))
        found = download.verify(path, archive.bytes, archive.sha256, record=_target(root, archive) + ".ok.json", source=path)
    else:
        found = _fetch_archive(config, root, archive)
    ids = sorted(subset.read_ids(config.fetch.ids)) if config.fetch.ids else []
    wanted = {"annotations": found.sha256, "images": config.fetch.images, "ids": ids}
    entry = record["archives"].get(SUBSET)
    if not (entry and entry["complete"] and entry["wanted"] == wanted and _is_whole(root, entry)):
        _make_subset(config, root, record, found, archive.members, folder or source, wanted)
    return source, {archive.path: found.sha256}, found.bytes


def _make_subset(config, root, record, archive, members, source, wanted):
    """Make the folders of a part of COCO, each of which appears whole."""
    for name in _NEEDED_FOLDERS:
        if SUBSET not in record["archives"] and os.path.lexists(os.path.join(root, name)):
            raise UserError("{} is there and was not made by this command: move it away or choose another data.root".format(os.path.join(root, name)))
    whole, staging = os.path.join(root, "annotations.whole"), os.path.join(root, SUBSET + ".fetching")
    subset.archive_members(archive.path, whole, members, SPLITS)
    indexed = subset.indexes(whole, SPLITS)
    numbers = subset.chosen(indexed, config.fetch.images, config.fetch.ids)
    pictures = []
    for split, index in indexed.items():
        images = [index.images[number] for number in numbers[split]]
        pictures += [subset.Picture("{}/{}".format(split, image.file_name), image.width, image.height) for image in images]
        log.info("%s: %d images of %d with people", split, len(images), len(index.images))
    entry = {"wanted": wanted, "sha256": archive.sha256, "bytes": archive.bytes, "source": source, "members": "", "complete": False}
    entry["folders"] = dict({split: len(numbers[split]) for split in SPLITS}, annotations=len(SPLITS))
    record["archives"][SUBSET] = entry
    _write_record(root, record)
    subset.write_annotations(indexed, numbers, staging)
    subset.bring(source, pictures, staging, root, config.storage.endpoint, config.storage.region)
    for name in _NEEDED_FOLDERS:
        for stranger in set(os.listdir(os.path.join(staging, name))) - {os.path.basename(one.name) for one in pictures} if name in SPLITS else ():
            os.unlink(os.path.join(staging, name, stranger))  # of a larger choice that was interrupted
        extract.publish(os.path.join(staging, name), os.path.join(root, name))
    shutil.rmtree(staging)
    shutil.rmtree(whole)
    entry["bytes_of_folders"] = {name: _measure(os.path.join(root, name))[1] for name in entry["folders"]}
    entry["complete"] = True
    _write_record(root, record)


def _forget_subset(root, record):
    """The archives have taken the place of a part of COCO that was here."""
    if record["archives"].pop(SUBSET, None):
        _write_record(root, record)


def _check_room(root, archives):
    """Refuse to begin where the disk cannot hold what is still to be downloaded, and its contents, which are as large for images."""
    needed = sum(2 * (archive.bytes or 0) for archive in archives)
    for archive in archives:
        for name in (_target(root, archive), _target(root, archive) + ".part"):
            if os.path.exists(name):
                needed -= min(os.stat(name).st_size, archive.bytes or 0)
                break
    free = shutil.disk_usage(root).free
    if needed > free:
        text = "{} needs {} for the archives and what is in them, its disk has {} free: make room or choose another data.root"
        raise UserError(text.format(root, size_text(needed), size_text(free)))


def _source_folder(config):
    """Return the absolute path of a source that is a folder, or "" for others."""
    if config.fetch.source == "synthetic":
        return ""
    kind, path = split_uri(config.fetch.source)
    return os.path.abspath(os.path.expanduser(path)) if kind == "file" else ""


def _is_extracted(folder, archives):
    """Whether a source folder holds the extracted data set (True) or all archives (False); UserError where neither is whole."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise UserError(
            "fetch.source={} cannot be read: {}; give a folder with {}/, or with the archives".format(
                folder, error.strerror, "/, ".join(_NEEDED_FOLDERS)
            )
        ) from None
    lacking = missing(folder)
    absent = [archive.path for archive in archives if not _in_folder(folder, archive)]
    if not lacking or not absent:
        return not lacking
    if len(absent) == len(archives) and any(os.path.lexists(os.path.join(folder, name)) for name in _NEEDED_FOLDERS):
        raise UserError("fetch.source={} lacks {}: complete it or give another source".format(folder, ", ".join(lacking)))
    raise UserError(
        "fetch.source={} holds neither {}/ nor the archive {}: correct the path or put it there".format(
            folder, "/, ".join(_NEEDED_FOLDERS), absent[0]
        )
    )


def _in_folder(folder, archive):
    """Return where an archive lies in a source folder, under its official path or its bare name, or "" where it does not."""
    candidates = (os.path.join(folder, archive.path), os.path.join(folder, os.path.basename(archive.path)))
    return next((path for path in candidates if os.path.isfile(path)), "")


def _link(folder, root, record):
    """Make `root` point at the folders of an extracted data set."""
    if os.path.realpath(folder) == os.path.realpath(root):
        return
    for name in _NEEDED_FOLDERS + tuple(name for name in _OTHER_FOLDERS if os.path.isdir(os.path.join(folder, name))):
        target, link = os.path.join(folder, name), os.path.join(root, name)
        if os.path.islink(link) and os.readlink(link) == target:
            continue
        if os.path.lexists(link) and not (os.path.islink(link) and name in record["links"]):
            raise UserError("{} is there and is no link to {}: move it away or choose another data.root".format(link, target))
        record["links"][name] = target
        _write_record(root, record)
        temporary = link + ".link"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.replace(temporary, link)
    files.fsync_dir(root)
    log.info("%s: linked to %s, whose files are taken as they are (only archives have official sizes and SHA-256)", root, folder)


def _unpack(path, archive, sha256, location, root, record, done):
    """Unpack a verified archive into `root`; the record claims its folders first, so that after a crash they are known as ours to replace."""
    names = extract.folders(path, archive.members)
    for name in names:
        owner = next((other for other, entry in record["archives"].items() if name in entry["folders"]), None)
        if owner in done and owner != archive.path:
            raise UserError("{} and {} both hold {}/: correct the manifest".format(owner, archive.path, name))
        if owner is None and name not in record["links"] and os.path.lexists(os.path.join(root, name)):
            raise UserError("{} is there and was not made by this command: move it away or choose another data.root".format(os.path.join(root, name)))
        if owner is not None and owner != archive.path:
            record["archives"][owner]["complete"] = False
            del record["archives"][owner]["folders"][name]
            if not record["archives"][owner]["folders"]:
                del record["archives"][owner]
        record["links"].pop(name, None)
    entry = {"sha256": sha256, "bytes": os.stat(path).st_size, "source": location, "members": archive.members, "folders": names, "complete": False}
    record["archives"][archive.path] = entry
    _write_record(root, record)
    log.info("unpacking %s", path)
    extract.extract(path, root, archive.members)
    entry["bytes_of_folders"] = {name: _measure(os.path.join(root, name))[1] for name in names}
    entry["complete"] = True
    _write_record(root, record)


def _is_unpacked(record, archive, root, sha256, location):
    """Whether the folders of an archive (known by its SHA-256, or else by where it comes from) are there with all of their files."""
    entry = record["archives"].get(archive.path)
    if not entry or not entry["complete"] or entry["members"] != archive.members:
        return False
    if entry["sha256"] != sha256 if sha256 else entry["source"] != location:
        return False
    return _is_whole(root, entry)


def _is_whole(root, entry):
    """Whether the folders of an archive have all files, of the sizes that were unpacked."""
    for name, count in entry["folders"].items():
        expected = count, entry.get("bytes_of_folders", {}).get(name)
        found = _measure(os.path.join(root, name))
        if found != expected:
            log.warning(
                "%s has %d files of %d and %d bytes of %s: it has to be unpacked again",
                os.path.join(root, name),
                found[0],
                count,
                found[1],
                expected[1],
            )
            return False
    return True


def _withdraw(root, record, paths):
    """Note in the record that archives have to be unpacked again."""
    for path in paths:
        record["archives"][path]["complete"] = False
    if paths:
        _write_record(root, record)


def _make_synthetic(values, root):
    """Write the archives of the synthetic data set into <root>/archives, unless they are there for the same values; return that folder."""
    from mtc.data import synthetic  # draws with OpenCV, which no other source needs

    folder, making = os.path.join(root, "archives"), os.path.join(root, "archives.making")
    wanted, mark = dict(dataclasses.asdict(values), generator=synthetic.VERSION), os.path.join(folder, "synthetic.json")
    if files.read_json(mark) == wanted:
        return folder
    if not os.path.exists(mark) and any(name.endswith(extract.ENDINGS) for _, _, names in os.walk(folder) for name in names):
        raise UserError("{} holds archives of another source: choose another data.root for fetch.source=synthetic".format(folder))
    shutil.rmtree(making, ignore_errors=True)
    os.makedirs(making)
    log.info("making the synthetic data set in %s", folder)
    synthetic.write_archives(values, making)
    files.write_json(os.path.join(making, "synthetic.json"), wanted)
    extract.publish(making, folder)
    return folder


def _forget_synthetic(root):
    """A downloaded archive is about to take the place of a synthetic one: what is in archives/ is then no synthetic data set any more."""
    mark = os.path.join(root, "archives", "synthetic.json")
    if os.path.exists(mark):
        os.unlink(mark)


def _target(root, archive):
    return os.path.join(root, "archives", *archive.path.split("/"))


def _count(folder, ending=""):
    return sum(name.endswith(ending) for _, _, names in os.walk(folder) for name in names)


def _measure(folder):
    """Return (files, bytes) below a folder."""
    sizes = [os.lstat(os.path.join(path, name)).st_size for path, _, names in os.walk(folder) for name in names]
    return len(sizes), sum(sizes)


def _read_record(root):
    path = os.path.join(root, RECORD)
    try:
        record = files.read_json(path) or {}
    except ValueError:
        raise UserError("{} is not JSON: delete it together with the folders that it describes, and fetch again".format(path)) from None
    return {"archives": record.get("archives", {}), "links": record.get("links", {})}


def _write_record(root, record):
    files.write_json(os.path.join(root, RECORD), dict(record, v=1))
