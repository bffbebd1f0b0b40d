"""Hub ids: what is asked of huggingface_hub, and what a person hears when it cannot answer. No network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from llama4rt import build
from llama4rt._core import EngineFile
from llama4rt.convert.locate import locate
from llama4rt.errors import CheckpointError, Llama4RTError
from random_checkpoints import SMALL, random_values, write_values

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """HF_HOME with someone/small in it, as a download leaves it: a snapshot of links into blobs."""
    source = write_values(tmp_path / "source", SMALL, random_values(SMALL), shards=2)
    (source / "LICENSE").write_text("a licence")
    repo = tmp_path / "home" / "hub" / "models--someone--small"
    (repo / "blobs").mkdir(parents=True)
    (repo / "snapshots" / REVISION).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(REVISION)
    for i, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, repo / "blobs" / f"{i:040x}")
        (repo / "snapshots" / REVISION / path.name).symlink_to(Path("../../blobs") / f"{i:040x}")
    return tmp_path / "home"


def test_a_cached_model_builds_offline(hub_cache: Path, tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    program = "import sys, llama4rt; llama4rt.build('someone/small', sys.argv[1])"
    environment = {
        "HF_HOME": str(hub_cache),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": ":".join(filter(None, sys.path)),
    }
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.l4e")], check=True, env=environment)
    metadata = EngineFile(str(tmp_path / "a.l4e")).metadata
    source = json.loads(metadata["source"])
    assert (source["name"], source["revision"]) == ("someone/small", REVISION)
    assert json.loads(metadata["files"]) == ["LICENSE", "config.json"]
    snapshot = hub_cache / "hub" / "models--someone--small" / "snapshots" / REVISION
    build(snapshot, tmp_path / "b.l4e")  # the same, named by its directory
    assert (tmp_path / "a.l4e").read_bytes() == (tmp_path / "b.l4e").read_bytes()


def test_offline_without_the_model_is_a_typed_error(tmp_path: Path) -> None:
    program = (
        "import llama4rt\n"
        "try: llama4rt.build('someone/absent', 'x.l4e')\n"
        "except llama4rt.CheckpointError as error: print(error)"
    )
    environment = {
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": ":".join(filter(None, sys.path)),
    }
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "someone/absent: no such directory here, and it could not be had from the hub: "
    )
    assert done.stdout.count("\n") == 1
    assert "HF_HUB_OFFLINE" in done.stdout


def test_only_what_is_read_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = write_values(tmp_path / "source", SMALL, random_values(SMALL))
    asked: list[Any] = []

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, revision))
        names = {
            "model-00001-of-00002.safetensors": True,
            "model.safetensors.index.json": True,
            "tokenizer.model": True,
            "chat_template.jinja": True,
            "LICENSE": True,
            "LICENSE.txt": True,
            "USE_POLICY.md": True,
            "NOTICE": True,
            "README.md": False,
            "modeling_llama4.py": False,
            "consolidated.00.pth": True,
            "original/consolidated.00.pth": False,
            "pytorch_model.bin": False,
            "model.gguf": False,
        }
        for name, wanted in names.items():
            assert any(fnmatch(name, pattern) for pattern in allow_patterns) is wanted, name
        return str(source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    build("someone/small", tmp_path / "a.l4e")
    build("someone/small@refs/pr/1", tmp_path / "b.l4e")
    assert asked == [("someone/small", None), ("someone/small", "refs/pr/1")]
    assert json.loads(EngineFile(str(tmp_path / "a.l4e")).metadata["source"])["name"] == "someone/small"


@pytest.mark.parametrize(
    "error", [OSError("disk full\nmore"), ValueError("bad id"), RuntimeError(), ConnectionError("refused")]
)
def test_every_failure_of_the_client_is_typed(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo_id: str, **_: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    reason = str(error).split("\n")[0] or type(error).__name__
    with pytest.raises(CheckpointError, match=f"someone/model: .*{reason}"):
        locate("someone/model")


def test_ctrl_c_during_a_download_stays_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo_id: str, **_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(KeyboardInterrupt):
        locate("someone/model")


@pytest.mark.parametrize(
    "source",
    ["nowhere", "./nowhere", "/no/such/place", "a/b/c", "~/x", "a/..", "../b", "", "a b/c", "-x/y", "a/b\n"],
)
def test_what_is_neither_directory_nor_hub_id(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing that looks like a path is ever sent to the hub."""

    asked: list[str] = []

    def snapshot_download(repo_id: str, **_: Any) -> str:
        asked.append(repo_id)
        return str(tmp_path)

    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(Llama4RTError):
        build(source, tmp_path / "out.l4e")
    assert asked == []


def test_a_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file; expected a checkpoint directory"):
        locate(tmp_path / "model.safetensors")
