"""The small files of a checkpoint: read strictly, with limits; and which of them an engine file keeps."""

import json
import re
from pathlib import Path
from typing import Any

from llama4rt.errors import CheckpointError

# Files kept in the engine as they are, because running the model or using it lawfully needs them.
KEPT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_KEPT_AS = {  # an engine's names have no folder
    "chat_template.tool_use.jinja": "additional_chat_templates/tool_use.jinja",
}
LICENSE_PATTERNS = ("LICENSE*", "NOTICE*", "USE_POLICY*")

MAX_JSON_BYTES = 256 << 20
_MAX_FILE_BYTES = 1 << 30
_PLAIN_NAME = re.compile(r"[\w.() +-]{1,100}", re.ASCII)  # narrower than what an engine file takes


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing")
    size = path.stat().st_size
    if size > limit:
        raise CheckpointError(f"{path}: has {size} bytes; at most {limit} are expected")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError."""
    try:
        value = json.loads(read_file(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}; expected an object")
    return value


def kept_files(directory: Path) -> dict[str, bytes]:
    """Name -> content of the files that go into the engine, sorted by name."""
    names = {*KEPT_FILES, *license_names(directory)}
    paths = {name: directory / name for name in names} | {
        name: directory / path for name, path in _KEPT_AS.items()
    }
    paths = dict(sorted(paths.items()))
    return {name: read_file(path, _MAX_FILE_BYTES) for name, path in paths.items() if path.is_file()}


def license_names(directory: Path) -> list[str]:
    """Names of the licence, notice and policy files, sorted."""
    found = {path.name for pattern in LICENSE_PATTERNS for path in directory.glob(pattern) if path.is_file()}
    return sorted(name for name in found if _PLAIN_NAME.fullmatch(name))


__all__ = [
    "KEPT_FILES",
    "LICENSE_PATTERNS",
    "MAX_JSON_BYTES",
    "kept_files",
    "license_names",
    "read_file",
    "read_json_object",
]
