"""What adapters change in one tensor of the base: products of two factors to add, or a whole tensor in its place.

The product is summed in fp32 in a fixed order, one rank after another, each product and sum rounded. A library's
matrix product would be faster on large ranks and would sum in another order on every machine; builds give the same
bytes everywhere.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.lora.lora_files import LoraFiles

Floats = NDArray[np.float32]
Run = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]  # map(), or that of a pool of threads
# fp32 numbers of a block of rows that is summed at once: it stays in a core's cache from rank to rank.
_BLOCK_NUMBERS = 1 << 16


@dataclass(frozen=True)
class Factors:
    """left [rows, rank] and right [rank, in] of a matrix [rows, in], read when they are needed."""

    left: Callable[[int, int], Floats]  # of rows first..last
    right: Callable[[], Floats]


@dataclass(frozen=True)
class Delta:
    """scale * left @ right is added to outputs first..first + rows of a tensor, or of the experts of a stack."""

    adapter: str
    first: int
    rows: int
    scale: float
    factors: Callable[[int | None], Factors | None]  # of an expert; None: nothing is added to that one
    magnitude: Callable[[int, int], Floats] | None = None  # of rows first..last: DoRA's length of each


@dataclass(frozen=True)
class Replacement:
    """A whole tensor in the place of the base's."""

    adapter: str
    files: LoraFiles
    tensor: str

    def rows(self, first: int, last: int | None) -> Floats:
        return self.files.numbers(self.tensor, (slice(first, last),))


def add_product(out: Floats, left: Floats, right: Floats, scale: float, run: Run = map) -> None:
    """out [rows, in] += scale * left [rows, rank] @ right [rank, in]. run: calls a function for each block of rows, in
    any order or at once; a block's sums depend on nothing else.
    """
    rows, width = out.shape
    step = max(1, _BLOCK_NUMBERS // max(1, width))
    factor = np.float32(scale)

    def add(first: int) -> None:
        block = out[first : first + step]
        sums = np.zeros(block.shape, dtype=np.float32)
        product = np.empty_like(sums)
        for rank in range(left.shape[1]):
            np.multiply(left[first : first + step, rank, None], right[rank], out=product)
            np.add(sums, product, out=sums)
        np.multiply(sums, factor, out=sums)
        np.add(block, sums, out=block)

    for _ in run(add, range(0, rows, step)):
        pass


def merged_rows(
    values: Floats, deltas: tuple[Delta, ...], first: int, expert: int | None, run: Run = map
) -> Floats:
    """values: rows first.. of the base, which are changed in place."""
    last = first + len(values)
    for delta in deltas:
        low, high = max(first, delta.first), min(last, delta.first + delta.rows)
        factors = delta.factors(expert) if low < high else None
        if factors is None:
            continue
        part = values[low - first : high - first]
        left, right = factors.left(low - delta.first, high - delta.first), factors.right()
        add_product(part, left, right, delta.scale, run)
        if delta.magnitude is not None:
            lengths = np.sqrt(np.sum(part.astype(np.float64) ** 2, axis=1)).astype(np.float32)
            wanted = delta.magnitude(low - delta.first, high - delta.first)
            factor = np.divide(wanted, lengths, out=np.zeros_like(wanted), where=lengths != 0)
            np.multiply(part, factor[:, None], out=part)
    return values


def plain_factors(files: LoraFiles, a: str, b: str) -> Callable[[int | None], Factors]:
    """A [rank, in] and B [out, rank]."""
    found = Factors(lambda first, last: files.numbers(b, _rows(first, last)), lambda: files.numbers(a))
    return lambda expert: found


def swapped_factors(files: LoraFiles, a: str, b: str) -> Callable[[int | None], Factors]:
    """A [rank, out] and B [in, rank], of a matrix that was trained as [in, out]."""
    found = Factors(
        lambda first, last: np.ascontiguousarray(files.numbers(a, (slice(None), slice(first, last))).T),
        lambda: np.ascontiguousarray(files.numbers(b).T),
    )
    return lambda expert: found


def only_of(expert: int, factors: Callable[[int | None], Factors]) -> Callable[[int | None], Factors | None]:
    """Factors that change one expert of a stack."""
    return lambda at: factors(at) if at == expert else None


def stacked_factors(
    files: LoraFiles, a: str, b: str, experts: int, swapped: bool, begin: int = 0, only: int | None = None
) -> Callable[[int | None], Factors]:
    """Of PEFT's stack of experts: A is [experts, rank, in], B [out, rank, experts] with the expert the fastest.

    swapped: in and out have changed places. begin: of the outputs that count. only: the expert of a tensor that has
    one alone.
    """
    rank = files.infos[a].shape[0] // experts

    def factors(expert: int | None) -> Factors:
        e = expert if only is None else only
        assert e is not None
        of_a, of_b = slice(e * rank, (e + 1) * rank), slice(e, None, experts)
        if swapped:
            return Factors(
                lambda first, last: np.ascontiguousarray(
                    files.numbers(a, (of_a, slice(begin + first, begin + last))).T
                ),
                lambda: np.ascontiguousarray(files.numbers(b, (slice(None), of_b)).T),
            )
        return Factors(
            lambda first, last: files.numbers(b, (slice(begin + first, begin + last), of_b)),
            lambda: files.numbers(a, (of_a,)),
        )

    return factors


def _rows(first: int, last: int) -> tuple[Any, ...]:
    return (slice(first, last),)


__all__ = [
    "Delta",
    "Factors",
    "Floats",
    "Replacement",
    "Run",
    "add_product",
    "merged_rows",
    "only_of",
    "plain_factors",
    "stacked_factors",
    "swapped_factors",
]
