"""Slices of stored tensors under Hugging Face's names: what they are, what is wrong with them, their rows."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from llama4rt.convert.checkpoint import TensorInfo, plain_problems
from llama4rt.convert.formats.gguf.file import GgufFile
from llama4rt.convert.formats.gguf.header import StoredTensor
from llama4rt.convert.formats.gguf.names import Slice
from llama4rt.convert.formats.gguf.parts import GgufParts
from llama4rt.convert.stored_rows import NUMPY_DTYPES, Codes, Values
from llama4rt.errors import CheckpointError


class SlicedTensors:
    """The part of a Checkpoint that is about tensors."""

    def __init__(self, parts: GgufParts, slices: Mapping[str, Slice]) -> None:
        self._parts = parts
        self._slices = slices
        self._infos = {name: self._info(piece) for name, piece in slices.items()}

    def names(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        info, piece = self._infos[name], self._slices[name]
        if info.codes is None or len(shape) != 2:
            return plain_problems(piece.place, info, shape)
        return (
            []
            if info.shape == shape
            else [f"{piece.place}: is {info}; expected {TensorInfo(info.dtype, shape)}"]
        )

    def rows(self, name: str, first: int, last: int | None) -> Values | Codes:
        piece = self._slices[name]
        file, tensor = self._stored(piece)
        into = piece.shape[-1]
        last = piece.rows if last is None or len(piece.shape) < 2 else min(last, piece.rows)
        first = first if len(piece.shape) > 1 else 0
        rows = tensor.kind.rows(file.rows(tensor, piece.first + first, piece.first + last), into)
        if isinstance(rows, Codes):
            rows = self._scaled(rows, piece)
            _check_finite(rows, first)
            return rows
        return rows if len(piece.shape) > 1 else Values(rows.array.reshape(-1), rows.dtype)

    def release(self, name: str) -> None:
        piece = self._slices[name]
        file, tensor = self._stored(piece)
        file.release(tensor, piece.first, piece.first + piece.rows)

    def nbytes(self, name: str) -> int:
        piece = self._slices[name]
        return piece.rows * self._stored(piece)[1].row_bytes

    def _scaled(self, rows: Codes, piece: Slice) -> Codes:
        """With the factor that lies beside the tensor: one rounding in fp32 for each scale."""
        if piece.scale is None:
            return rows
        factor = small_values(self._parts, piece.scale).as_float32()[piece.expert or 0]
        with np.errstate(over="ignore", invalid="ignore"):
            offsets = None if rows.offsets is None else rows.offsets * factor
            return replace(rows, scales=rows.scales * factor, offsets=offsets)

    def _stored(self, piece: Slice) -> tuple[GgufFile, StoredTensor]:
        file = self._parts.file_of(piece.stored)
        return file, file.tensors[piece.stored]

    def _info(self, piece: Slice) -> TensorInfo:
        kind = self._stored(piece)[1].kind
        return TensorInfo(kind.name, piece.shape, kind.codes, (piece.place,))


def _check_finite(rows: Codes, first: int) -> None:
    """Raises CheckpointError for scales or offsets that are NaN, infinite, or too large for what they scale."""
    largest = np.float32(255 if rows.layout.bits == 8 else 127)
    with np.errstate(over="ignore", invalid="ignore"):
        extremes = np.abs(rows.scales) * largest
        if rows.offsets is not None:
            extremes += np.abs(rows.offsets)
    bad = ~np.isfinite(extremes)
    if bad.any():
        row, group = (int(index) for index in np.argwhere(bad)[0])
        offset = "" if rows.offsets is None else f", offset {rows.offsets[row, group]}"
        raise CheckpointError(
            f"group {group} of row {first + row} has scale {rows.scales[row, group]}{offset}; numbers must be finite"
        )


def small_values(parts: GgufParts, name: str) -> Values:
    """All numbers of a plain tensor, as a vector."""
    file = parts.file_of(name)
    tensor = file.tensors[name]
    raw = file.rows(tensor, 0, tensor.nbytes // tensor.row_bytes)
    return Values(raw.reshape(-1).view(NUMPY_DTYPES[tensor.kind.name]), tensor.kind.name)


__all__ = ["SlicedTensors", "small_values"]
