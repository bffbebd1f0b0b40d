"""The types of 32 numbers with one fp16 scale: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.

A byte of `low` holds numbers j (its low nibble) and j + 16; of five bits the fifth is bit j of `high`.
"""

import numpy as np

from llama4rt.convert.formats.gguf.blocks.packed import (
    Blocks,
    BlockType,
    Bytes,
    Decoded,
    bits_of,
    planes,
    wide,
)
from llama4rt.convert.stored_rows import CodeLayout

_LENGTH = 32
_INT8_ZERO = 128


def _five_bits(blocks: Blocks) -> Bytes:
    codes = planes(blocks["low"], 4).reshape(-1, _LENGTH)
    codes += bits_of(blocks["high"]) << 4
    return codes


def _q4_0(blocks: Blocks) -> Decoded:
    """d * (q - 8)."""
    return Decoded(planes(blocks["low"], 4), wide(blocks["d"]))


def _q4_1(blocks: Blocks) -> Decoded:
    """d * q + m."""
    return Decoded(planes(blocks["low"], 4), wide(blocks["d"]), wide(blocks["m"]))


def _q5_0(blocks: Blocks) -> Decoded:
    """d * (q - 16)."""
    return Decoded(_five_bits(blocks) + np.uint8(_INT8_ZERO - 16), wide(blocks["d"]))


def _q5_1(blocks: Blocks) -> Decoded:
    """d * q + m."""
    return Decoded(_five_bits(blocks), wide(blocks["d"]), wide(blocks["m"]))


def _q8_0(blocks: Blocks) -> Decoded:
    """d * q, q a signed byte: with its sign bit turned it counts from -128."""
    return Decoded(blocks["q"] ^ np.uint8(_INT8_ZERO), wide(blocks["d"]))


_D, _M, _LOW, _HIGH = ("d", "<f2", 1), ("m", "<f2", 1), ("low", "u1", 16), ("high", "u1", 4)
_INT4, _INT4_M = (CodeLayout("int4", _LENGTH, "F32", offsets=m) for m in (False, True))
_INT8, _INT8_M = (CodeLayout("int8", _LENGTH, "F32", offsets=m) for m in (False, True))
TYPES = (
    BlockType("Q4_0", _LENGTH, (_D, _LOW), _INT4, _q4_0),
    BlockType("Q4_1", _LENGTH, (_D, _M, _LOW), _INT4_M, _q4_1),
    BlockType("Q5_0", _LENGTH, (_D, _HIGH, _LOW), _INT8, _q5_0),
    BlockType("Q5_1", _LENGTH, (_D, _M, _HIGH, _LOW), _INT8_M, _q5_1),
    BlockType("Q8_0", _LENGTH, (_D, ("q", "u1", 32)), _INT8, _q8_0),
)

__all__ = ["TYPES"]
