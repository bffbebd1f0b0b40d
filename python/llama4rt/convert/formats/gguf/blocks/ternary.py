"""TQ1_0 and TQ2_0: 256 numbers -1, 0 or 1 with one fp16 scale."""

import numpy as np

from llama4rt.convert.formats.gguf.blocks.packed import Blocks, BlockType, Bytes, Decoded, planes, wide
from llama4rt.convert.stored_rows import CodeLayout

_LENGTH = 256
# A code q means d * (q - 1), and an int4 code less 8.
_FROM_ONE = 8 - 1
_LAYOUT = CodeLayout("int4", 128, "F32")


def _digits(packed: Bytes, count: int) -> Bytes:
    """[n, w] -> [n, count, w]: the first `count` digits, base 3, of fractions of 256.

    A byte b is a fraction b / 256; its first digit is the whole part of 3 b / 256, the next that of what is left, which
    is 3 b in eight bits.
    """
    out = np.empty((len(packed), count, packed.shape[1]), dtype=np.uint8)
    rest = packed.astype(np.uint16)
    for place in range(count):
        rest *= 3
        out[:, place] = rest >> 8
        rest &= 255
    return out


def _tq1_0(blocks: Blocks) -> Decoded:
    """Five numbers to a byte in chunks of 32 and 16 bytes, the last 16 numbers four to a byte."""
    packed, n = blocks["q"], len(blocks)
    parts = [_digits(packed[:, :32], 5), _digits(packed[:, 32:], 5), _digits(blocks["last"], 4)]
    codes = np.concatenate([part.reshape(n, -1) for part in parts], axis=1)
    codes += _FROM_ONE
    return Decoded(codes, wide(blocks["d"]).repeat(2, axis=1))


def _tq2_0(blocks: Blocks) -> Decoded:
    codes = planes(blocks["q"].reshape(-1, 2, 32), 2)
    codes += _FROM_ONE
    return Decoded(codes, wide(blocks["d"]).repeat(2, axis=1))


TYPES = (
    BlockType("TQ1_0", _LENGTH, (("q", "u1", 48), ("last", "u1", 4), ("d", "<f2", 1)), _LAYOUT, _tq1_0),
    BlockType("TQ2_0", _LENGTH, (("q", "u1", 64), ("d", "<f2", 1)), _LAYOUT, _tq2_0),
)

__all__ = ["TYPES"]
