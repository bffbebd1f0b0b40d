"""`rope_freqs.weight`, the divisors of RoPE's frequencies, back to the numbers of the llama3 rule they came from.

A GGUF file has what the rule computes and not its four numbers. The factor is the largest divisor; the other three are
found by trying those that models have had, and what is found gives the divisors of the file.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Of the file's fp32 divisors, whose writers computed in fp32.
_TOLERANCE = 1e-4
_LOW_FACTORS = (1.0,)
_HIGH_FACTORS = (1.0, 4.0, 2.0, 8.0)
# Original context lengths: that of all published models, then other powers of two.
_LENGTHS = (8192.0, *(float(1 << power) for power in range(4, 21) if power != 13))


def llama3_divisors(
    theta: float, count: int, factor: float, low: float, high: float, original: float
) -> NDArray[np.float64]:
    """[count]: what each frequency theta^(-i / count) is divided by."""
    wavelength = 2 * math.pi * theta ** (np.arange(count) / count)
    turns = original / wavelength  # in the original context
    if high == low:
        smooth = (turns > high).astype(np.float64)
    else:
        smooth = np.clip((turns - low) / (high - low), 0, 1)
    divisors: NDArray[np.float64] = 1 / ((1 - smooth) / factor + smooth)
    return divisors


def llama3_rule(theta: float, divisors: NDArray[np.float32]) -> dict[str, float] | None:
    """rope_scaling of a config.json that gives these divisors; {} where they are all 1; None: no rule is found."""
    with np.errstate(invalid="ignore"):
        wanted = divisors.astype(np.float64)
    if not np.isfinite(wanted).all() or (wanted < 1 - _TOLERANCE).any():
        return None
    factor = float(divisors.max())
    if factor <= 1 + _TOLERANCE:
        return {}
    for low, high, original in _candidates():
        found = llama3_divisors(theta, len(wanted), factor, low, high, original)
        if np.allclose(found, wanted, rtol=_TOLERANCE, atol=0):
            return {
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    return None


def _candidates() -> Iterator[tuple[float, float, float]]:
    for original, low, high in itertools.product(_LENGTHS, _LOW_FACTORS, _HIGH_FACTORS):
        if low <= high:
            yield low, high, original


__all__ = ["llama3_divisors", "llama3_rule"]
