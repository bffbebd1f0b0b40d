"""Which matrices get more bits: the least loss within a number of bytes. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Choice:
    size: int  # bytes
    loss: float


def allocate(matrices: Sequence[Sequence[Choice]], budget: int) -> list[int]:
    """For each matrix the index of one of its choices; together they take at most `budget` bytes.

    Steps from one choice to a larger one are taken in the order of the loss that a byte of them saves, as long as they
    fit; then what is left is given to whatever still fits. That is the optimum but for the last bytes.
    Raises ValueError where not even the smallest choices fit.
    """
    chosen = [_smallest(some) for some in matrices]
    left = budget - sum(some[at].size for some, at in zip(matrices, chosen, strict=True))
    if left < 0:
        raise ValueError(f"the smallest choices take {budget - left} bytes; the budget is {budget}")
    steps = []
    for m, some in enumerate(matrices):
        for before, after in pairwise(_hull(some, chosen[m])):
            size, gain = some[after].size - some[before].size, some[before].loss - some[after].loss
            steps.append((-gain / size, m, before, after, size))
    for _, m, before, after, size in sorted(steps):
        if chosen[m] == before and size <= left:
            chosen[m] = after
            left -= size
    while (best := _best_rest(matrices, chosen, left)) is not None:
        m, after = best
        left -= matrices[m][after].size - matrices[m][chosen[m]].size
        chosen[m] = after
    return chosen


def _smallest(some: Sequence[Choice]) -> int:
    return min(range(len(some)), key=lambda i: (some[i].size, some[i].loss))


def _hull(some: Sequence[Choice], first: int) -> list[int]:
    """Choices from `first` on, each of which saves less for a byte than the one before: a convex line."""
    hull = [first]
    while True:
        at = some[hull[-1]]
        slopes = [
            ((at.loss - choice.loss) / (choice.size - at.size), -choice.size, i)
            for i, choice in enumerate(some)
            if choice.size > at.size and choice.loss < at.loss
        ]
        if not slopes:
            return hull
        hull.append(max(slopes)[2])


def _best_rest(
    matrices: Sequence[Sequence[Choice]], chosen: Sequence[int], left: int
) -> tuple[int, int] | None:
    """The choice that saves most of those that still fit."""
    rest = [
        (some[chosen[m]].loss - choice.loss, -m, -i)
        for m, some in enumerate(matrices)
        for i, choice in enumerate(some)
        if 0 < choice.size - some[chosen[m]].size <= left and choice.loss < some[chosen[m]].loss
    ]
    if not rest:
        return None
    _, m, i = max(rest)
    return -m, -i


__all__ = ["Choice", "allocate"]
