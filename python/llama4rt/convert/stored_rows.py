"""Rows of a checkpoint's matrix as they are handed to the engine's writer: Values, which it quantises, or Codes, which
it stores without quantising a second time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
    "I64": "<i8",
}
# Inputs that share a scale in an engine file, largest first: each is a multiple of the next.
GROUP_SIZES = tuple(reversed(_core.group_sizes()))
_FORMATS = {format.name: format for format in _core.weight_formats()}


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
    """How codes mean numbers: value[n, k] = (code[n, k] - zero[n, k / group_size]) * scale[n, k / group_size]."""

    kind: str  # of a weight in an engine file: "int4"
    group_size: int  # inputs, one of GROUP_SIZES; a row's last group may be shorter
    scale_dtype: str  # "BF16" or "F32"
    zeros: bool  # whether zero points are stored; without them every zero is 8

    @property
    def bits(self) -> int:
        """Of one code."""
        return _FORMATS[self.kind].bits

    @property
    def symmetric_zero(self) -> int:
        return _FORMATS[self.kind].zero


@dataclass(frozen=True)
class Codes:
    """Quantised numbers, one code to a byte."""

    layout: CodeLayout
    codes: NDArray[np.uint8]  # [rows, in]
    scales: NDArray[Any]  # [rows, groups]; bf16 as its bits
    zeros: NDArray[np.uint8] | None  # [rows, groups], when the layout has them

    def in_layout(self, layout: CodeLayout) -> "Codes":
        """The same numbers with groups that divide these, scales at least as wide, and zero points if asked for."""
        repeat = self.layout.group_size // layout.group_size
        groups = -(-self.codes.shape[1] // layout.group_size)
        scales: NDArray[Any] = self.scales
        if layout.scale_dtype != self.layout.scale_dtype:
            scales = as_float32(scales, self.layout.scale_dtype)
        zeros = self.zeros
        if zeros is None and layout.zeros:
            zeros = np.full(scales.shape, layout.symmetric_zero, dtype=np.uint8)
        return Codes(
            layout,
            self.codes,
            repeat_groups(scales, repeat, groups),
            None if zeros is None else repeat_groups(zeros, repeat, groups),
        )

    def values(self) -> Values:
        """What the codes mean, in fp32."""
        wide = as_float32(self.scales, self.layout.scale_dtype)
        group_of = np.arange(self.codes.shape[1]) // self.layout.group_size
        zeros = np.float32(self.layout.symmetric_zero)
        offsets = zeros if self.zeros is None else self.zeros.astype(np.float32)[:, group_of]
        return Values((self.codes.astype(np.float32) - offsets) * wide[:, group_of], "F32")


def as_float32(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Exact fp32 values of a floating-point array of this stored type."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
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
    """The layout in which matrices of these layouts keep their numbers when they share one weight; None: none does."""
    if len({layout.kind for layout in layouts}) != 1:
        return None
    return CodeLayout(
        layouts[0].kind,
        group_size=min(layout.group_size for layout in layouts),
        scale_dtype="BF16" if all(layout.scale_dtype == "BF16" for layout in layouts) else "F32",
        zeros=any(layout.zeros for layout in layouts),
    )


__all__ = [
    "GROUP_SIZES",
    "NUMPY_DTYPES",
    "CodeLayout",
    "Codes",
    "Values",
    "as_float32",
    "common_layout",
    "group_size_for",
    "repeat_groups",
]
