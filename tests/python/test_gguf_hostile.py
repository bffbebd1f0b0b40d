"""Damaged and hostile GGUF files, read by gguf_worker.py in a process of its own: each is read or is a typed error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf_worker
import pytest


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim.gguf"
    path.write_bytes(gguf_worker.victim())
    return path


def run_worker(path: Path, *arguments: object) -> dict[str, int]:
    command = [sys.executable, gguf_worker.__file__, str(path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=7200, check=False)
    progress = Path(f"{path}-progress")
    last = progress.read_text() if progress.exists() else "none"
    assert done.returncode == 0, f"case {last} of {arguments}: exit {done.returncode}\n{done.stderr[-4000:]}"
    result = json.loads(done.stdout)
    print(result)
    assert result["wrong_count"] == 0, result["wrong"]
    ends: dict[str, int] = result["ends"]
    return ends


def test_the_good_file_works(victim: Path) -> None:
    assert gguf_worker.exercise(victim, whole=False) == "read"
    assert gguf_worker.exercise(victim, whole=True) == "built"


def test_truncations(victim: Path, soak: bool) -> None:
    ends = run_worker(victim, "truncate", 7 if soak else 211)
    assert set(ends) == {"CheckpointError"}


def test_mutations(victim: Path, soak: bool) -> None:
    """In a soak run 100,000."""
    ends = run_worker(victim, "mutate", 0, 100_000 if soak else 1500)
    assert set(ends) == {"read", "built", "CheckpointError", "ConfigError"}
    assert ends["read"] + ends["built"] > sum(ends.values()) // 20
