"""The IQ types: 4 or 8 numbers at once are a point of a codebook, with signs beside it or a shift of all.

Codes name sixteen numbers: the levels of a codebook and their negatives, 8 codes further; of IQ1 the three levels with
the shift up and down. Points and signs are looked up as words of 4 or 8 codes.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.formats.gguf.blocks import codebooks
from llama4rt.convert.formats.gguf.blocks.codebooks import Codebook
from llama4rt.convert.formats.gguf.blocks.packed import (
    Blocks,
    BlockType,
    Bytes,
    Decoded,
    Floats,
    planes,
    wide,
)
from llama4rt.convert.stored_rows import CodeLayout

Integers = NDArray[Any]
Words = NDArray[np.uint64]

_LENGTH = 256
_NEGATIVE = 8  # what a sign adds to a code
_EIGHT = 0x0101010101010101  # one code of a word, eight times

_IQ2_LEVELS = (8, 25, 43)
_IQ3_XXS_LEVELS = (4, 12, 20, 28, 36, 44, 52, 62)
_IQ3_S_LEVELS = (1, 3, 5, 7, 9, 11, 13, 15)
# (-1, 0, 1) + 1/8 and, 8 codes further, - 1/8: in eighths, so that the scales are divided by 8.
_IQ1_LEVELS = (-7, 1, 9)
_IQ1_LEVELS_DOWN = (-9, -1, 7)


def _table(levels: tuple[int, ...], others: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """others: of the codes from 8; else the negatives."""
    others = tuple(-level for level in levels) if others is None else others
    rest = (0,) * (_NEGATIVE - len(levels))
    return (*levels, *rest, *others, *rest)


@functools.cache
def _words(book: Codebook) -> NDArray[np.uint64] | NDArray[np.uint32]:
    """[size]: the codes of each point as one word."""
    points = book.points.reshape(-1)
    return points.view(np.uint64) if book.digits == 8 else points.view(np.uint32)


@functools.cache
def _sign_words() -> Words:
    """[256]: for each byte of signs a word with _NEGATIVE in the bytes whose number is negative."""
    signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") * np.uint8(
        _NEGATIVE
    )
    words: Words = signs.reshape(-1).view(np.uint64)
    return words


@functools.cache
def _even_signs() -> Words:
    """[128]: of seven stored signs; the eighth makes their number even."""
    index = np.arange(128, dtype=np.uint8)
    parity = np.unpackbits(index[:, None], axis=1).sum(axis=1).astype(np.uint8) & 1
    words: Words = _sign_words()[index | parity << 7]
    return words


def _points(book: Codebook, index: Integers) -> Words:
    """index [n, 256 / digits] -> words of 8 codes [n, 32]."""
    words: Words = np.take(_words(book), index).view(np.uint64)
    return words


def _codes(words: Words) -> Bytes:
    return words.view(np.uint8)


def _seven_bits(packed: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """[n, 8] -> [n, 32]: four fields from the lowest bit on."""
    fields: NDArray[np.uint32] = packed[..., None] >> np.arange(0, 28, 7, dtype=np.uint32) & np.uint32(127)
    return fields.reshape(len(packed), -1)


def _nibbles(packed: Bytes) -> Bytes:
    """[n, w] -> [n, 2 w], the low one of a byte first."""
    return planes(packed[..., None], 4).reshape(len(packed), -1)


def _odd(small: Integers, d: Floats, unit: float) -> Floats:
    """Scales d * (2 s + 1) * unit; unit is a power of two, and all products are exact."""
    odd: Floats = small.astype(np.float32) * np.float32(2) + np.float32(1)
    odd *= np.float32(unit)
    scales: Floats = d * odd
    return scales


def _iq2_xxs(blocks: Blocks) -> Decoded:
    """For each 32 numbers two words: four indices of a byte; four times seven signs and a scale of four bits."""
    words = blocks["words"].reshape(-1, 8, 2)
    signs = words[..., 1]
    codes = _points(codebooks.IQ2_XXS, np.ascontiguousarray(words[..., 0]).view(np.uint8))
    codes |= _even_signs()[_seven_bits(signs)]
    return Decoded(_codes(codes), _odd(signs >> 28, wide(blocks["d"]), 1 / 8))


def _iq2_xs(blocks: Blocks) -> Decoded:
    """For each 8 numbers an index of nine bits and seven signs."""
    packed = blocks["q"]
    codes = _points(codebooks.IQ2_XS, packed & 511)
    codes |= _even_signs()[packed >> 9]
    return Decoded(_codes(codes), _odd(_nibbles(blocks["scales"]), wide(blocks["d"]), 1 / 8))


def _iq2_s(blocks: Blocks) -> Decoded:
    """An index of ten bits, two of them in `high`; all eight signs are stored."""
    index = blocks["low"].astype(np.uint16)
    index |= planes(blocks["high"][..., None], 2).reshape(len(blocks), -1).astype(np.uint16) << 8
    codes = _points(codebooks.IQ2_S, index)
    codes |= _sign_words()[blocks["signs"]]
    return Decoded(_codes(codes), _odd(_nibbles(blocks["scales"]), wide(blocks["d"]), 1 / 8))


def _iq3_xxs(blocks: Blocks) -> Decoded:
    """An index of a byte for each four numbers; signs and scales as IQ2_XXS has them."""
    signs = blocks["signs"]
    codes = _points(codebooks.IQ3_XXS, blocks["q"])
    codes |= _even_signs()[_seven_bits(signs)]
    return Decoded(_codes(codes), _odd(signs >> 28, wide(blocks["d"]), 1 / 4))


def _iq3_s(blocks: Blocks) -> Decoded:
    """An index of nine bits for each four numbers, the ninth in `high`; all signs are stored."""
    index = blocks["low"].astype(np.uint16)
    index |= np.unpackbits(blocks["high"], axis=1, bitorder="little").astype(np.uint16) << 8
    codes = _points(codebooks.IQ3_S, index)
    codes |= _sign_words()[blocks["signs"]]
    return Decoded(_codes(codes), _odd(_nibbles(blocks["scales"]), wide(blocks["d"]), 1))


def _down(bits: Integers) -> Words:
    """A word of _NEGATIVE in each byte where the bit is set."""
    words: Words = bits.astype(np.uint64) * np.uint64(_EIGHT * _NEGATIVE)
    return words


def _iq1_s(blocks: Blocks) -> Decoded:
    """Eleven bits of index for each 8 numbers, the high three in `high`; for each 32 numbers also three bits of scale
    and one of shift.
    """
    high = blocks["high"]
    more = (high[..., None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7).reshape(len(blocks), -1)
    codes = _points(codebooks.IQ1, blocks["low"] | more << 8)
    codes |= np.repeat(_down(high >> 15), 4, axis=1)
    return Decoded(_codes(codes), _odd(high >> 12 & 7, wide(blocks["d"]), 1 / 8))


def _iq1_m(blocks: Blocks) -> Decoded:
    """As IQ1_S, with a nibble of index and shift for each 8 numbers, three bits of scale for each 16, and d in the
    high nibbles of the four words of scales.
    """
    nibbles, words = _nibbles(blocks["high"]), blocks["scales"]
    codes = _points(codebooks.IQ1, blocks["low"] | (nibbles & 7).astype(np.uint16) << 8)
    codes |= _down(nibbles >> 3)
    parts = words >> 12 << np.arange(0, 16, 4, dtype=np.uint16)
    d = np.bitwise_or.reduce(parts, axis=1).astype("<u2").view("<f2")
    small = (words[..., None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7).reshape(len(blocks), -1)
    return Decoded(_codes(codes), _odd(small, wide(d), 1 / 8))


_D = ("d", "<f2", 1)
_IQ2, _IQ3_XXS, _IQ3_S = (_table(levels) for levels in (_IQ2_LEVELS, _IQ3_XXS_LEVELS, _IQ3_S_LEVELS))
_IQ1 = _table(_IQ1_LEVELS, _IQ1_LEVELS_DOWN)
_FIELDS = {
    "IQ1_S": (_D, ("low", "u1", 32), ("high", "<u2", 8)),
    "IQ1_M": (("low", "u1", 32), ("high", "u1", 16), ("scales", "<u2", 4)),
    "IQ2_XXS": (_D, ("words", "<u4", 16)),
    "IQ2_XS": (_D, ("q", "<u2", 32), ("scales", "u1", 8)),
    "IQ2_S": (_D, ("low", "u1", 32), ("signs", "u1", 32), ("high", "u1", 8), ("scales", "u1", 8)),
    "IQ3_XXS": (_D, ("q", "u1", 64), ("signs", "<u4", 8)),
    "IQ3_S": (_D, ("low", "u1", 64), ("high", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)),
}
TYPES = tuple(
    BlockType(name, _LENGTH, _FIELDS[name], CodeLayout("table4", group, "F32", table=table), decode)
    for name, group, table, decode in (
        ("IQ1_S", 32, _IQ1, _iq1_s),
        ("IQ1_M", 16, _IQ1, _iq1_m),
        ("IQ2_XXS", 32, _IQ2, _iq2_xxs),
        ("IQ2_XS", 16, _IQ2, _iq2_xs),
        ("IQ2_S", 16, _IQ2, _iq2_s),
        ("IQ3_XXS", 32, _IQ3_XXS, _iq3_xxs),
        ("IQ3_S", 32, _IQ3_S, _iq3_s),
    )
)

__all__ = ["TYPES"]
