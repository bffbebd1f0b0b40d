#!/usr/bin/env python3
"""Asks pip-audit for known vulnerabilities of every package that requirements/ names.

  audit.py [--service osv] [--osv-url URL]     URL: a local copy of the OSV API, for machines without the network

Exit status 1 when one is known, 2 when the advisory data could not be reached for every package: then nothing is known
either way, and the packages are named. Not part of make check, which must pass without the network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def audit(path: Path, options: list[str]) -> tuple[list[str], list[str]] | None:
    """(vulnerable, not audited) of one lock, each as text; None when pip-audit gave no answer."""
    command = [sys.executable, "-m", "pip_audit", "-f", "json", "--disable-pip", "--progress-spinner", "off"]
    hashed = ["--require-hashes"] if "--hash" in path.read_text() else ["--no-deps"]
    done = subprocess.run([*command, *hashed, *options, "-r", path], capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"{path.name}: {done.stderr.strip().splitlines()[-1:] or 'no answer'}")
        return None
    known = [
        f"{package['name']} {package['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
        for package in found
        for fault in package.get("vulns", ())
    ]
    return known, [package["name"] for package in found if "skip_reason" in package]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--service", default="pypi", choices=["pypi", "osv", "esms"])
    parser.add_argument("--osv-url", metavar="URL")
    args = parser.parse_args()
    options = ["-s", args.service, *(["--osv-url", args.osv_url] if args.osv_url else [])]
    vulnerable, unknown = set(), set()
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        answer = audit(path, options)
        if answer is None:
            unknown.add(path.name)
            continue
        vulnerable.update(answer[0])
        unknown.update(answer[1])
    for line in sorted(vulnerable):
        print(line)
    if unknown:
        print(f"not audited, the advisory data was not reached: {', '.join(sorted(unknown))}")
    print(f"{len(vulnerable)} known vulnerabilities")
    return 1 if vulnerable else 2 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
