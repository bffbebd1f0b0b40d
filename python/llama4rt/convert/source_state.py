"""What files a source consists of and in what state they are, without reading gigabytes: names, sizes, times, samples.

A checkpoint trained further has the same names and sizes, and after `cp -p` or from an archive with fixed times also
the same times; then the samples differ. An edit of a few bytes may miss the samples; then the time differs. A hub
snapshot's files are links to blobs that never change, so its state is as stable as the download.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WHOLE_BYTES = 1 << 20  # of a file whose every byte counts
_SAMPLES = 64  # of a larger one
_SAMPLE_BYTES = 4096


def directory_state(directory: Path, patterns: Sequence[str]) -> dict[str, Any]:
    """Plain values, for JSON. patterns: of the files that count."""
    files = sorted({path for pattern in patterns for path in directory.glob(pattern) if path.is_file()})
    return {
        "directory": str(directory.resolve()),
        "files": [(path.name, path.stat().st_size, path.stat().st_mtime_ns, _sample(path)) for path in files],
    }


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


__all__ = ["directory_state"]
