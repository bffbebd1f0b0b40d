"""A model's GGUF files: one, or the parts into which llama.cpp's gguf-split cuts a large one.

Parts are called NAME-00001-of-00003.gguf. The first has the metadata; each has its own table of tensors, and says in
`split.no` and `split.count` which one it is.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from llama4rt.convert.checkpoint import raise_problems
from llama4rt.convert.files import is_there
from llama4rt.convert.formats.gguf.file import GgufFile, is_gguf
from llama4rt.convert.formats.gguf.header import StoredTensor
from llama4rt.convert.formats.gguf.metadata import Metadata
from llama4rt.errors import CheckpointError

_PART = re.compile(r"(?P<base>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_PART_NUMBER = re.compile(r"-\d{5}-of-\d{5}$")
_MAX_PARTS = 99_999
_MAX_MISSING = 3  # parts that an error names one by one
_MAX_LISTED = 20


class GgufParts:
    """All files of one model as one table of tensors."""

    def __init__(self, path: Path) -> None:
        """path: the file, or any part. Raises CheckpointError; it names parts that are missing."""
        paths = part_paths(path)
        missing = [part.name for part in paths if not is_there(part)]
        if missing and len(paths) > 1:
            more = f" and {len(missing) - _MAX_MISSING} more" if len(missing) > _MAX_MISSING else ""
            raise CheckpointError(
                f"{path.parent}: {len(missing)} of the {len(paths)} parts of {model_name(path)} are missing: "
                f"{', '.join(missing[:_MAX_MISSING])}{more}; all of them are needed"
            )
        self.files: Sequence[GgufFile] = [GgufFile(part) for part in paths]
        self._file_of: dict[str, GgufFile] = {}
        problems: list[str] = []
        for number, file in enumerate(self.files):
            _check_part(file, number, len(paths))
            for name in file.tensors:
                if name in self._file_of:
                    problems.append(
                        f"{name:.100}: is in both {self._file_of[name].path.name} and {file.path.name}"
                    )
                self._file_of[name] = file
        total = self.metadata.integer("split.tensors.count", 0, 1 << 31, default=len(self._file_of))
        if total != len(self._file_of):
            problems.append(
                f"split.tensors.count is {total}, but the parts hold {len(self._file_of)} tensors"
            )
        raise_problems(problems, f"problems with the parts of {self.files[0].path}")
        self.tensors: Mapping[str, StoredTensor] = {n: file.tensors[n] for n, file in self._file_of.items()}

    @property
    def metadata(self) -> Metadata:
        return self.files[0].metadata

    def contains(self, path: str) -> bool:
        """Whether an existing file is one of them, under whatever name."""
        return os.path.exists(path) and any(os.path.samefile(file.path, path) for file in self.files)

    def file_of(self, name: str) -> GgufFile:
        return self._file_of[name]


def part_paths(path: Path) -> list[Path]:
    """All parts of the model that a file belongs to, in order; the file alone when its name is not a part's."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count:
        raise CheckpointError(
            f"{path}: is part {int(match['number'])} of {count} by its name; no split has such a part"
        )
    return [path.with_name(f"{match['base']}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]


def model_name(path: PurePath) -> str:
    """The file's name without its ending, and without a part's number."""
    return without_part(path.name.removesuffix(".gguf"))


def without_part(name: str) -> str:
    """A name without an ending, without a part's number."""
    return _PART_NUMBER.sub("", name)


def is_vision_name(name: str) -> bool:
    """Whether a file is a vision tower by its name: llama.cpp's tools find it so."""
    return "mmproj" in name.lower()


def model_in(directory: Path) -> Path | None:
    """The first file of the one model in a directory; None where there is no GGUF file. Raises CheckpointError for
    several models. Vision towers are no models of their own.
    """
    found = sorted(
        path for path in directory.glob("*.gguf") if is_gguf(path) and not is_vision_name(path.name)
    )
    models = {model_name(path): path for path in reversed(found)}
    if len(models) > 1:
        names = [path.name for path in sorted(models.values())]
        more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
        raise CheckpointError(
            f"{directory}: {len(models)} GGUF models are here; name the file of one: "
            f"{', '.join(names[:_MAX_LISTED])}{more}"
        )
    return next(iter(models.values()), None)


def _check_part(file: GgufFile, number: int, count: int) -> None:
    said = file.metadata.integer("split.count", 0, _MAX_PARTS, default=0)
    if said <= 1 and count == 1:
        return
    if said != count:
        what = f"says that it is one of {said} parts" if said else "does not say that it is a part"
        raise CheckpointError(
            f"{file.path}: {what}, but its name says {count}; parts must keep the names that gguf-split gave them, "
            "NAME-00001-of-00003.gguf"
        )
    place = file.metadata.integer("split.no", 0, _MAX_PARTS)
    if place != number:
        raise CheckpointError(
            f"{file.path}: says that it is part {place + 1}, but its name says {number + 1}"
        )


__all__ = ["GgufParts", "is_vision_name", "model_in", "model_name", "part_paths", "without_part"]
