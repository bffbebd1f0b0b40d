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

from llama4rt.errors import EngineFileError

_WHOLE_BYTES = 1 << 20  # of a file whose every byte counts
_SAMPLES = 64  # of a larger one
_SAMPLE_BYTES = 4096

# Format version and what builds put in: changes when a build would make another file.
ENGINE_CONTENTS = "1, vision, int8 head, rope_scaling first, tokenizer ranks"


def cache_directory() -> Path:
    """LLAMA4RT_CACHE, else $XDG_CACHE_HOME/llama4rt, else ~/.cache/llama4rt."""
    own = os.environ.get("LLAMA4RT_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llama4rt"


def engine_path(
    source: str,
    *,
    notify: Callable[[str], None] = lambda message: None,
    progress: Callable[[int, int], None] | None = None,
    num_threads: int | None = None,
    **options: Any,
) -> Path:
    """The engine file of `source`: itself, or one in the cache that is built now if need be.

    source: an engine file, a checkpoint directory, a GGUF file, or a hub id. options: of llama4rt.build that decide
    what is in the engine; they are part of its name. notify is told before something slow happens.
    """
    if os.path.isfile(source) and not source.endswith(".gguf"):
        return Path(source)
    if source.endswith(".l4e"):
        raise EngineFileError(f"{source}: no such file")
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

        path.parent.mkdir(parents=True, exist_ok=True)
        notify(f"building {path} from {source} (once)")
        build(where, path, num_threads=num_threads, progress=progress, **options)
    return path


def _key(where: Path, options: dict[str, Any]) -> str:
    """Names what an engine is made from without reading gigabytes: names, sizes, times and samples of the files.

    A checkpoint trained further has the same names and sizes, and after `cp -p` or from an archive with fixed times the
    same times; then the samples differ. An edit of a few bytes may miss the samples; then the time differs. A hub
    snapshot's files are links to blobs that never change, so its key is as stable as the download.
    """
    files = _files(where)
    if "mmproj" in options:
        files.append(Path(options["mmproj"]))
    state = {
        "directory": str(where.resolve()),
        "files": [(path.name, path.stat().st_size, path.stat().st_mtime_ns, _sample(path)) for path in files],
        "options": options,
        "contents": ENGINE_CONTENTS,
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]


def _files(where: Path) -> list[Path]:
    """What an engine is made from: files of a checkpoint directory, or the parts of a GGUF file and config.json."""
    from llama4rt.convert.formats.gguf.parts import part_paths
    from llama4rt.convert.locate import DOWNLOAD_PATTERNS

    if where.is_dir():
        found = {path for pattern in ("*.gguf", *DOWNLOAD_PATTERNS) for path in where.glob(pattern)}
    else:
        found = {*part_paths(where), where.with_name("config.json")}
    return sorted(path for path in found if path.is_file())


def _sample(path: Path) -> str:
    """A hash of a small file, or of places spread over a large one, its first and last bytes among them."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _WHOLE_BYTES:
            digest.update(file.read())
        else:
            for i in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _safe_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:80]
