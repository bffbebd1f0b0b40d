"""What a calibrated build may be told."""

import math
import os
from dataclasses import dataclass

from llama4rt.errors import ConfigError

# Tokens of the calibration text that are used. More help little (docs/quantization.md), and cost time and memory.
DEFAULT_TOKENS = 65_536
_FEWEST_TOKENS = 256
_MOST_TOKENS = 1 << 24
_BITS = (4.0, 9.0)

# Of csrc/calibrate/rounding_pass.h; measured in docs/quantization.md.
DAMPING = 0.01
IMPORTANCE = 1.0
FIRST_WEIGHT = 8.0
FEWEST_EXPERT_TOKENS = 32
MEASURING_TOKENS = 8192  # of the text, which say how many bits a matrix needs


@dataclass(frozen=True)
class CalibrationOptions:
    text: str | os.PathLike[str]  # "builtin", or a file
    tokens: int = DEFAULT_TOKENS
    bits: float | None = None  # of a quantised weight on average, scales included; None: all weights alike
    offsets: bool = False  # whether groups of uniform int4 have an offset beside their scale

    def __post_init__(self) -> None:
        if not _FEWEST_TOKENS <= self.tokens <= _MOST_TOKENS:
            raise ConfigError(
                f"calibrate_tokens is {self.tokens}; it must be in {_FEWEST_TOKENS}..{_MOST_TOKENS}"
            )
        if self.bits is not None and not (math.isfinite(self.bits) and _BITS[0] < self.bits <= _BITS[1]):
            raise ConfigError(f"bits is {self.bits}; it must be above {_BITS[0]:g} and at most {_BITS[1]:g}")


__all__ = [
    "DAMPING",
    "DEFAULT_TOKENS",
    "FEWEST_EXPERT_TOKENS",
    "FIRST_WEIGHT",
    "IMPORTANCE",
    "MEASURING_TOKENS",
    "CalibrationOptions",
]
