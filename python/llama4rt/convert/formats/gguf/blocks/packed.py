"""What every family of block types needs: a type's description, and small bit fields taken apart."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.stored_rows import CodeLayout

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Blocks = NDArray[Any]  # a record array [n] with the fields of one type


@dataclass(frozen=True)
class Decoded:
    """Numbers of n blocks, still as codes."""

    codes: Bytes  # n * block of them, in order, in any shape
    scales: Floats  # n * groups of a block
    offsets: Floats | None = None  # as many, where the layout has them


@dataclass(frozen=True)
class BlockType:
    """One quantised type of ggml."""

    name: str
    length: int  # numbers in a block
    fields: tuple[tuple[str, str, int], ...]  # (name, numpy type, count) of a block, in order, without gaps
    layout: CodeLayout
    decode: Callable[[Blocks], Decoded]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype([(name, kind) if n == 1 else (name, kind, (n,)) for name, kind, n in self.fields])

    @property
    def size(self) -> int:
        """Bytes of a block."""
        return self.dtype.itemsize


def planes(packed: Bytes, bits: int) -> Bytes:
    """[..., w] bytes -> [..., 8 / bits, w]: plane p has bits p * bits and up of every byte.

    So ggml packs: the codes that share a byte are w numbers apart.
    """
    count, width = 8 // bits, packed.shape[-1]
    flat = np.ascontiguousarray(packed).reshape(-1, width)
    # Words of eight codes, a column at a time: numpy is slow where the last axis is short.
    word = np.uint64 if width % 8 == 0 else np.uint8
    words = flat.view(word)
    out = np.empty((len(flat), count, words.shape[1]), dtype=word)
    for plane in range(count):
        for column in range(words.shape[1]):
            np.right_shift(words[:, column], word(plane * bits), out=out[:, plane, column])
    codes = out.view(np.uint8)
    codes &= (1 << bits) - 1
    return codes.reshape(*packed.shape[:-1], count, width)


def bits_of(packed: Bytes) -> Bytes:
    """[..., bytes] -> [..., 8 * bytes] of 0 and 1, the lowest bit first."""
    bits = np.unpackbits(np.ascontiguousarray(packed).reshape(-1), bitorder="little")
    return bits.reshape(*packed.shape[:-1], -1)


def wide(field: NDArray[Any]) -> Floats:
    """fp16 numbers [n], one of each block, as fp32 [n, 1]."""
    return field.astype(np.float32)[:, None]


__all__ = ["BlockType", "Blocks", "Bytes", "Decoded", "Floats", "bits_of", "planes", "wide"]
