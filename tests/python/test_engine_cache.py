"""The engine cache: an engine is found again when nothing changed, and built anew when anything did."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama4rt.convert import engine_cache, source_state
from llama4rt.convert.engine_cache import engine_path
from llama4rt.errors import EngineFileError
from random_checkpoints import SMALL, random_values, write_values

LARGE = 3 << 20  # bytes of a file that is sampled, not hashed whole
BuiltPath = Callable[..., Path]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_values(tmp_path / "source", SMALL, random_values(SMALL))


@pytest.fixture
def find(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, bool]]:
    """find(**options) -> (the engine's path, whether it was built for this call)."""
    monkeypatch.setenv("LLAMA4RT_CACHE", str(tmp_path / "cache"))

    def ask(where: Path | None = None, **options: Any) -> tuple[Path, bool]:
        notes: list[str] = []
        path = engine_path(str(where or source), notify=notes.append, num_threads=1, **options)
        return path, any("building" in note for note in notes)

    return ask


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Changes a file and gives it its old time: as `cp -p`, or an archive with fixed times."""
    state, before = path.stat(), path.read_bytes()
    after = change(before)
    assert after != before and len(after) == len(before)
    path.write_bytes(after)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_an_engine_is_found_again(
    find: Callable[..., tuple[Path, bool]], source: Path, tmp_path: Path
) -> None:
    path, built = find()
    assert built and path.parent == tmp_path / "cache"
    assert find() == (path, False)
    assert find(weights=None) == (path, False)  # an option that says nothing
    (source / "README.md").write_text("no part of an engine")
    assert find() == (path, False)
    assert engine_path(str(path)) == path
    with pytest.raises(EngineFileError, match="no such file"):
        engine_path(str(tmp_path / "absent.l4e"))


def grow(source: Path) -> None:
    (source / "config.json").write_text((source / "config.json").read_text() + " ")


def flip_weight(source: Path) -> None:
    """The last number of the last tensor: same name, same size, same time."""
    rewrite(source / "model.safetensors", lambda data: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])


def write_tool_use(source: Path) -> None:
    path = source / "additional_chat_templates" / "tool_use.jinja"
    path.parent.mkdir()
    path.write_text("x")


CHANGES: dict[str, Callable[[Path], None]] = {
    "a weight, with size and time as before": flip_weight,
    "the time of the weights alone": lambda source: os.utime(source / "model.safetensors"),
    "the time of the config alone": lambda source: os.utime(source / "config.json"),
    "the size of the config": grow,
    "the config, with size and time as before": lambda source: rewrite(
        source / "config.json", lambda data: data.replace(b'"rms_norm_eps": 1e-05', b'"rms_norm_eps": 1e-06')
    ),
    "a new licence": lambda source: (source / "LICENSE").write_text("a licence") and None,
    "a new chat template": lambda source: (source / "chat_template.jinja").write_text("x") and None,
    "a new chat template for tools": write_tool_use,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_checkpoint_is_built_anew(
    change: str, find: Callable[..., tuple[Path, bool]], source: Path
) -> None:
    first, _ = find()
    CHANGES[change](source)
    second, built = find()
    assert built and second != first


@pytest.mark.parametrize("at", [0, 17, LARGE // 2, LARGE - 1])
def test_large_files_are_sampled_in_many_places(at: int, tmp_path: Path) -> None:
    """Training changes every page; the samples are a page every few, the first and the last among them."""
    path = tmp_path / "large"
    path.write_bytes(bytes(LARGE))
    before = source_state._sample(path)
    page = at // 4096 * 4096
    span = LARGE // 63  # more than the distance of two samples
    rewrite(path, lambda data: data[:page] + b"\1" * span + data[page + span :] if page + span <= LARGE
            else data[: LARGE - 1] + b"\1")  # fmt: skip
    assert source_state._sample(path) != before


def test_other_options_directories_and_versions_are_other_engines(
    find: Callable[..., tuple[Path, bool]], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {find()[0]}
    for options in (
        {"weights": "int8"},
        {"group_size": 32},
        {"target": "cuda"},
        {"weights": "int8", "group_size": 32},
    ):
        path, built = find(**options)
        assert built and path not in found
        found.add(path)
    copy = Path(shutil.copytree(source, tmp_path / "elsewhere" / "source"))
    path, built = find(copy)
    assert built and path not in found
    monkeypatch.setattr(engine_cache, "ENGINE_CONTENTS", "what a later version writes")
    path, built = find()
    assert built and path not in found


def test_a_link_that_is_moved_on_is_another_engine(
    find: Callable[..., tuple[Path, bool]], source: Path, tmp_path: Path
) -> None:
    """`current -> v1`, later `current -> v2`."""
    other = Path(shutil.copytree(source, tmp_path / "v2"))
    link = tmp_path / "current"
    link.symlink_to(source)
    first, _ = find(link)
    link.unlink()
    link.symlink_to(other)
    second, built = find(link)
    assert built and second != first
