"""The types whose 4-bit codes name one of sixteen numbers: IQ4_NL, IQ4_XS, and the 4-bit floats MXFP4 and NVFP4."""

import numpy as np

from llama4rt.convert.formats.gguf.blocks.packed import (
    Blocks,
    BlockType,
    Decoded,
    Floats,
    planes,
    wide,
)
from llama4rt.convert.stored_rows import CodeLayout

_NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# e2m1 (1 sign, 2 exponent bits, 1 mantissa bit), doubled to be whole: so scales below are halved.
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def _iq4_nl(blocks: Blocks) -> Decoded:
    """d * table[q]."""
    return Decoded(planes(blocks["q"], 4), wide(blocks["d"]))


def _iq4_xs(blocks: Blocks) -> Decoded:
    """(d * (s - 32)) * table[q] in groups of 32; s has low nibbles in `scales` and high pairs of bits in `high`."""
    packed = blocks["scales"]
    low = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1, 8)
    high = blocks["high"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = (low + (high << 4)).astype(np.float32) - np.float32(32)
    codes = planes(blocks["q"].reshape(-1, 8, 16), 4)
    return Decoded(codes, wide(blocks["d"]) * scales)


def _powers_of_two() -> Floats:
    """What the 256 codes of E8M0 mean, halved: 2^(e - 128). The first two are subnormal."""
    powers: Floats = np.ldexp(np.float32(1), np.arange(256) - 128).astype(np.float32)
    return powers


def _unsigned_e4m3() -> Floats:
    """What a scale byte of NVFP4 means, halved: 4 bits of exponent with bias 7 and 3 of mantissa; ggml looks at no
    sign, and takes the NaN 0x7F for 0.
    """
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    values: Floats = np.where(
        exponent == 0, np.ldexp(mantissa, -10), np.ldexp(8 + mantissa, exponent - 11)
    ).astype(np.float32)
    values[0x7F] = 0
    return values


_E8M0_HALVED = _powers_of_two()
_UE4M3_HALVED = _unsigned_e4m3()


def _mxfp4(blocks: Blocks) -> Decoded:
    return Decoded(planes(blocks["q"], 4), _E8M0_HALVED[blocks["e"]])


def _nvfp4(blocks: Blocks) -> Decoded:
    """Four groups of 16, each with its own scale and its own 8 bytes."""
    return Decoded(planes(blocks["q"].reshape(-1, 4, 8), 4), _UE4M3_HALVED[blocks["scales"]])


_D = ("d", "<f2", 1)
TYPES = (
    BlockType(
        "IQ4_NL", 32, (_D, ("q", "u1", 16)), CodeLayout("table4", 32, "F32", table=_NONLINEAR), _iq4_nl
    ),
    BlockType(
        "IQ4_XS",
        256,
        (_D, ("high", "<u2", 1), ("scales", "u1", 4), ("q", "u1", 128)),
        CodeLayout("table4", 32, "F32", table=_NONLINEAR),
        _iq4_xs,
    ),
    BlockType(
        "MXFP4", 32, (("e", "u1", 1), ("q", "u1", 16)), CodeLayout("table4", 32, "F32", table=_E2M1), _mxfp4
    ),
    BlockType(
        "NVFP4",
        64,
        (("scales", "u1", 4), ("q", "u1", 32)),
        CodeLayout("table4", 16, "F32", table=_E2M1),
        _nvfp4,
    ),
)

__all__ = ["TYPES"]
