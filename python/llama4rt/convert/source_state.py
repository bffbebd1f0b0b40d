"""What files a source consists of and in what state they are, without reading gigabytes: names, sizes, times, samples.

A checkpoint trained further has the same names and sizes, and after `cp -p` or from an archive with fixed times also
the same times; then the samples differ. An edit of a few bytes may miss the samples; then the time differs. A hub
snapshot's files are links to blobs that never change, so its state is as stable as the download.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

_WHOLE_BYTES = 1 << 20  # of a file whose every byte counts
_SAMPLES = 64  # of a larger one
_SAMPLE_BYTES = 4096


def source_files(where: Path) -> list[Path]:
    """What an engine is made from: files of a directory, or the parts of a GGUF file and config.json."""
    from llama4rt.convert.formats.gguf.parts import part_paths
    from llama4rt.convert.locate import DOWNLOAD_PATTERNS

    if where.is_dir():
        patterns = (*DOWNLOAD_PATTERNS, "*.gguf", "adapter_model.bin")
        found = {path for pattern in patterns for path in where.glob(pattern)}
    else:
        found = {*part_paths(where), where.with_name("config.json")}
    return sorted(path for path in found if path.is_file())


def files_state(files: Sequence[Path]) -> list[tuple[str, int, int, str]]:
    """For JSON."""
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns, _sample(path)) for path in files]


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


__all__ = ["files_state", "source_files"]
