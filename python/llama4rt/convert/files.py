"""The small files of a checkpoint: read strictly, with limits; and which of them an engine file keeps.

A file may be a link only as the hub's cache makes them: to a blob of the same repository. One that leads anywhere
else would put whatever it points to into the engine file, and so is refused.
"""

import errno
import fnmatch
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from llama4rt.errors import CheckpointError
from llama4rt.text.chat_template import TOOL_USE_FILE

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
# More of them, which a checkpoint has in a folder: the engine's name, without one, and the path.
FILES_IN_FOLDERS = {TOOL_USE_FILE: "additional_chat_templates/tool_use.jinja"}
LICENSE_PATTERNS = ("LICENSE*", "NOTICE*", "USE_POLICY*")

MAX_JSON_BYTES = 256 << 20
_MAX_FILE_BYTES = 1 << 30
_PLAIN_NAME = re.compile(r"[\w.() +-]{1,100}", re.ASCII)  # narrower than what an engine file takes
_LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"  # all that a clone without Git LFS has of a file
)
MAX_POINTER_BYTES = 1024


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises CheckpointError."""
    content = read_if_there(path, limit)
    if content is None:
        raise CheckpointError(f"{path}: is missing")
    return content


def read_if_there(path: Path, limit: int) -> bytes | None:
    """As read_file; None when there is no regular file of that name."""
    where = resolve(path)
    if where is None:
        return None
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return None
            if info.st_size > limit:
                raise CheckpointError(f"{path}: has {info.st_size} bytes; at most {limit} are expected")
            content = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if len(content) != info.st_size:
        raise CheckpointError(f"{path}: changed while it was read")
    check_no_pointer(path, content)
    return content


def resolve(path: Path) -> Path | None:
    """Where a file of a checkpoint really lies; None when there is nothing of that name.

    Raises CheckpointError for a link that leaves the checkpoint: the directory itself and, where it is a snapshot in a
    hub cache, the blobs beside it.
    """
    try:
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            return path
        real = os.path.realpath(path, strict=True)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise CheckpointError(
                f"{path}: is a link to {os.readlink(path)!r:.200}, where nothing is; download it again"
            ) from None
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if not any(real.startswith(root + os.sep) for root in _roots(path.parent)):
        raise CheckpointError(
            f"{path}: is a link to {real!r:.200}, outside the checkpoint; copy the file here if it belongs to it"
        )
    return Path(real)


def _roots(directory: Path) -> tuple[str, ...]:
    """Where the links of a checkpoint may end. A folder of blobs that is a link itself does not count."""
    own = os.path.realpath(directory)
    parent = os.path.dirname(own)
    blobs = [os.path.join(parent, "blobs")]  # of a snapshot beside them
    if os.path.basename(parent) == "snapshots":  # models--owner--name/snapshots/<revision>
        blobs.append(os.path.join(os.path.dirname(parent), "blobs"))
    return (own, *blobs)


def check_weight_file(path: Path) -> None:
    """Raises CheckpointError unless a file of weights is there, in the checkpoint, and more than a pointer."""
    where = resolve(path)
    if where is None or not where.is_file():
        raise CheckpointError(f"{path}: is missing")
    if where.stat().st_size <= MAX_POINTER_BYTES:
        with open(where, "rb") as file:
            check_no_pointer(path, file.read(MAX_POINTER_BYTES))


def check_no_pointer(path: Path, content: bytes) -> None:
    """content: of a file of at most MAX_POINTER_BYTES; of a larger one anything. Raises CheckpointError."""
    if content.startswith(_LFS_POINTER) and len(content) <= MAX_POINTER_BYTES:
        raise CheckpointError(
            f"{path}: is a Git LFS pointer, not the file itself; run `git lfs pull` in the checkpoint, or download it "
            "with huggingface_hub"
        )


def is_there(path: Path) -> bool:
    """Whether anything has this name, links included. An unreadable disk is an OSError, not an absent file."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise
    return True


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError."""
    try:
        value = json.loads(read_file(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}; expected an object")
    return value


def hub_revision(directory: Path) -> str | None:
    """The commit, where the directory is a snapshot in the hub's cache: models--owner--name/snapshots/commit."""
    path = Path(os.path.abspath(directory))
    return (
        path.name
        if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--")
        else None
    )


def kept_files(directory: Path) -> dict[str, bytes]:
    """Name -> content of the files that go into the engine, sorted by name."""
    names = sorted({*KEPT_FILES, *FILES_IN_FOLDERS, *license_names(directory)})
    found = {
        name: read_if_there(directory / FILES_IN_FOLDERS.get(name, name), _MAX_FILE_BYTES) for name in names
    }
    return {name: content for name, content in found.items() if content is not None}


def license_names(directory: Path) -> list[str]:
    """Names of the licence, notice and policy files, sorted."""
    return sorted(
        name
        for name in os.listdir(directory)
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in LICENSE_PATTERNS)
        and _PLAIN_NAME.fullmatch(name)
        and (where := resolve(directory / name)) is not None
        and stat.S_ISREG(os.stat(where).st_mode)
    )


__all__ = [
    "FILES_IN_FOLDERS",
    "KEPT_FILES",
    "LICENSE_PATTERNS",
    "MAX_JSON_BYTES",
    "MAX_POINTER_BYTES",
    "check_no_pointer",
    "check_weight_file",
    "hub_revision",
    "is_there",
    "kept_files",
    "license_names",
    "read_file",
    "read_if_there",
    "read_json_object",
    "resolve",
]
