#!/usr/bin/env python3
"""Fetches the JavaScript that the server's page uses, as python/llama4rt/server/page/vendor/vendor.json names it.

That file is the one place where packages of the npm registry, their versions and the hashes of their files stand. To
take another version: change it there, run `vendor_page.py --update`, and look at what changed. Without an option,
what is fetched must have the hashes that are written down. Needs npm; nothing of a package is run.

The licences of fonts are not in their package: `LICENSE-FONTS` is written by hand and has a hash as all files do.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = (
    ROOT / "python/llama4rt/server/page/vendor/vendor.json",
    ROOT / "tests/python/vendor/vendor.json",  # what only tests run
)


def packed(name: str, version: str, folder: Path) -> Path:
    """The package as the registry has it."""
    command = ["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{version}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return folder / done.stdout.split()[-1]


def integrity(path: Path) -> str:
    """As npm's lock files write it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def fetch(manifest: Path, *, update: bool) -> list[str]:
    """Writes every file of the manifest beside it; returns what is not as it says."""
    wanted: dict[str, Any] = json.loads(manifest.read_text())
    findings = []
    for package in wanted["packages"]:
        with tempfile.TemporaryDirectory() as scratch:
            tarball = packed(package["name"], package["version"], Path(scratch))
            found = integrity(tarball)
            if update:
                package["integrity"] = found
            elif package["integrity"] != found:
                findings.append(f"{package['name']}: {found}; expected {package['integrity']}")
                continue
            with tarfile.open(tarball) as archive:
                for name, entry in package["files"].items():
                    findings += _place(archive, manifest.parent / name, entry, update=update)
    if update:
        manifest.write_text(json.dumps(wanted, indent=1) + "\n")
    return findings


def _place(archive: tarfile.TarFile, target: Path, entry: dict[str, str], *, update: bool) -> list[str]:
    if "from" in entry:
        member = archive.extractfile(f"package/{entry['from']}")
        if member is None:
            return [f"{target.name}: the package has no {entry['from']}"]
        data = member.read()
    else:
        data = target.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if update:
        entry["sha256"] = digest
    elif entry["sha256"] != digest:
        return [f"{target.name}: sha256 {digest}; expected {entry['sha256']}"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return []


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="write the hashes of what is fetched")
    update = parser.parse_args().update
    findings = [finding for manifest in MANIFESTS for finding in fetch(manifest, update=update)]
    for finding in findings:
        print(finding)
    print("vendored files: as written down" if not findings else f"vendored files: {len(findings)} differ")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
