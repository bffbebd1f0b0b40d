"""From how a caller names adapters (a directory or hub id, with a weight or without) to their directories."""

import os
from collections.abc import Sequence
from pathlib import Path

from llama4rt.convert.files import is_there
from llama4rt.convert.locate import locate
from llama4rt.convert.lora.lora_config import FILE
from llama4rt.errors import CheckpointError, ConfigError

Adapter = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]


def located_adapters(adapters: Sequence[Adapter]) -> list[tuple[Path, str, float]]:
    """(directory, name, weight) of each; the weight is 1 where none is said. Raises CheckpointError or ConfigError."""
    if isinstance(adapters, (str, os.PathLike)):
        raise ConfigError(f"lora is {os.fspath(adapters)!r:.80}; it must be a list of adapters")
    found = []
    for adapter in adapters:
        source, weight = adapter if isinstance(adapter, tuple) else (adapter, 1.0)
        directory, name = locate(source)
        if not is_there(directory / FILE):
            raise CheckpointError(f"{directory}: has no {FILE}, so it is no adapter of PEFT")
        found.append((directory, name, float(weight)))
    return found


def parse_adapter(text: str) -> tuple[str, float]:
    """`DIR` or `DIR=WEIGHT`: the command line's form."""
    source, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return source, float(weight)
    except ValueError:
        raise ConfigError(
            f"adapter is {text!r:.200}; it must be DIR or DIR=WEIGHT, such as my-adapter=0.5"
        ) from None


__all__ = ["Adapter", "located_adapters", "parse_adapter"]
