"""`llama4rt pull`, `list` and `rm`, and commands that take the demo model or refuse before they build."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from random_checkpoints import SMALL, random_values, write_values


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMA4RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_values(tmp_path / "source", SMALL, random_values(SMALL))


def llama4rt(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llama4rt", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stderr
    return done


def test_pull_list_rm(cache: Path, source: Path) -> None:
    assert "0 files" in llama4rt("list").stdout
    path = Path(llama4rt("pull", str(source), "-t", "1").stdout.strip())
    assert path.parent == cache and path.is_file()
    assert llama4rt("pull", str(source), "-t", "1").stdout.strip() == str(path)
    other = Path(llama4rt("pull", str(source), "-t", "1", "--weights", "bf16").stdout.strip())
    assert other != path
    (cache / "other-0.l4e.tmp").write_bytes(b"x" * 10_000)
    (cache / "other-0.l4e.journal").write_bytes(b"{}")
    (cache / "bad.l4e").write_bytes(b"no engine")
    (cache / "not ours").write_bytes(b"")
    told = llama4rt("list").stdout
    assert (
        path.stem in told
        and "source" in told
        and "an interrupted build" in told
        and "cannot be opened" in told
    )
    listed = json.loads(llama4rt("list", "--json").stdout)
    assert listed["cache"] == str(cache) and {e["name"] for e in listed["engines"]} == {
        path.stem, other.stem, "bad", "other-0.l4e.tmp", "other-0.l4e.journal",
    }  # fmt: skip
    assert {e["bytes"] for e in listed["engines"] if e["name"] == path.stem} == {path.stat().st_size}
    assert "means 2 engines" in llama4rt("rm", "source", code=1).stderr
    assert "no engine in" in llama4rt("rm", "absent", code=1).stderr
    assert "nothing to remove" in llama4rt("rm", code=1).stderr
    llama4rt("rm", path.stem, "bad")
    assert not path.exists() and other.exists()
    llama4rt("rm", "--unfinished")
    assert {file.name for file in cache.iterdir()} == {other.name, "not ours"}
    llama4rt("rm", "--all")
    assert {file.name for file in cache.iterdir()} == {"not ours"}


def test_what_cannot_answer_is_not_built(cache: Path, source: Path) -> None:
    """A checkpoint without a tokenizer: text is refused at once, and token ids are taken."""
    for command in (["generate", str(source), "-p", "hi"], ["chat", str(source)]):
        said = llama4rt(*command, "-t", "1", code=1).stderr
        assert "needs a tokenizer" in said and "nothing was built" in said
    assert not cache.exists()
    llama4rt("generate", str(source), "--token-ids", "1,2", "-n", "2", "-t", "1")
    assert "needs a tokenizer" in llama4rt("chat", str(source), "-t", "1", code=1).stderr


def test_without_a_file_it_is_the_demo(cache: Path) -> None:
    small = ("-t", "1", "--kv-cache-memory", "32MiB", "--max-model-len", "512")
    assert llama4rt("generate", "-p", "Hello", "-n", "4", *small).stdout.strip()
    assert "demo.l4e" in llama4rt("bench", "-p", "8", "-n", "4", "-r", "1", *small).stdout
    assert not cache.exists()
