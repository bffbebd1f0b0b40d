#!/usr/bin/env python3
"""Checks that no line of a Markdown page, tables included, is wider than 120 columns.

Reads only files that git tracks or would track. Prints one line per finding; exit status 1 when there are any.
"""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_COLUMNS = 120


def columns(text: str) -> int:
    """Of a terminal or an editor with a fixed-width font: East Asian wide characters take two, marks none."""
    width = {"W": 2, "F": 2}
    return sum(
        0 if unicodedata.combining(character) else width.get(unicodedata.east_asian_width(character), 1)
        for character in text
    )


def main() -> int:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    pages = [ROOT / name for name in names if (ROOT / name).is_file()]
    findings = [
        f"{page.relative_to(ROOT)}:{number}: {columns(line)} columns; at most {MAX_COLUMNS}"
        for page in pages
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if columns(line) > MAX_COLUMNS
    ]
    for finding in findings:
        print(finding)
    if not findings:
        print(f"Markdown: {len(pages)} pages of at most {MAX_COLUMNS} columns")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
