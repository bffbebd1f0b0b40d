"""The K types: 256 numbers with one fp16 scale, in groups of 16 or 32 whose own scales are small integers.

Codes lie in chunks: the bytes of a chunk hold as many numbers each as fit, a chunk's width apart (planes()). The
product of fp16 d and an integer of at most 8 bits is exact in fp32, so a group's scale is.
"""

import numpy as np

from llama4rt.convert.formats.gguf.blocks.packed import (
    Blocks,
    BlockType,
    Bytes,
    Decoded,
    planes,
    wide,
)
from llama4rt.convert.stored_rows import CodeLayout

_LENGTH = 256


def _chunks(packed: Bytes, width: int, bits: int) -> Bytes:
    """[n, bytes] -> codes [n, 256] of bytes in chunks of `width`."""
    return planes(packed.reshape(len(packed), -1, width), bits).reshape(len(packed), -1)


def _q2_k(blocks: Blocks) -> Decoded:
    """(d * s) * q - (dmin * m): a byte of `scales` has s in its low nibble and m in its high one."""
    scales = wide(blocks["d"]) * (blocks["scales"] & 15).astype(np.float32)
    offsets = -(wide(blocks["dmin"]) * (blocks["scales"] >> 4).astype(np.float32))
    return Decoded(_chunks(blocks["q"], 32, 2), scales, offsets)


def _q3_k(blocks: Blocks) -> Decoded:
    """(d * (s - 32)) * q, where q is 0..3 if the number's bit of `high` is set, and less by 4 if not.

    16 six-bit scales in 12 bytes: low halves as nibbles of the first 8, high pairs of bits in the last 4.
    """
    codes = _chunks(blocks["high"], 32, 1)
    codes <<= 2
    codes += _chunks(blocks["low"], 32, 2)
    codes += 4  # of an int4 code, 8 means 0: 4 .. 11 are -4 .. 3
    packed = blocks["scales"]
    small = planes(packed[:, :8], 4).reshape(-1, 16) | planes(packed[:, 8:], 2).reshape(-1, 16) << 4
    return Decoded(codes, wide(blocks["d"]) * (small.astype(np.float32) - np.float32(32)))


def _scales_and_mins(packed: Bytes) -> tuple[Bytes, Bytes]:
    """[n, 12] -> two of [n, 8], six bits each: of the first four groups in bytes 0..3 and 4..7; of the others the low
    nibbles share bytes 8..11, and the high two bits top up bytes 0..3 and 4..7.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    mins = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales, mins


def _with_mins(blocks: Blocks, codes: Bytes) -> Decoded:
    """(d * s) * q - (dmin * m)."""
    small, mins = _scales_and_mins(blocks["scales"])
    scales = wide(blocks["d"]) * small.astype(np.float32)
    return Decoded(codes, scales, -(wide(blocks["dmin"]) * mins.astype(np.float32)))


def _q4_k(blocks: Blocks) -> Decoded:
    return _with_mins(blocks, _chunks(blocks["q"], 32, 4))


def _q5_k(blocks: Blocks) -> Decoded:
    """As Q4_K, with a fifth bit."""
    codes = _chunks(blocks["high"], 32, 1)
    codes <<= 4
    codes += _chunks(blocks["low"], 32, 4)
    return _with_mins(blocks, codes)


def _q6_k(blocks: Blocks) -> Decoded:
    """(d * s) * (q - 32), s a signed byte."""
    codes = _chunks(blocks["high"], 32, 2)
    codes <<= 4
    codes += _chunks(blocks["low"], 64, 4)
    codes += 128 - 32  # of an int8 code, 128 means 0
    return Decoded(codes, wide(blocks["d"]) * blocks["scales"].astype(np.float32))


_D, _MIN = ("d", "<f2", 1), ("dmin", "<f2", 1)
_SCALES = ("scales", "u1", 12)
TYPES = (
    BlockType(
        "Q2_K",
        _LENGTH,
        (("scales", "u1", 16), ("q", "u1", 64), _D, _MIN),
        CodeLayout("int4", 16, "F32", offsets=True),
        _q2_k,
    ),
    BlockType(
        "Q3_K",
        _LENGTH,
        (("high", "u1", 32), ("low", "u1", 64), _SCALES, _D),
        CodeLayout("int4", 16, "F32"),
        _q3_k,
    ),
    BlockType(
        "Q4_K",
        _LENGTH,
        (_D, _MIN, _SCALES, ("q", "u1", 128)),
        CodeLayout("int4", 32, "F32", offsets=True),
        _q4_k,
    ),
    BlockType(
        "Q5_K",
        _LENGTH,
        (_D, _MIN, _SCALES, ("high", "u1", 32), ("low", "u1", 128)),
        CodeLayout("int8", 32, "F32", offsets=True),
        _q5_k,
    ),
    BlockType(
        "Q6_K",
        _LENGTH,
        (("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), _D),
        CodeLayout("int8", 16, "F32"),
        _q6_k,
    ),
)

__all__ = ["TYPES"]
