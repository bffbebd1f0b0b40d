"""Rows of a checkpoint's matrix as they are handed to the engine's writer: Values, which it quantises, or Codes, which
it stores without quantising a second time.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core

# Element types that are read; bf16 travels as its 16 bits, because numpy has no such type.
NUMPY_DTYPES = {
    "BF16": "<u2",
    "F16": "<f2",
    "F32": "<f4",
    "I8": "i1",
    "U8": "u1",
    "I32": "<i4",
    "U32": "<u4",
    "I64": "<i8",
    "F8_E4M3": "u1",  # small floats travel as their codes
    "F8_E8M0": "u1",
}
# Inputs that may share a scale in an engine file, largest first: each is a multiple of the next.
GROUP_SIZES = tuple(reversed(_core.group_sizes()))
# Kinds of weights that are stored as codes, by name.
CODE_KINDS = {format.name: format for format in _core.weight_formats() if format.is_scaled}
TABLE_SIZE = 16  # numbers that the codes of a "table4" weight name
# Types of scales and offsets. Those of FACTORED are multiplied with a factor, one of FACTOR_DTYPES, that FACTOR_INPUTS
# inputs share, or the whole row.
SCALE_DTYPES = ("BF16", "F16", "F32", "I8", "F8_E4M3")
FACTORED = ("I8", "F8_E4M3")
FACTOR_DTYPES = ("F16", "F32")
FACTOR_INPUTS = 256


@dataclass(frozen=True)
class Values:
    """Plain numbers."""

    array: NDArray[Any]  # [rows, in], [in, rows] where `transposed`, or [rows]; of the type in NUMPY_DTYPES
    dtype: str
    transposed: bool = False

    def as_float32(self) -> NDArray[np.float32]:
        """The same numbers, exactly. Only for floating-point types."""
        return as_float32(self.array, self.dtype)


@dataclass(frozen=True)
class CodeLayout:
    """How codes mean numbers. With s, z and o the scale, zero point and offset of group k / group_size of row n:

        int4, int8     value[n, k] = (code[n, k] - z) * s + o
        fp8            value[n, k] = e4m3fn(code[n, k]) * s
        table4         value[n, k] = table[code[n, k]] * s

    in fp32, product and sum rounded each. Without zero points z is 0 where there are offsets, else the kind's own.
    Scales and offsets of 8 bits are themselves products: s = number * factor, rounded to fp32.
    """

    kind: str  # one of CODE_KINDS
    group_size: int  # inputs, one of GROUP_SIZES; a row's last group may be shorter
    scale_dtype: str  # one of SCALE_DTYPES; of scales and offsets
    zeros: bool = False  # whether zero points are stored
    offsets: bool = False  # whether offsets are stored; beside zero points only in common layouts
    table: tuple[int, ...] | None = None  # of "table4": what the codes 0..15 mean, each in -128..127
    factor_dtype: str = "F32"  # one of FACTOR_DTYPES; of scales that have some
    row_factors: bool = False  # a factor for each row, instead of one for each FACTOR_INPUTS of its inputs

    def __post_init__(self) -> None:
        if self.kind not in CODE_KINDS:
            raise ValueError(f"kind is {self.kind!r}; it must be one of {', '.join(CODE_KINDS)}")
        if self.group_size not in GROUP_SIZES:
            raise ValueError(f"group_size is {self.group_size}; it must be one of {GROUP_SIZES}")
        if self.scale_dtype not in SCALE_DTYPES:
            raise ValueError(
                f"scale_dtype is {self.scale_dtype!r}; it must be one of {', '.join(SCALE_DTYPES)}"
            )
        if self.factor_dtype not in FACTOR_DTYPES:
            raise ValueError(f"factor_dtype is {self.factor_dtype!r}; it must be one of {FACTOR_DTYPES}")
        if not self.factored and (self.factor_dtype != "F32" or self.row_factors):
            raise ValueError(f"scales of {self.scale_dtype} have no factors")
        format = CODE_KINDS[self.kind]
        if (self.zeros and not format.may_have_zeros) or (self.offsets and not format.may_have_offsets):
            raise ValueError(f"{self.kind} codes have neither zero points nor offsets")
        if (self.kind == "table4") != (self.table is not None):
            raise ValueError("a layout has a table when it is table4, and only then")
        if self.table is not None and (
            len(self.table) != TABLE_SIZE or not all(-128 <= entry <= 127 for entry in self.table)
        ):
            raise ValueError(f"table is {self.table}; it must be {TABLE_SIZE} numbers in -128..127")

    @property
    def bits(self) -> int:
        """Of one code."""
        return CODE_KINDS[self.kind].bits

    @property
    def zero(self) -> int:
        """The zero point of groups that store none."""
        return 0 if self.offsets else CODE_KINDS[self.kind].zero

    @property
    def factored(self) -> bool:
        """Whether scales and offsets have factors."""
        return self.scale_dtype in FACTORED

    def factor_columns(self, into: int) -> int:
        """Factors of a row of `into` inputs."""
        return 1 if self.row_factors else -(-into // FACTOR_INPUTS)

    def with_plain_scales(self) -> "CodeLayout":
        """The same with scales and offsets of fp32, which keep all their numbers."""
        return replace(self, scale_dtype="F32", factor_dtype="F32", row_factors=False)

    def with_wide_factors(self) -> "CodeLayout":
        """The same with factors of fp32 for every FACTOR_INPUTS inputs, as GPUs take them; they keep their numbers."""
        return replace(self, factor_dtype="F32", row_factors=False)


@dataclass(frozen=True)
class Codes:
    """Quantised numbers, one code to a byte."""

    layout: CodeLayout
    codes: NDArray[np.uint8]  # [rows, in]
    scales: NDArray[Any]  # [rows, groups]; bf16 and e4m3 as their bits
    zeros: NDArray[np.uint8] | None = None  # [rows, groups], when the layout has them
    offsets: NDArray[Any] | None = None  # [rows, groups] as scales, when the layout has them
    factors: NDArray[Any] | None = None  # [rows, factor_columns()] of scales, when they have some
    offset_factors: NDArray[Any] | None = None  # as factors, of offsets
    # Where the codes were made from numbers: sums of (number - value)^2 and number^2, and the largest error.
    error: tuple[float, float, float] | None = None

    def in_layout(self, layout: CodeLayout) -> "Codes":
        """The same numbers in a layout that common_layout() made of this one and others."""
        codes, zeros, zero = self.codes, self.zeros, self.layout.zero
        factors, offset_factors = self.factors, self.offset_factors
        scales, offsets = self.scales, self.offsets
        if self.layout.scale_dtype != layout.scale_dtype:
            scales, offsets, factors, offset_factors = self.plain_scales(), self.plain_offsets(), None, None
        elif layout.factored:
            columns = layout.factor_columns(codes.shape[1])
            factors, offset_factors = (
                of
                if of is None
                else np.broadcast_to(of.astype(NUMPY_DTYPES[layout.factor_dtype]), (len(codes), columns))
                for of in (factors, offset_factors)
            )
        if self.layout.kind != layout.kind:  # to int8; the table of a table4 may differ from other pieces'
            if self.layout.table is not None:
                entries = np.array(self.layout.table, dtype=np.int16) + CODE_KINDS["int8"].zero
                codes, zero = entries.astype(np.uint8)[codes], CODE_KINDS["int8"].zero
            elif not layout.zeros and not layout.offsets:
                codes = codes + np.uint8(layout.zero - zero)
        if layout.zeros and zeros is None:
            zeros = np.full(scales.shape, zero, dtype=np.uint8)
        if layout.offsets and offsets is None:
            offsets = np.zeros_like(scales)
            offset_factors = None if factors is None else np.zeros_like(factors)
        repeat = self.layout.group_size // layout.group_size
        groups = -(-codes.shape[1] // layout.group_size)
        return Codes(
            layout,
            codes,
            repeat_groups(scales, repeat, groups),
            None if zeros is None else repeat_groups(zeros, repeat, groups),
            None if offsets is None else repeat_groups(offsets, repeat, groups),
            factors,
            offset_factors,
            self.error,
        )

    def values(self) -> Values:
        """What the codes mean, in fp32."""
        layout = self.layout
        group_of = np.arange(self.codes.shape[1]) // layout.group_size
        numbers: NDArray[np.float32]
        if layout.table is not None:
            numbers = np.array(layout.table, dtype=np.float32)[self.codes]
        elif layout.kind == "fp8":
            numbers = e4m3_numbers()[self.codes]
        elif self.zeros is None:
            numbers = self.codes.astype(np.float32) - np.float32(layout.zero)
        else:
            numbers = self.codes.astype(np.float32) - self.zeros.astype(np.float32)[:, group_of]
        numbers *= self.plain_scales()[:, group_of]
        offsets = self.plain_offsets()
        if offsets is not None:
            numbers += offsets[:, group_of]
        return Values(numbers, "F32")

    def plain_scales(self) -> NDArray[np.float32]:
        """[rows, groups], with their factors in them."""
        return self._fp32(self.scales, self.factors)

    def plain_offsets(self) -> NDArray[np.float32] | None:
        """As plain_scales()."""
        return None if self.offsets is None else self._fp32(self.offsets, self.offset_factors)

    def _fp32(self, numbers: NDArray[Any], factors: NDArray[Any] | None) -> NDArray[np.float32]:
        wide = as_float32(numbers, self.layout.scale_dtype)
        if factors is None:
            return wide
        if self.layout.row_factors:
            return wide * np.asarray(factors, dtype=np.float32)
        factor_of = np.arange(wide.shape[1]) * self.layout.group_size // FACTOR_INPUTS
        return wide * np.asarray(factors, dtype=np.float32)[:, factor_of]


@functools.cache
def e4m3_numbers() -> NDArray[np.float32]:
    """What the 256 codes of e4m3fn mean: 4 bits of exponent with bias 7, 3 of mantissa; no infinity, two NaN."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10))
    numbers: NDArray[np.float32] = np.where(code < 128, magnitude, -magnitude).astype(np.float32)
    numbers[[0x7F, 0xFF]] = np.nan
    return numbers


