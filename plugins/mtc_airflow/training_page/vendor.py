"""`python -m mtc_airflow.training_page.vendor`: brings the front end's libraries from the npm registry (part of `make setup`).

vendor.json names each package, its version, the digest that the registry publishes for it (Subresource Integrity), and the files that are used. What
is there already in that version is left alone. Uses the registry of NPM_CONFIG_REGISTRY, or the public one; npm itself is not needed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / "static" / "vendor"
REGISTRY = "https://registry.npmjs.org"
SECONDS = 60


def main() -> int:
    """Bring what is missing; returns the exit code."""
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY
    for name, package in json.loads((HERE / "vendor.json").read_text()).items():
        marker, wanted = FOLDER / name / "VERSION", f"{package['version']} {package['integrity']}\n"
        if marker.is_file() and marker.read_text() == wanted and all((FOLDER / name / Path(f).name).is_file() for f in package["files"]):
            continue
        url = f"{registry.rstrip('/')}/{name}/-/{name}-{package['version']}.tgz"
        try:
            with urllib.request.urlopen(url, timeout=SECONDS) as answer:
                data = answer.read()
        except (OSError, urllib.error.URLError) as error:
            print(f"{url}: {getattr(error, 'reason', error)}", file=sys.stderr)
            return 1
        digest = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        if digest != package["integrity"]:
            print(f"{url}: its digest is {digest}, expected {package['integrity']}", file=sys.stderr)
            return 1
        unpack(data, package["files"], FOLDER / name)
        marker.write_text(wanted)
    return 0


def unpack(data: bytes, files: list[str], target: Path) -> None:
    """Write the named files of an npm package, by their last name, into a folder."""
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for file in files:
            member = archive.extractfile(f"package/{file}")
            temporary = target / (Path(file).name + ".tmp")
            temporary.write_bytes(member.read())
            temporary.replace(target / Path(file).name)


if __name__ == "__main__":
    sys.exit(main())
