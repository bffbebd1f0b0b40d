#!/usr/bin/env python3
"""Checks that the repository stays small to clone: the files that git tracks or would track, and their history.

A shallow clone knows only a part of the history; the line printed says so. Prints one line per finding; exit status 1
when there are any.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_CLONE_BYTES = 56 << 20  # files and history together; room for one more demo model
MAX_FILE_BYTES = 2 << 20  # of any file not listed here
LARGER = {"python/llama4rt/demo/demo.l4e": 10_000_000}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main() -> int:
    names = git("ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    sizes = {name: (ROOT / name).stat().st_size for name in names if (ROOT / name).is_file()}
    findings = [
        f"{name}: {size:,} bytes; at most {LARGER.get(name, MAX_FILE_BYTES):,}"
        for name, size in sizes.items()
        if size > LARGER.get(name, MAX_FILE_BYTES)
    ]
    files, history = sum(sizes.values()), int(git("rev-list", "--objects", "--disk-usage", "HEAD"))
    if files + history > MAX_CLONE_BYTES:
        findings.append(
            f"a clone: {files:,} bytes of files and {history:,} of history; at most {MAX_CLONE_BYTES:,} together"
        )
    for finding in findings:
        print(finding)
    if not findings:
        shallow = git("rev-parse", "--is-shallow-repository").strip() == "true"
        part = " that is here (a shallow clone)" if shallow else ""
        print(
            f"size: {files / 2**20:.1f} MiB in {len(sizes)} files, {history / 2**20:.1f} MiB of history{part}"
        )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