def as_float32(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Exact fp32 values of a floating-point array of this stored type."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E4M3":
        numbers: NDArray[np.float32] = e4m3_numbers()[values]
        return numbers
    return values.astype(np.float32)


def repeat_groups(values: NDArray[Any], repeat: int, groups: int) -> NDArray[Any]:
    """[rows, wide groups] -> [rows, groups], each value `repeat` times; the last as often as there are groups left."""
    return np.ascontiguousarray(np.repeat(values, repeat, axis=1)[:, :groups])


def group_size_for(source_group: int, into: int) -> int | None:
    """The largest group size of engine files that repeats the scales of groups of `source_group` inputs exactly.

    into: inputs of a row; a group as wide as the row fits every size. None: no size divides the groups.
    """
    if source_group >= into:
        return GROUP_SIZES[0]
    return next((size for size in GROUP_SIZES if source_group % size == 0), None)


def common_layout(layouts: Sequence[CodeLayout]) -> CodeLayout | None:
    """The layout in which matrices of these layouts keep their numbers when they share one weight; None: none does.

    4-bit codes that differ in kind or table become int8, where each is the same whole number. A piece without offsets
    beside one that has them gets the offset 0, and both their zero points: adding 0 rounds nothing.
    """
    kinds = {layout.kind for layout in layouts}
    tables = {layout.table for layout in layouts}
    if "fp8" in kinds and len(kinds) > 1:
        return None
    same = len(kinds) == 1 and len(tables) == 1
    offsets = any(layout.offsets for layout in layouts)
    scale_dtypes = {layout.scale_dtype for layout in layouts}
    scale_dtype = layouts[0].scale_dtype if len(scale_dtypes) == 1 else "F32"
    factored = scale_dtype in FACTORED
    return CodeLayout(
        layouts[0].kind if same else "int8",
        group_size=min(layout.group_size for layout in layouts),
        scale_dtype=scale_dtype,
        zeros=any(layout.zeros or layout.offsets != offsets for layout in layouts),
        offsets=offsets,
        table=layouts[0].table if same else None,
        factor_dtype="F16" if factored and all(layout.factor_dtype == "F16" for layout in layouts) else "F32",
        row_factors=factored and all(layout.row_factors for layout in layouts),
    )


__all__ = [
    "CODE_KINDS",
    "FACTORED",
    "FACTOR_DTYPES",
    "FACTOR_INPUTS",
    "GROUP_SIZES",
    "NUMPY_DTYPES",
    "SCALE_DTYPES",
    "TABLE_SIZE",
    "CodeLayout",
    "Codes",
    "Values",
    "as_float32",
    "common_layout",
    "e4m3_numbers",
    "group_size_for",
    "repeat_groups",
]
