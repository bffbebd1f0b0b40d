"""Linears [out, in] of 8-bit numbers with scales beside them: FP8 and int8 in all the ways they are published.

    weight             F8_E4M3 or I8 [out, in]
    weight_scale       of the matrix, of each output [out] or [out, 1], of groups of inputs [out, groups], or of blocks
                       [out / 128, in / 128]; BF16, F16 or F32, or a power of two (e8m0: U8 or F8_E8M0)
    weight_scale_inv   the same under the name of fine-grained FP8; it multiplies, too
    weight_zero_point  I8, shaped as the scales; of asymmetric int8 only
    SCB                F32 [out], of bitsandbytes' LLM.int8: 127 times the scale

value = weight * scale, or (weight - zero) * scale, rounded to fp32 once. FP8 takes part as it is; int8 gets 128 added.
Of SCB, bitsandbytes computes (weight * SCB) * fp32(1 / 127) in two roundings; here scale = fp32(SCB * fp32(1 / 127)),
and the product is rounded: at most 2^-22 of a value apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import FLOAT_DTYPES, Checkpoint, TensorInfo
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.formats.parts import Parts, kept_type, numbers_of
from llama4rt.convert.formats.scale_grid import Block, declared_blocks, grid_of
from llama4rt.convert.formats.small_floats import e8m0_as_bf16
from llama4rt.convert.stored_rows import GROUP_SIZES, CodeLayout, Codes, as_float32

_WEIGHT = ".weight"
_SCALES = ("weight_scale", "weight_scale_inv", "SCB")
_POWERS = ("U8", "F8_E8M0")
_SCB_FACTOR = np.float32(7.874015718698502e-3)  # bitsandbytes' own 1 / 127


class Float8:
    """The Format of e4m3fn weights."""

    title: ClassVar[str] = "FP8 (compressed-tensors, FBGEMM, ModelOpt, fine-grained)"
    quant_methods: ClassVar[tuple[str, ...]] = ("compressed-tensors", "fbgemm_fp8", "fp8", "modelopt")

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        return _detect(checkpoint, "F8_E4M3", "fp8")


class Int8:
    """The Format of int8 weights."""

    title: ClassVar[str] = "int8 (compressed-tensors, LLM.int8)"
    quant_methods: ClassVar[tuple[str, ...]] = ("compressed-tensors", "bitsandbytes", "modelopt")

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        return _detect(checkpoint, "I8", "int8")


def _detect(checkpoint: Checkpoint, dtype: str, kind: str) -> dict[str, StoredMatrix]:
    blocks = declared_blocks(checkpoint.config())
    found = [n for n, info in checkpoint.names().items() if n.endswith(_WEIGHT) and info.dtype == dtype]
    return {name: EightBitLinear(checkpoint, name.removesuffix(_WEIGHT), kind, blocks) for name in found}


class EightBitLinear:
    """One linear in this form. `module` is its full name, without `.weight...`."""

    def __init__(self, base: Checkpoint, module: str, kind: str, blocks: Sequence[Block]) -> None:
        named = ("weight", *_SCALES, "weight_zero_point", "weight_format")
        self._parts = Parts(base, {part: f"{module}.{part}" for part in named})
        self._module = module
        self._kind = kind
        shape = self._parts.info("weight").shape
        self._out, self._into = shape if len(shape) == 2 else (0, 0)
        present = [part for part in _SCALES if part in self._parts]
        self._scale = present[0] if present else _SCALES[0]
        self._others = present[1:]
        scale = self._parts.info(self._scale)
        self._grid = grid_of(scale.shape, self._out, self._into, blocks)
        self._is_power = scale.dtype in _POWERS
        size = None if self._grid is None else self._grid.group_size(self._into)
        layout = None
        if size is not None:
            dtype = "BF16" if self._is_power else kept_type(scale.dtype)
            layout = CodeLayout(
                kind, size, dtype, zeros="weight_zero_point" in self._parts and kind == "int8"
            )
        self.info = TensorInfo(kind, (self._out, self._into), layout, self._parts.stored)

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        parts = self._parts
        scale = parts.info(self._scale)
        dtypes = ("F8_E4M3",) if self._kind == "fp8" else ("I8",)
        problems = parts.misshapen([("weight", dtypes, shape)])
        if self._scale not in parts:
            problems.append(f"{self._module}.{self._scale}: is missing")
        elif not problems and (self._grid is None or self.info.codes is None):
            problems.append(
                f"{parts.said(self._scale)}: is {scale}; expected one scale for the matrix, for each of {shape[0]} "
                f"outputs, for groups of a multiple of {GROUP_SIZES[-1]} inputs, or for blocks of 128 x 128"
            )
        elif scale.dtype not in (*FLOAT_DTYPES, *_POWERS):
            problems.append(
                f"{parts.said(self._scale)}: is {scale}; expected {', '.join((*FLOAT_DTYPES, *_POWERS))}"
            )
        problems += [
            f"{parts.said(part)}: stands beside {self._scale}; one of them is right" for part in self._others
        ]
        if "weight_zero_point" in parts:
            allowed = ("I8",) if self._kind == "int8" else ()
            problems += parts.misshapen([("weight_zero_point", allowed, scale.shape)])
        return problems or self._format_problems(base)

    def _format_problems(self, base: Checkpoint) -> list[str]:
        """bitsandbytes once had layouts for tensor cores; 0 is the plain one."""
        if "weight_format" in self._parts and bool(self._parts.array(base, "weight_format").any()):
            return [
                f"{self._parts.said('weight_format')}: is not 0 (rows); save the model with a newer bitsandbytes"
            ]
        return []

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Codes:
        layout, grid = self.info.codes, self._grid
        assert expert is None and layout is not None and grid is not None
        last = self._out if last is None else last
        codes = self._parts.array(base, "weight", first, last).view(np.uint8)
        if self._kind == "int8":
            codes = codes ^ np.uint8(0x80)  # two's complement to 0..255

        def expand(numbers: NDArray[Any]) -> NDArray[Any]:
            return grid.expand(numbers, first, last, self._into, layout.group_size)

        scales = expand(self._scales(base))
        zeros = None
        if layout.zeros:
            zeros = expand(self._parts.array(base, "weight_zero_point").view(np.uint8)) ^ np.uint8(0x80)
        return Codes(layout, codes, scales, zeros)

    def _scales(self, base: Checkpoint) -> NDArray[Any]:
        """All of them, of the layout's type."""
        parts, dtype = self._parts, self._parts.info(self._scale).dtype
        stored = parts.array(base, self._scale)
        if self._is_power:
            return e8m0_as_bf16(stored, 1, parts.said(self._scale))
        return numbers_of(as_float32(stored, dtype), _SCB_FACTOR) if self._scale == "SCB" else stored


__all__ = ["EightBitLinear", "Float8", "Int8"]
