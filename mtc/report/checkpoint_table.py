"""The checkpoints of a run directory: what each weighs, its digests, and where it was uploaded to.

Reading every byte of every checkpoint of a long run would take hours, so only the newest good one is verified in full (`mtc.training.checkpoints`);
an older one counts when each file has the size that its manifest gives. Digests are those that were taken when the checkpoint was saved.
"""

import os
import re

from mtc import files


def checkpoints(run_dir, history, newest_good):
    """Return (rows of the checkpoints on disk by ascending step, names of directories that are no good checkpoint).

    history: `mtc.report.history.History`. newest_good: directory, or None; what is newer was found to be damaged. A row has step, name, path, bytes,
    files (their number), manifest_sha256, data (name of the largest file), data_sha256, uploaded (URI or None), remote: "uploaded", "removed" (by the
    storage's retention) or "missing".
    """
    folder = os.path.join(run_dir, "checkpoints")
    rows, damaged = [], []
    names = os.listdir(folder) if os.path.isdir(folder) else []
    last = _step(os.path.basename(newest_good)) if newest_good else -1
    for name in sorted((name for name in names if re.match(r"step-\d+$", name)), key=_step):
        row = _row(os.path.join(folder, name)) if _step(name) <= last else None
        if row is None:
            damaged.append(name)
            continue
        row["uploaded"] = history.uploads.get(row["step"], {}).get("uri")
        row["remote"] = "uploaded" if row["uploaded"] else "removed" if row["step"] in history.removed else "missing"
        rows.append(row)
    return rows, damaged


def _step(name):
    return int(name[len("step-") :])


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
