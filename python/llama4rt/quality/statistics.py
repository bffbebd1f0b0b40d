"""Means with standard errors, over tokens and over windows.

Tokens of one window depend on each other: a hard passage is hard for many tokens in a row. Windows lie far apart, so
the error over windows is the honest one where there are enough of them; that over tokens is printed where there is one
window alone, and too small.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mean:
    value: float
    error_tokens: float | None  # standard error, taking tokens as independent; None: of one token
    error_windows: float | None  # taking windows as independent; None: of one window

    @property
    def error(self) -> float | None:
        return self.error_tokens if self.error_windows is None else self.error_windows

    def exp(self) -> "Mean":
        """e^mean, with errors to first order."""
        value = math.exp(min(self.value, 700.0))
        errors = [None if e is None else e * value for e in (self.error_tokens, self.error_windows)]
        return Mean(value, *errors)

    def as_json(self) -> dict[str, Any]:
        return {"mean": self.value, "error_tokens": self.error_tokens, "error_windows": self.error_windows}


def mean_of(windows: list[NDArray[np.float64]]) -> Mean:
    """One array of numbers for each window; windows may differ in length."""
    every = np.concatenate(windows)
    count, total = len(windows), len(every)
    mean = float(every.mean())
    tokens = float(every.std(ddof=1) / math.sqrt(total)) if total > 1 else None
    over_windows = None
    if count > 1:
        # Of a ratio of sums: windows weigh by their tokens.
        deviations = np.array([float(w.sum()) - mean * len(w) for w in windows])
        over_windows = math.sqrt(float((deviations**2).sum()) * count / (count - 1)) / total
    return Mean(mean, tokens, over_windows)


__all__ = ["Mean", "mean_of"]
