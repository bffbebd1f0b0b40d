"""Checkpoints that change another one in a part: FormatLayer, the matrices of one format in the place of the tensors
they are made of; CheckpointLayer, what all of them have from the one below.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.stored_rows import Codes, Values


class CheckpointLayer:
    """A Checkpoint that says of everything but its tensors what `base` says."""

    def __init__(self, base: Checkpoint) -> None:
        self._base = base

    @property
    def name(self) -> str:
        return self._base.name

    @property
    def revision(self) -> str | None:
        return self._base.revision

    def config(self) -> Mapping[str, Any]:
        return self._base.config()

    def generation_config(self) -> Mapping[str, Any]:
        return self._base.generation_config()

    def kept_files(self) -> Mapping[str, bytes]:
        return self._base.kept_files()

    def licenses(self) -> Sequence[str]:
        return self._base.licenses()

    def source_hash(self) -> str:
        return self._base.source_hash()

    def notes(self) -> Sequence[str]:
        return self._base.notes()

    def paths(self) -> Sequence[Path]:
        return self._base.paths()

    def contains(self, path: str) -> bool:
        return self._base.contains(path)


class FormatLayer(CheckpointLayer):
    """A Checkpoint: `base`, where each of `matrices` takes the place of its parts."""

    def __init__(self, base: Checkpoint, matrices: Mapping[str, StoredMatrix]) -> None:
        super().__init__(base)
        self._matrices = matrices
        stored = base.names()
        parts = {part for matrix in matrices.values() for part in matrix.info.stored}
        self._doubled = {name: stored[name] for name in matrices if name in stored and name not in parts}
        self._names = {name: info for name, info in stored.items() if name not in parts}
        self._names |= {name: matrix.info for name, matrix in matrices.items()}

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        matrix = self._matrices.get(name)
        if matrix is None:
            return self._base.problems(name, shape)
        problems = matrix.problems(self._base, shape)
        if name in self._doubled:
            main = matrix.info.stored[0]
            problems.append(f"{name}: is {self._doubled[name]}; no such tensor belongs beside {main}")
        return problems

    def rows(
        self, name: str, first: int = 0, last: int | None = None, expert: int | None = None
    ) -> Values | Codes:
        matrix = self._matrices.get(name)
        if matrix is None:
            return self._base.rows(name, first, last, expert)
        return matrix.rows(self._base, first, last, expert)

    def release(self, name: str) -> None:
        for part in self._parts(name):
            self._base.release(part)

    def nbytes(self, name: str) -> int:
        return sum(self._base.nbytes(part) for part in self._parts(name))

    def _parts(self, name: str) -> tuple[str, ...]:
        matrix = self._matrices.get(name)
        return (name,) if matrix is None else matrix.info.stored


__all__ = ["CheckpointLayer", "FormatLayer"]
