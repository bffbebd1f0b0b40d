"""Changes bytes of a stored tensor, as an error of the builder would; the checksum stays what it was."""

from __future__ import annotations

import shutil
from pathlib import Path

from llama4rt._core import EngineFile


def changed_copy(source: Path, path: Path, name: str, data: bytes, at: int = 0) -> Path:
    """A copy of an engine file with `data` at byte `at` of tensor `name`."""
    _, _, offset, size = EngineFile(str(source)).info(name)
    assert at >= 0 and at + len(data) <= size
    shutil.copyfile(source, path)
    with open(path, "r+b") as file:
        file.seek(offset + at)
        file.write(data)
    return path
