"""What lies in the engine cache: engines that were built there, and what interrupted builds have left."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llama4rt import _core
from llama4rt.convert.calibrate.state import state_path
from llama4rt.convert.engine_cache import cache_directory
from llama4rt.convert.journal import journal_path
from llama4rt.errors import ConfigError, EngineFileError

# Beside an output: what EngineWriter writes into, the journal, and the state of a calibration.
_UNFINISHED = (".tmp", journal_path(""), state_path(""))


@dataclass(frozen=True)
class CachedEngine:
    """name: of its file, without the ending. source: what it was built from; "" of a file that cannot be opened."""

    name: str
    path: Path
    bytes: int
    built: float  # seconds since 1970
    source: str
    unfinished: bool = False  # of a build that was interrupted, and goes on when it is asked for again


def cached_engines() -> list[CachedEngine]:
    """By name; those that are not finished behind the others."""
    folder = cache_directory()
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        unfinished = path.name.endswith(_UNFINISHED)
        if not unfinished and path.suffix != ".l4e":
            continue
        try:
            stat = path.stat()
        except FileNotFoundError:  # somebody removes it just now
            continue
        size = min(stat.st_size, stat.st_blocks * 512) if unfinished else stat.st_size
        name = path.name if unfinished else path.stem
        source = "" if unfinished else _source(path)
        found.append(CachedEngine(name, path, size, stat.st_mtime, source, unfinished))
    return sorted(found, key=lambda engine: (engine.unfinished, engine.name))


def chosen(names: Iterable[str]) -> list[CachedEngine]:
    """The engines that are meant: by name, by the first letters of one name alone, or by source. ConfigError for a name
    that means none, or several.
    """
    engines = cached_engines()
    picked: dict[Path, CachedEngine] = {}
    for name in names:
        exact = [e for e in engines if name in (e.name, e.path.name, str(e.path))]
        found = exact or [e for e in engines if e.name.startswith(name) or e.source == name]
        if not found:
            raise ConfigError(
                f"{name}: no engine in {cache_directory()} has this name; `llama4rt list` shows them"
            )
        if len(found) > 1:
            those = ", ".join(e.name for e in found[:4])
            raise ConfigError(f"{name}: means {len(found)} engines ({those}); give a whole name")
        picked[found[0].path] = found[0]
    return list(picked.values())


def remove(engines: Iterable[CachedEngine]) -> int:
    """Bytes that are free now. An engine that runs keeps its file until it is closed."""
    freed = 0
    for engine in engines:
        try:
            os.unlink(engine.path)
        except FileNotFoundError:
            continue
        freed += engine.bytes
    return freed


def _source(path: Path) -> str:
    try:
        source = json.loads(_core.EngineFile(os.fspath(path)).metadata.get("source", "{}"))
    except (EngineFileError, ValueError):
        return ""
    return str(source.get("name", "")) if isinstance(source, dict) else ""
