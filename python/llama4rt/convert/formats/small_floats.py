"""Numbers of 4, 6 and 8 bits, as tables and scales of the engine's codes.

e2m1 (FP4): sign, 2 bits of exponent with bias 1, 1 of mantissa; twice each number is whole: 0, 1, 2, 3, 4, 6, 8, 12.
e2m3 (FP6): sign, 2 bits of exponent with bias 1, 3 of mantissa; eight times each number is whole: 0 to 60.
e8m0: a power of two, 2^(code - 127); 255 is NaN. The sign of a zero is lost: an engine's tables hold whole numbers.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.stored_rows import FACTOR_INPUTS
from llama4rt.errors import CheckpointError

_E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12)
# Twice the number that a code means: a scale goes with half of itself.
E2M1_DOUBLED: tuple[int, ...] = (*_E2M1_DOUBLED, *(-number for number in _E2M1_DOUBLED))


@functools.cache
def e2m3_eightfold() -> NDArray[np.uint8]:
    """Eight times the number that each of 64 codes means, as a code of int8: plus 128."""
    code = np.arange(32)
    exponent, mantissa = code >> 3, code & 7
    magnitude = np.where(exponent == 0, mantissa, (8 + mantissa) << np.maximum(exponent - 1, 0))
    return (128 + np.concatenate([magnitude, -magnitude])).astype(np.uint8)


def e8m0_as_bf16(codes: NDArray[np.uint8], divisor: int, name: str) -> NDArray[np.uint16]:
    """2^(code - 127) / divisor, a power of two, as bits of bf16; exact. Raises CheckpointError for NaN."""
    if bool((codes == 255).any()):
        raise CheckpointError(f"{name}: a scale is NaN (e8m0 code 255); the checkpoint is damaged")
    powers = np.ldexp(np.float32(1 / divisor), codes.astype(np.int32) - 127)
    bits: NDArray[np.uint16] = (powers.view(np.uint32) >> 16).astype(np.uint16)
    return bits


def half_of(factor: float, rows: int, into: int) -> NDArray[np.float32]:
    """Half of a matrix's factor, for the scales of numbers that were doubled: as a layout has it, [rows, factors]."""
    with np.errstate(over="ignore"):  # an infinite one is refused where it is stored
        return np.full((rows, -(-into // FACTOR_INPUTS)), np.float32(factor / 2))


__all__ = ["E2M1_DOUBLED", "e2m3_eightfold", "e8m0_as_bf16", "half_of"]
