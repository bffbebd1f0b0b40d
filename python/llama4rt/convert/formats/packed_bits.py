"""Codes of 1 to 8 bits in dense streams: the first code in the lowest bits, some across the border of two words."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unpack_bits(words: NDArray[Any], bits: int, count: int) -> NDArray[np.uint8]:
    """Words [..., words] of any integer type -> codes [..., count]: code i begins at bit i * bits of its row."""
    little = np.ascontiguousarray(words).astype(words.dtype.newbyteorder("<"), copy=False)
    stream = little.view(np.uint8)
    if bits == 8:
        return np.ascontiguousarray(stream[..., :count])
    if bits in (1, 2, 4):  # no code crosses a byte
        codes = np.empty((*stream.shape, 8 // bits), dtype=np.uint8)
        for place in range(8 // bits):
            np.right_shift(stream, place * bits, out=codes[..., place])
        codes &= (1 << bits) - 1
        return np.ascontiguousarray(codes.reshape(*stream.shape[:-1], -1)[..., :count])
    # Eight codes are as many bytes as a code has bits.
    groups = -(-count // 8)
    padded = np.zeros((*stream.shape[:-1], groups * bits), dtype=np.uint8)
    used = min(stream.shape[-1], padded.shape[-1])
    padded[..., :used] = stream[..., :used]
    eight = np.zeros((*stream.shape[:-1], groups), dtype=np.uint64)
    for place in range(bits):
        eight |= padded[..., place::bits].astype(np.uint64) << np.uint64(8 * place)
    codes = np.empty((*eight.shape, 8), dtype=np.uint8)
    for place in range(8):
        codes[..., place] = (eight >> np.uint64(place * bits)) & np.uint64((1 << bits) - 1)
    return np.ascontiguousarray(codes.reshape(*stream.shape[:-1], -1)[..., :count])


def unpack_planes(words: NDArray[Any], bits: int, count: int) -> NDArray[np.uint8]:
    """Words [..., words] of 32 bits -> codes [..., count], of the layout that GPTQModel calls planar: each 32 codes are
    `bits` words, first those of their lowest 4 (or 2) bits, then those of the higher; nothing crosses a word.
    """
    widths = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}.get(bits, (bits,))
    blocks = np.ascontiguousarray(words).reshape(*words.shape[:-1], -1, bits)
    codes = np.zeros((*blocks.shape[:-1], 32), dtype=np.uint8)
    at = 0
    for width in widths:  # a plane of so many bits is as many words, and begins at so high a bit
        codes |= unpack_bits(blocks[..., at : at + width], width, 32) << np.uint8(at)
        at += width
    return np.ascontiguousarray(codes.reshape(*words.shape[:-1], -1)[..., :count])


def words_of(count: int, bits: int, word: int = 32) -> int:
    """Words that `count` codes take."""
    return -(-count * bits // word)


__all__ = ["unpack_bits", "unpack_planes", "words_of"]
