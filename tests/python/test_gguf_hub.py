"""Labels: which GGUF files of a hub repository owner/name:Q4_K_M means; no others are downloaded. No network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import gguf_worker
import huggingface_hub
import pytest
from gguf_models import small_gguf
from llama4rt import build
from llama4rt._core import EngineFile
from llama4rt.convert.engine_cache import engine_path
from llama4rt.convert.formats.gguf.hub import choose_model, choose_vision, label_of
from llama4rt.errors import CheckpointError

REVISION = "0123456789abcdef0123456789abcdef01234567"
UNSLOTH = [
    "README.md",
    "config.json",
    "Llama-4-Scout-17B-16E-Instruct-Q2_K.gguf",
    "Llama-4-Scout-17B-16E-Instruct-UD-IQ1_S.gguf",
    *(f"UD-Q4_K_XL/Llama-4-Scout-17B-16E-Instruct-UD-Q4_K_XL-0000{i}-of-00002.gguf" for i in (1, 2)),
    *(f"Q4_K_M/Llama-4-Scout-17B-16E-Instruct-Q4_K_M-0000{i}-of-00002.gguf" for i in (2, 1)),
    *(f"BF16/Llama-4-Scout-17B-16E-Instruct-BF16-0000{i}-of-00005.gguf" for i in range(1, 6)),
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
]


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("Llama-4-Scout-17B-16E-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("UD-Q4_K_XL/Llama-4-Scout-17B-16E-Instruct-UD-Q4_K_XL-00001-of-00002.gguf", "UD-Q4_K_XL"),
        ("meta-llama_Llama-4-Scout-17B-16E-Instruct-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model.Q8_0.gguf", "Q8_0"),
        ("model-f16.gguf", "f16"),
        ("mmproj-BF16.gguf", "BF16"),
        ("Q4_0.gguf", "Q4_0"),
        ("scout-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("scout-TQ1_0.gguf", "TQ1_0"),
        ("my-own-file.gguf", "my-own-file"),
    ],
)
def test_labels_of_files(file: str, label: str) -> None:
    assert label_of(file) == label


@pytest.mark.parametrize(
    ("label", "files"),
    [
        ("Q2_K", UNSLOTH[2:3]),
        ("q2_k", UNSLOTH[2:3]),
        ("UD-IQ1_S", UNSLOTH[3:4]),
        ("UD-Q4_K_XL", UNSLOTH[4:6]),
        ("Q4_K_M", sorted(UNSLOTH[6:8])),
        ("Llama-4-Scout-17B-16E-Instruct-Q2_K.gguf", UNSLOTH[2:3]),
        ("Llama-4-Scout-17B-16E-Instruct-Q4_K_M", sorted(UNSLOTH[6:8])),
        ("UD-Q4_K_XL/Llama-4-Scout-17B-16E-Instruct-UD-Q4_K_XL-00001-of-00002.gguf", UNSLOTH[4:6]),
    ],
)
def test_a_label_means_all_parts_of_one_model(label: str, files: list[str]) -> None:
    assert choose_model("a/b", UNSLOTH, label) == files


def test_what_a_label_does_not_mean() -> None:
    with pytest.raises(CheckpointError) as error:
        choose_model("a/b:Q4", UNSLOTH, "Q4")
    assert str(error.value) == (
        "a/b:Q4: none of its 5 GGUF models is called 'Q4': BF16, Q2_K, Q4_K_M, UD-IQ1_S, UD-Q4_K_XL"
    )
    twice = ["one-Q4_0.gguf", "two-Q4_0.gguf", "two-Q8_0.gguf"]
    with pytest.raises(
        CheckpointError, match=r"2 of its GGUF models are called 'Q4_0'; .*: one-Q4_0.gguf, two"
    ):
        choose_model("a/b", twice, "Q4_0")
    assert choose_model("a/b", twice, "two-Q4_0.gguf") == ["two-Q4_0.gguf"]
    with pytest.raises(CheckpointError, match=r"none of its 0 GGUF models is called 'Q4_0'$"):
        choose_model("a/b", ["model.safetensors", "mmproj-Q4_0.gguf"], "Q4_0")


def test_vision_towers() -> None:
    assert choose_vision("a/b", UNSLOTH, "F16") == "mmproj-F16.gguf"
    assert choose_vision("a/b", UNSLOTH, "mmproj-BF16.gguf") == "mmproj-BF16.gguf"
    assert choose_vision("a/b", UNSLOTH[:-1], "auto") == "mmproj-BF16.gguf"
    with pytest.raises(CheckpointError, match="has 2 vision towers: BF16, F16; --mmproj must name one"):
        choose_vision("a/b", UNSLOTH, "auto")
    with pytest.raises(CheckpointError, match="has 0 vision towers; --mmproj"):
        choose_vision("a/b", UNSLOTH[:4], "auto")


class Hub:
    """In the place of huggingface_hub: a repository of small models in several types and folders."""

    def __init__(self, root: Path) -> None:
        self.snapshot = root / "models--someone--small" / "snapshots" / REVISION
        self.remote = root / "remote"
        (self.remote / "Q8_0").mkdir(parents=True)
        model = gguf_worker.victim()
        (self.remote / "small-Q4_0.gguf").write_bytes(model)
        (self.remote / "Q8_0" / "small-Q8_0.gguf").write_bytes(model)
        (self.remote / "LICENSE").write_text("a licence")
        (self.remote / "README.md").write_text("words")
        self.asked: list[tuple[str, str | None]] = []

    def snapshot_download(
        self, name: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        self.asked.append((name, revision))
        for path in self.remote.rglob("*"):
            file = path.relative_to(self.remote)
            if path.is_file() and any(fnmatch(str(file), pattern) for pattern in allow_patterns):
                (self.snapshot / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.snapshot / file)
        return str(self.snapshot)

    def list_repo_files(self, name: str, revision: str | None = None) -> list[str]:
        return [str(p.relative_to(self.remote)) for p in self.remote.rglob("*") if p.is_file()]

    def downloaded(self) -> list[str]:
        return sorted(str(p.relative_to(self.snapshot)) for p in self.snapshot.rglob("*") if p.is_file())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    return made


def test_one_model_of_a_repository_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    build("someone/small:Q4_0", tmp_path / "a.l4e")
    assert hub.downloaded() == ["LICENSE", "small-Q4_0.gguf"]
    metadata = EngineFile(str(tmp_path / "a.l4e")).metadata
    source = json.loads(metadata["source"])
    assert (source["name"], source["revision"]) == ("someone/small:Q4_0", REVISION)
    assert json.loads(metadata["licenses"]) == ["LICENSE", "NOTICE.gguf.txt"]
    build("someone/small@v2:q8_0", tmp_path / "b.l4e")  # in a folder of its own
    assert hub.asked[-1] == ("someone/small", "v2") and "Q8_0/small-Q8_0.gguf" in hub.downloaded()
    source = json.loads(EngineFile(str(tmp_path / "b.l4e")).metadata["source"])
    assert (source["name"], source["revision"]) == ("someone/small:q8_0", REVISION)


def test_without_a_label_the_models_are_listed(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"^someone/small: holds GGUF models; name one as .*: Q4_0, Q8_0$"
    ):
        build("someone/small", tmp_path / "a.l4e")
    with pytest.raises(CheckpointError, match="has 0 vision towers"):
        build("someone/small:Q4_0", tmp_path / "a.l4e", mmproj="auto")


def test_the_cache_knows_engines_of_gguf_files(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA4RT_CACHE", str(tmp_path / "cache"))
    file = hub.remote / "small-Q4_0.gguf"
    notes: list[str] = []
    path = engine_path(str(file), notify=notes.append)
    assert path.parent == tmp_path / "cache" and any("building" in note for note in notes)
    notes.clear()
    assert engine_path(str(file), notify=notes.append) == path and not notes
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)
    assert engine_path(str(file)) != path
    labelled = engine_path("someone/small:Q8_0", notify=notes.append)
    assert labelled.name.startswith("someone_small_Q8_0-") and any("on the hub" in note for note in notes)
    with pytest.raises(CheckpointError, match="vision tower"):
        engine_path(str(file), mmproj="auto")


def test_offline_what_was_downloaded_is_found(tmp_path: Path) -> None:
    """In a process of its own, as huggingface_hub reads its environment when it is imported."""
    repo = tmp_path / "home" / "hub" / "models--someone--small"
    snapshot = repo / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(REVISION)
    (snapshot / "small-Q4_0.gguf").write_bytes(gguf_worker.victim())
    program = (
        "import sys, llama4rt\n"
        "llama4rt.build('someone/small:Q4_0', sys.argv[1])\n"
        "try: llama4rt.build('someone/small:Q8_0', sys.argv[1])\n"
        "except llama4rt.CheckpointError as error: print(error)"
    )
    environment = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": ":".join(filter(None, sys.path)),
    }
    command = [sys.executable, "-c", program, str(tmp_path / "a.l4e")]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert done.stdout == "someone/small:Q8_0: none of its 1 GGUF models is called 'Q8_0': Q4_0\n"
    assert (tmp_path / "a.l4e").is_file()


@pytest.mark.parametrize("source", ["a/b:", "a/b:../c", ":Q4", "a:b", "a/b:c d", "a/b:-x", "a/b@x:"])
def test_what_is_no_label(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> str:
        raise AssertionError("nothing that is no hub id is ever sent to the hub")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub, "HfApi", refuse)
    with pytest.raises(CheckpointError, match="no such directory"):
        build(source, tmp_path / "a.l4e")


def test_files_that_are_no_models_have_their_own_words(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(small_gguf({"general.architecture": "clip"}, {}))
    with pytest.raises(CheckpointError, match="is a vision tower and no model; name it with --mmproj"):
        build(tmp_path / "m.gguf", tmp_path / "a.l4e")
