"""The checkpoints of a run directory: what each weighs, its digests, and where it was uploaded to.

A directory counts as a checkpoint when its MANIFEST.json is there and each file in it has the size that the manifest gives; digests are those that
were taken when the checkpoint was saved (the newest one is verified byte by byte when it is evaluated).
"""

import os
import re

from mtc import files


def checkpoints(run_dir, uploads):
    """Return (good, damaged): rows of the checkpoints on disk by ascending step, and names of directories that are none.

    uploads: {step: upload line of the journal}. A row has step, name, path, bytes, files (their number), manifest_sha256, data (name of the largest
    file), data_sha256, uploaded (URI or None).
    """
    folder = os.path.join(run_dir, "checkpoints")
    good, damaged = [], []
    names = os.listdir(folder) if os.path.isdir(folder) else []
    for name in sorted(name for name in names if re.match(r"step-\d+$", name)):
        row = _row(os.path.join(folder, name))
        if row is None:
            damaged.append(name)
            continue
        row["uploaded"] = uploads.get(row["step"], {}).get("uri")
        good.append(row)
    return sorted(good, key=lambda row: row["step"]), damaged


def _row(path):
    manifest = os.path.join(path, "MANIFEST.json")
    try:
        content = files.read_json(manifest)
        parts = content["files"]
        if any(os.path.getsize(os.path.join(path, part)) != facts["bytes"] for part, facts in parts.items()):
            return None
        data = max(parts, key=lambda part: (parts[part]["bytes"], part))
        return {
            "step": int(content["step"]),
            "name": os.path.basename(path),
            "path": os.path.abspath(path),
            "bytes": sum(facts["bytes"] for facts in parts.values()) + os.path.getsize(manifest),
            "files": len(parts) + 1,
            "manifest_sha256": files.sha256(manifest),
            "data": data,
            "data_sha256": parts[data]["sha256"],
        }
    except (OSError, ValueError, KeyError, TypeError):  # a manifest that is missing, torn or of another form
        return None
