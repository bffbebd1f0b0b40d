"""Sixteen fractions as sixteen whole numbers and a unit: what a table of 4-bit codes becomes in an engine file."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

_FINEST = 127  # the largest entry of an engine's table
_COARSEST = 64
_STEPS = 16  # tries between two whole numbers


@dataclass(frozen=True)
class WholeNumberTable:
    """fractions[i] is about numbers[i] * unit; error: the largest difference, in parts of the largest fraction."""

    numbers: tuple[int, ...]
    unit: float
    error: float


@functools.lru_cache(maxsize=64)
def whole_number_table(fractions: tuple[float, ...]) -> WholeNumberTable:
    """The table of least squared error. Tables are trained so that each entry is about as frequent as any other, so all
    count the same. Plain sums, in order: every machine finds the same table.
    """
    largest = max(abs(number) for number in fractions)
    if largest == 0:
        return WholeNumberTable((0,) * len(fractions), 0.0, 0.0)
    best: tuple[float, tuple[int, ...], float] | None = None
    for step in range(_COARSEST * _STEPS, _FINEST * _STEPS + 1):
        numbers = tuple(round(number / largest * step / _STEPS) for number in fractions)
        unit = _dot(numbers, fractions) / _dot(numbers, numbers)
        error = sum((n * unit - f) ** 2 for n, f in zip(numbers, fractions, strict=True))
        if best is None or error < best[0]:
            best = error, numbers, unit
    assert best is not None
    _, numbers, unit = best
    worst = max(abs(n * unit - f) for n, f in zip(numbers, fractions, strict=True))
    return WholeNumberTable(numbers, unit, worst / largest)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


__all__ = ["WholeNumberTable", "whole_number_table"]
