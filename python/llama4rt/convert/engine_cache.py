"""Engines built on demand: `llama4rt generate some/checkpoint` builds once and finds the engine next time.

The cache is LLAMA4RT_CACHE, or llama4rt/ in the user's cache folder; its files are named by what they were
made from. Nothing is ever deleted here.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama4rt.convert.source_state import files_state, source_files
from llama4rt.errors import CheckpointError, EngineFileError
from llama4rt.text.vocabulary import RANKS_FILE

# Format version and what builds put in: changes when a build would make another file.
ENGINE_CONTENTS = "1, vision, int8 head, rope_scaling first, tokenizer ranks"

_TOKENIZERS = frozenset({"tokenizer.model", "tokenizer.json", RANKS_FILE})


def cache_directory() -> Path:
    """LLAMA4RT_CACHE, else $XDG_CACHE_HOME/llama4rt, else ~/.cache/llama4rt."""
    own = os.environ.get("LLAMA4RT_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llama4rt"


def is_engine_name(source: str) -> bool:
    """Whether this names an engine file, there or not, rather than something to build one from."""
    if os.path.isdir(source):
        return False
    return source.endswith(".l4e") or (os.path.exists(source) and not source.endswith(".gguf"))


def target_of(device: str) -> str | None:
    """What a checkpoint is built for when it is run on `device`; None: the default."""
    if device.startswith("cuda"):
        return "cuda"
    if device != "auto":
        return None
    from llama4rt import _core

    return "cuda" if any(not found["problem"] for found in _core.find_cuda()["devices"]) else None


def engine_path(
    source: str,
    *,
    notify: Callable[[str], None] = lambda message: None,
    progress: Callable[[int, int], None] | None = None,
    num_threads: int | None = None,
    tokenizer_for: str | None = None,
    **options: Any,
) -> Path:
    """The engine file of `source`: itself, or one in the cache that is built now if need be.

    source: an engine file, a checkpoint directory, a GGUF file, or a hub id. options: of llama4rt.build that decide
    what is in the engine; they are part of its name. notify is told before something slow happens.
    tokenizer_for: what needs a tokenizer; a checkpoint without one is refused before it is built.
    """
    if is_engine_name(source):
        if not os.path.exists(source):
            raise EngineFileError(f"{source}: no such file")
        return Path(source)
    options = {name: value for name, value in options.items() if value is not None}
    from llama4rt.convert.locate import locate, locate_vision

    if not os.path.exists(source):
        notify(f"looking for {source} on the hub")
    where, name = locate(source)
    if "mmproj" in options:
        options["mmproj"] = str(locate_vision(source, where, options["mmproj"]))
    path = cache_directory() / f"{_safe_name(name)}-{_key(where, options)}.l4e"
    if not path.is_file():
        from llama4rt.convert.build import build

        if tokenizer_for is not None:
            _require_tokenizer(where, options.get("mmproj"), tokenizer_for)
        path.parent.mkdir(parents=True, exist_ok=True)
        notify(f"building {path} from {source} (once)")
        build(where, path, num_threads=num_threads, progress=progress, **options)
    return path


def _require_tokenizer(where: Path, mmproj: str | None, what: str) -> None:
    from llama4rt.convert.locate import open_checkpoint

    checkpoint = open_checkpoint(where, mmproj)
    if not _TOKENIZERS & set(checkpoint.kept_files()):
        raise CheckpointError(
            f"{checkpoint.name}: {what} needs a tokenizer, and the checkpoint has neither tokenizer.model nor "
            "tokenizer.json: put one there (nothing was built)"
        )


def _key(where: Path, options: dict[str, Any]) -> str:
    """Names what an engine is made from: its files, those of the vision tower and adapters among them, and options."""
    from llama4rt.convert.lora.located import located_adapters

    files = source_files(where)
    if "mmproj" in options:
        files.append(Path(options["mmproj"]))
    adapters = located_adapters(options.get("lora", ()))
    state: dict[str, Any] = {
        "directory": str(where.resolve()),
        "files": files_state(files),
        "options": {name: value for name, value in options.items() if name != "lora"},
        "contents": ENGINE_CONTENTS,
    }
    if adapters:
        state["lora"] = [(files_state(source_files(path)), weight) for path, _, weight in adapters]
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]


def _safe_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:80]
