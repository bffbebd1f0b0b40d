"""The engine file that a caller means: a file, a checkpoint that is built into the cache, or the demo model."""

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llama4rt.errors import ConfigError

if TYPE_CHECKING:
    from llama4rt.engine.option_types import BuildChoices

log = logging.getLogger("llama4rt.build")


def find_engine_file(
    path: str | os.PathLike[str] | None,
    device: str,
    choices: "BuildChoices",
    *,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """path: None for the demo model; an engine file; or what `llama4rt build` takes, which is built now unless the
    cache has it: a checkpoint directory, a GGUF file, a hub id (which may be downloaded).
    """
    given = {name: value for name, value in choices.items() if value is not None}
    if path is None:
        from llama4rt.demo import engine_path as demo_path

        _refuse_choices(given, "the demo model")
        return str(demo_path())
    name = os.fsdecode(path)
    from llama4rt.convert.engine_cache import engine_path, is_engine_name, target_of

    if is_engine_name(name):
        _refuse_choices(given, name)
        return name
    options: dict[str, Any] = {
        option: os.fspath(v) if isinstance(v, os.PathLike) else v for option, v in given.items()
    }
    found = engine_path(
        name, notify=log.info, progress=progress, num_threads=num_threads, target=target_of(device), **options
    )
    return str(found)


def _refuse_choices(given: dict[str, object], what: str) -> None:
    if given:
        raise ConfigError(
            f"{next(iter(given))} says how a checkpoint is built, and {what} is an engine file: it is built already"
        )
