#!/usr/bin/env python3
"""Checks every Markdown page of the repository: lines of at most 120 columns, links that lead somewhere, and tables
whose cells hold fewer than four numbers.

A link within the repository must name a file that exists, and its #anchor a heading of that page; README's are
absolute, because the package index shows it too. Links to other servers are not followed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "https://github.com/llama4rt/llama4rt/blob/main/"
MAX_COLUMNS = 120
MAX_NUMBERS = 3
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"`[^`]*`")
# A number in a table: 12, 1,107, 0.0025, 8.0e-4. Numbers inside words (int8, sm_90) and in ranges do not count.
NUMBER = re.compile(r"(?<![\w.^/-])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w^/])")
RANGE = re.compile(r"\b(\d[\d.,]*) (?:to|\.\.|x) (?=\d)")


def pages() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and lines outside fenced code."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def anchors(text: str) -> set[str]:
    """Headings as GitHub turns them into anchors."""
    headings = [line.lstrip("#").strip() for _, line in prose(text) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_links(path: Path, text: str) -> Iterator[str]:
    joined = "\n".join(line if line else "\0" for _, line in prose(text))  # a link may break over two lines
    for target in LINK.findall(joined):
        absolute = target.startswith(PROJECT)
        if re.match(r"[a-z]+:", target) and not absolute:
            continue
        if not absolute and path == ROOT / "README.md" and not target.startswith("#"):
            yield f"{target}: not absolute, and so no link on the package index"
        name, _, anchor = target.removeprefix(PROJECT).partition("#")
        page = ((ROOT if absolute else path.parent) / name).resolve() if name else path
        if not page.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(page.read_text()):
            yield f"{target}: no such heading"


def check_tables(text: str) -> Iterator[tuple[int, str]]:
    for number, line in prose(text):
        if not line.startswith("|"):
            continue
        for cell in re.split(r"(?<!\\)\|", line)[1:-1]:
            plain = RANGE.sub("", CODE_SPAN.sub("", cell))
            if len(NUMBER.findall(plain)) > MAX_NUMBERS:
                yield number, f"a cell with more than {MAX_NUMBERS} numbers: {cell.strip()}"


def findings() -> Iterator[str]:
    for path in pages():
        text = path.read_text()
        name = path.relative_to(ROOT)
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > MAX_COLUMNS:
                yield f"{name}:{number}: {len(line)} columns; at most {MAX_COLUMNS}"
        yield from (f"{name}: {problem}" for problem in check_links(path, text))
        yield from (f"{name}:{number}: {problem}" for number, problem in check_tables(text))


def main() -> int:
    found = list(findings())
    for finding in found:
        print(finding)
    print("pages: nothing found" if not found else f"pages: {len(found)} found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
