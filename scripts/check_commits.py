#!/usr/bin/env python3
"""Checks that the subjects of commits have at most 72 characters; what comes before LAST_UNCHECKED is left alone.

In a shallow clone without that commit, every commit that is there is newer and is checked; in a history that never had
it (an import, a squash), the last commit alone; without git, none. Prints one line per finding; exit status 1 when
there are any.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_SUBJECT = 72
LAST_UNCHECKED = "64160f7aff8eed0edeb53e116cbe7d991883996c"


def git(*arguments: str) -> str | None:
    """What git prints, or None when it fails or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def commits_to_check() -> list[str]:
    """Arguments of git log that select them."""
    if git("merge-base", "--is-ancestor", LAST_UNCHECKED, "HEAD") is not None:
        return [f"{LAST_UNCHECKED}..HEAD"]
    if (git("rev-parse", "--is-shallow-repository") or "").strip() == "true":
        return ["HEAD"]
    return ["-1", "HEAD"]


def main() -> int:
    log = git("log", "--format=%h %s", *commits_to_check())
    if log is None:
        print("commits: no git history here; nothing checked")
        return 0
    subjects = [line.split(" ", 1) for line in log.splitlines()]
    findings = [
        f"{commit}: a subject of {len(subject)} characters; at most {MAX_SUBJECT}, the reason goes into the body"
        for commit, subject in subjects
        if len(subject) > MAX_SUBJECT
    ]
    for finding in findings:
        print(finding)
    if not findings:
        print(f"commits: {len(subjects)} subjects of at most {MAX_SUBJECT} characters")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
