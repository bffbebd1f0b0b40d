"""Stacks of all experts [E, in, out], as Hugging Face's Llama 4 has them, in FP8 and NVFP4. With P for the name of the
stack, `....experts.gate_up_proj` or `....experts.down_proj`:

    P                  F8_E4M3 [E, in, out], or U8 [E, in / 2, out]: two e2m1 codes along `in`, the first in low bits
    P_scale            transformers' fbgemm_fp8: F32, one for each output: [E, 1, out] or [E, out, 1]
    P_weight_scale     ModelOpt: of FP8 one number for all experts, one for each [E], or for each output [E, out];
                       of NVFP4 F8_E4M3 [E, in / 16, out]
    P_weight_scale_2   ModelOpt's NVFP4: F32, one number for all experts, or one for each
    P_bias             never of Llama 4: left over, and so refused

FP8: value = e4m3 * scale; NVFP4: value = e2m1 * (scale * scale_2), each product rounded to fp32. As in fp4.py, twice
the numbers of e2m1 go in, and half of scale_2.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from llama4rt.convert.checkpoint import FLOAT_DTYPES, Checkpoint, TensorInfo
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.formats.parts import Parts, kept_type
from llama4rt.convert.formats.small_floats import E2M1_DOUBLED, half_of
from llama4rt.convert.stored_rows import GROUP_SIZES, CodeLayout, Codes, group_size_for
from llama4rt.errors import CheckpointError

_STACKS = (".experts.gate_up_proj", ".experts.down_proj")


class FusedFloat8:
    """The Format of FP8 stacks."""

    title: ClassVar[str] = "FP8 of fused experts (FBGEMM, ModelOpt)"
    quant_methods: ClassVar[tuple[str, ...]] = ("fbgemm_fp8", "modelopt")

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        names = checkpoint.names()
        found = [n for n, info in names.items() if n.endswith(_STACKS) and info.dtype == "F8_E4M3"]
        return {name: Float8Stack(checkpoint, name) for name in found}


class FusedNvfp4:
    """The Format of NVFP4 stacks."""

    title: ClassVar[str] = "NVFP4 of fused experts (ModelOpt)"
    quant_methods: ClassVar[tuple[str, ...]] = ("modelopt",)

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        names = checkpoint.names()
        found = [n for n, info in names.items() if n.endswith(_STACKS) and info.dtype == "U8"]
        return {name: Nvfp4Stack(checkpoint, name) for name in found}


class Float8Stack:
    """One stack of FP8. `name` is the stack's."""

    def __init__(self, base: Checkpoint, name: str) -> None:
        named = {"weight": name, "scale": f"{name}_scale", "weight_scale": f"{name}_weight_scale"}
        self._name = name
        self._parts = Parts(base, named)
        self._shape = self._parts.info("weight").shape
        self._scale = "scale" if "scale" in self._parts else "weight_scale"
        dtype = kept_type(self._parts.info(self._scale).dtype)
        self.info = TensorInfo(
            "FP8", self._shape, CodeLayout("fp8", GROUP_SIZES[0], dtype), self._parts.stored
        )

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        parts = self._parts
        problems = parts.misshapen([("weight", ("F8_E4M3",), shape)])
        if self._scale not in parts:
            problems.append(f"{self._name}_weight_scale: is missing")
        if problems or len(shape) != 3:
            return problems or [
                f"{parts.said('weight')}: is a stack of experts; expected {TensorInfo('BF16', shape)}"
            ]
        if "scale" in parts and "weight_scale" in parts:
            problems.append(
                f"{parts.said('weight_scale')}: stands beside {parts.said('scale')}; one of them is right"
            )
        return problems + parts.misshapen([(self._scale, FLOAT_DTYPES, self._scale_shapes(shape))])

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Codes:
        layout = self.info.codes
        assert layout is not None and expert is not None
        experts, into, out = self._shape
        last = out if last is None else last
        stack = self._parts.array(base, "weight", expert, expert + 1)[0]
        codes = np.ascontiguousarray(stack[:, first:last].T)
        stored = self._parts.array(base, self._scale)
        if stored.size == experts * out:
            own = stored.reshape(experts, out)[expert, first:last]
        else:
            own = np.repeat(stored.reshape(-1)[expert if stored.size > 1 else 0], last - first)
        return Codes(layout, codes, np.repeat(own[:, None], -(-into // layout.group_size), axis=1))

    @staticmethod
    def _scale_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        experts, _, out = shape
        of_all: list[tuple[int, ...]] = [(), (1,), (1, 1, 1)]
        return [*of_all, (experts,), (experts, 1, 1), (experts, out), (experts, 1, out), (experts, out, 1)]


class Nvfp4Stack:
    """One stack of NVFP4. `name` is the stack's."""

    def __init__(self, base: Checkpoint, name: str) -> None:
        named = {"weight": name, "scale": f"{name}_weight_scale", "whole": f"{name}_weight_scale_2"}
        self._name = name
        self._parts = Parts(base, named)
        packed, scale = self._parts.info("weight").shape, self._parts.info("scale").shape
        experts, half, out = packed if len(packed) == 3 else (0, 0, 0)
        self._shape = (experts, 2 * half, out)
        groups = scale[1] if len(scale) == 3 else 0
        size = 2 * half // groups if groups and 2 * half % groups == 0 else 0
        self._size = group_size_for(size, 2 * half) if size else None
        layout = (
            None if self._size is None else CodeLayout("table4", self._size, "F8_E4M3", table=E2M1_DOUBLED)
        )
        self._repeat = 1 if self._size is None else size // self._size
        self.info = TensorInfo("FP4", self._shape, layout, self._parts.stored)

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        parts = self._parts
        if len(shape) != 3:
            return [
                f"{parts.said('weight')}: is a packed stack of experts; expected {TensorInfo('BF16', shape)}"
            ]
        experts, into, out = shape
        problems = parts.misshapen([("weight", ("U8",), (experts, into // 2, out))])
        problems += [f"{self._name}_{part}: is missing" for part in self._missing()]
        scale = parts.info("scale").shape
        groups = scale[1] if len(scale) == 3 else into // 16
        problems += parts.misshapen(
            [
                ("scale", ("F8_E4M3",), (experts, groups, out)),
                ("whole", ("F32",), [(), (1,), (1, 1, 1), (experts,), (experts, 1, 1)]),
            ]
        )
        if not problems and self.info.codes is None:
            problems.append(
                f"{parts.said('scale')}: {groups} groups over {into} inputs; groups of a multiple of "
                f"{GROUP_SIZES[-1]} inputs can be imported"
            )
        return problems

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Codes:
        layout, parts = self.info.codes, self._parts
        assert layout is not None and expert is not None
        last = self._shape[2] if last is None else last
        packed = parts.array(base, "weight", expert, expert + 1)[0][:, first:last].T
        codes = np.empty((last - first, self._shape[1]), dtype=np.uint8)
        np.bitwise_and(packed, 15, out=codes[:, 0::2])
        np.right_shift(packed, 4, out=codes[:, 1::2])
        stored = parts.array(base, "scale", expert, expert + 1)[0][:, first:last].T
        wholes = parts.numbers(base, "whole").reshape(-1)
        whole = wholes[expert if wholes.size > 1 else 0]
        if not (np.isfinite(whole) and whole > 0):
            raise CheckpointError(f"{parts.said('whole')}: is {whole}; it must be positive and finite")
        factors = half_of(float(whole), last - first, self._shape[1])
        return Codes(layout, codes, np.repeat(stored, self._repeat, axis=1), factors=factors)

    def _missing(self) -> list[str]:
        return [
            n
            for part, n in (("scale", "weight_scale"), ("whole", "weight_scale_2"))
            if part not in self._parts
        ]


__all__ = ["Float8Stack", "FusedFloat8", "FusedNvfp4", "Nvfp4Stack"]
