"""The types whose 4-bit codes name one of sixteen numbers: IQ4_NL, IQ4_XS, and the 4-bit floats MXFP4 and NVFP4."""

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.formats.gguf.blocks.packed import (
    Blocks,
    BlockType,
    Decoded,
    planes,
)
from llama4rt.convert.stored_rows import CodeLayout

_NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# e2m1 (1 sign, 2 exponent bits, 1 mantissa bit), doubled to be whole: so scales below are halved.
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def _iq4_nl(blocks: Blocks) -> Decoded:
    """d * table[q]."""
    return Decoded(planes(blocks["q"], 4), blocks["d"])


def _iq4_xs(blocks: Blocks) -> Decoded:
    """(d * (s - 32)) * table[q] in groups of 32; s has low nibbles in `scales` and high pairs of bits in `high`."""
    packed = blocks["scales"]
    low = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1, 8)
    high = blocks["high"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = (low + (high << 4)).astype(np.int8) - np.int8(32)
    codes = planes(blocks["q"].reshape(-1, 8, 16), 4)
    return Decoded(codes, scales, factors=blocks["d"])


def _powers_of_two() -> NDArray[np.uint16]:
    """What the 256 codes of E8M0 mean, halved, as bits of bf16: 2^(e - 128). The first two are subnormal."""
    powers = np.ldexp(np.float32(1), np.arange(256) - 128).astype(np.float32)
    bits: NDArray[np.uint16] = (powers.view(np.uint32) >> 16).astype(np.uint16)
    return bits


_E8M0_HALVED = _powers_of_two()
_HALF = np.full(1, 0.5, np.float32)


def _mxfp4(blocks: Blocks) -> Decoded:
    return Decoded(planes(blocks["q"], 4), _E8M0_HALVED[blocks["e"]])


def _nvfp4(blocks: Blocks) -> Decoded:
    """Four groups of 16, each with its own scale and its own 8 bytes. A scale is e4m3, halved here for the table; ggml
    looks at no sign, takes the NaN 0x7F for 0, and 0xFF, which no writer makes, for 480: that one stays NaN here and is
    refused.
    """
    scales = np.where(blocks["scales"] == 0x7F, np.uint8(0), blocks["scales"] & 0x7F)
    return Decoded(planes(blocks["q"].reshape(-1, 4, 8), 4), scales, factors=_HALF)


_D = ("d", "<f2", 1)
TYPES = (
    BlockType(
        "IQ4_NL", 32, (_D, ("q", "u1", 16)), CodeLayout("table4", 32, "F16", table=_NONLINEAR), _iq4_nl
    ),
    BlockType(
        "IQ4_XS",
        256,
        (_D, ("high", "<u2", 1), ("scales", "u1", 4), ("q", "u1", 128)),
        CodeLayout("table4", 32, "I8", table=_NONLINEAR, factor_dtype="F16"),
        _iq4_xs,
    ),
    BlockType(
        "MXFP4", 32, (("e", "u1", 1), ("q", "u1", 16)), CodeLayout("table4", 32, "BF16", table=_E2M1), _mxfp4
    ),
    BlockType(
        "NVFP4",
        64,
        (("scales", "u1", 4), ("q", "u1", 32)),
        CodeLayout("table4", 16, "F8_E4M3", table=_E2M1, row_factors=True),
        _nvfp4,
    ),
)

__all__ = ["TYPES"]
