"""Engines built on demand: `llama4rt generate some/checkpoint` builds once and finds the engine again next
time.

The cache is LLAMA4RT_CACHE, or llama4rt/ in the user's cache folder; its files are named by what they were
made from. Nothing is ever deleted here.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama4rt import _core
from llama4rt.errors import CheckpointError

ENGINE_FORMAT_VERSION = "1"
# Files of a checkpoint that end up in the engine or decide what does.
_PATTERNS = (
    "*.json",
    "*.safetensors",
    "tokenizer.model",
    "*.jinja",
    "LICENSE*",
    "USE_POLICY*",
    "NOTICE*",
    "*.txt",
)


def cache_directory() -> Path:
    """LLAMA4RT_CACHE, else $XDG_CACHE_HOME/llama4rt, else ~/.cache/llama4rt."""
    own = os.environ.get("LLAMA4RT_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llama4rt"


def engine_path(source: str, notify: Callable[[str], None] = lambda message: None, **options: Any) -> Path:
    """The engine file of `source`: itself, or one in the cache that is built now if need be.

    source: an engine file, a checkpoint directory, or a hub id. options: of llama4rt.build; they are part of
    the name. notify is told before something slow happens.
    """
    if os.path.isfile(source):
        return Path(source)
    options = {name: value for name, value in options.items() if value is not None}
    directory = Path(source)
    if not directory.is_dir():
        directory = _download(source, notify)
    path = cache_directory() / f"{_safe_name(source)}-{_key(directory, options)}.l4e"
    if not path.is_file():
        from llama4rt.convert.build import build

        path.parent.mkdir(parents=True, exist_ok=True)
        notify(f"building {path} from {source} (once)")
        build(str(directory), str(path), **options)
    return path


def _download(source: str, notify: Callable[[str], None]) -> Path:
    if (
        source.count("/") != 1
        or source.startswith((".", "/", "~"))
        or source.endswith((".l4e", ".safetensors"))
    ):
        raise CheckpointError(
            f"{source}: no such engine file or checkpoint directory, nor a hub id such as owner/name"
        )
    import huggingface_hub

    notify(f"looking for {source} on the hub")
    try:
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=list(_PATTERNS)))
    except (OSError, ValueError) as error:  # huggingface_hub's errors are these
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{source}: {first_line}") from None


def _key(directory: Path, options: dict[str, Any]) -> str:
    """Names the checkpoint's state without reading its gigabytes: file names, sizes and times, the options,
    the format.

    A hub snapshot's files are links to immutable blobs, so its key is as stable as the download.
    """
    files = sorted({path for pattern in _PATTERNS for path in directory.glob(pattern) if path.is_file()})
    state = {
        "directory": str(directory.resolve()),
        "files": [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files],
        "options": options,
        "format": ENGINE_FORMAT_VERSION,
        "llama4rt": _core.version(),
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]


def _safe_name(source: str) -> str:
    name = os.path.basename(os.path.normpath(source))
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:80]
