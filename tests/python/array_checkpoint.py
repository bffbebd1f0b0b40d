"""A Checkpoint over a dict of arrays, for tests of what reads one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama4rt.convert.checkpoint import TensorInfo, plain_problems
from llama4rt.convert.formats import FORMATS
from llama4rt.convert.formats.layer import FormatLayer
from llama4rt.convert.stored_rows import Codes, Values
from random_checkpoints import Stored


class ArrayCheckpoint:
    """Answers as SafetensorsDirectory does, of tensors in memory."""

    name = "arrays"
    revision = None

    def __init__(self, tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> None:
        self._tensors = tensors
        self._config = config

    def config(self) -> Mapping[str, Any]:
        return self._config

    def generation_config(self) -> Mapping[str, Any]:
        return {}

    def names(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(dtype, array.shape) for name, (dtype, array) in self._tensors.items()}

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return plain_problems(name, self.names()[name], shape)

    def rows(self, name: str, first: int = 0, last: int | None = None, expert: int | None = None) -> Values:
        dtype, array = self._tensors[name]
        if expert is not None:
            return Values(array[expert][:, first:last], dtype, transposed=True)
        return Values(array[first:last] if array.ndim else array, dtype)

    def release(self, name: str) -> None:
        pass

    def nbytes(self, name: str) -> int:
        return self._tensors[name][1].nbytes

    def kept_files(self) -> Mapping[str, bytes]:
        return {}

    def licenses(self) -> Sequence[str]:
        return ()

    def source_hash(self) -> str:
        return "sha256:0"

    def contains(self, path: str) -> bool:
        return False

    def notes(self) -> Sequence[str]:
        return ()


def all_formats(base: ArrayCheckpoint) -> FormatLayer:
    """The checkpoint through every format, as it is opened."""
    layer = FormatLayer(base, {})
    for form in FORMATS:
        layer = FormatLayer(layer, form.detect(layer))
    return layer


def codes_of(layer: FormatLayer, name: str, first: int = 0, last: int | None = None) -> Codes:
    rows = layer.rows(name, first, last)
    assert isinstance(rows, Codes)
    return rows


__all__ = ["ArrayCheckpoint", "all_formats", "codes_of"]
