"""Linears [out, in] of FP4 (e2m1) numbers: NVFP4 and MXFP4, by compressed-tensors and by NVIDIA's ModelOpt; and MXFP6.

                          compressed-tensors       ModelOpt
    two codes a byte      weight_packed U8         weight U8           [out, in / 2], the first in the low 4 bits
    scale of a group      weight_scale             weight_scale        F8_E4M3 [out, in / 16] (NVFP4),
                                                                       U8 or F8_E8M0 [out, in / 32] (MXFP4: 2^(s - 127))
    scale of the matrix   weight_global_scale      weight_scale_2      F32, one number, of NVFP4 only
    value                 e2m1 * (scale / global)  e2m1 * (scale * global)

The scales are combined in fp32 first, rounded, and then multiplied, rounded, by both writers. Stored are twice the
numbers of e2m1, which are whole; the scales of e4m3 as they are; and half of scale_2, or of fp32(1 / global), as their
factor. So ModelOpt's values are the same to the bit, and those of compressed-tensors, which divides, within 2^-21 of
themselves: five roundings in all. Half of MXFP4's scales is exact in bf16.
MXFP6 of compressed-tensors (e2m3, four codes in three bytes) becomes int8 with an eighth of the scale, as exactly.
"""

from collections.abc import Mapping
from typing import ClassVar

from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.formats.packed_bits import unpack_bits
from llama4rt.convert.formats.parts import Parts
from llama4rt.convert.formats.small_floats import E2M1_DOUBLED, e2m3_eightfold, e8m0_as_bf16, half_of
from llama4rt.convert.stored_rows import CodeLayout, Codes

_NV_GROUPS = (16, 32)
_MX_GROUP = 32


class Fp4:
    """The Format."""

    title: ClassVar[str] = "NVFP4, MXFP4 and MXFP6 (compressed-tensors, ModelOpt)"
    quant_methods: ClassVar[tuple[str, ...]] = ("compressed-tensors", "modelopt")

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        """By bytes in the place of numbers, and scales for them: bitsandbytes and MLX name theirs otherwise."""
        names = checkpoint.names()
        found: dict[str, StoredMatrix] = {}
        for name, info in names.items():
            module, _, part = name.rpartition(".")
            if info.dtype != "U8" or part not in ("weight", "weight_packed"):
                continue
            if part == "weight_packed" or f"{module}.weight_scale" in names:
                found[f"{module}.weight"] = Fp4Linear(checkpoint, module, part)
        return found


class Fp4Linear:
    """One linear in this form. `module` is its full name, without `.weight...`; `main` the part with the codes."""

    def __init__(self, base: Checkpoint, module: str, main: str) -> None:
        self._module = module
        self._main = main
        self._whole = "weight_global_scale" if main == "weight_packed" else "weight_scale_2"
        named = (main, "weight_scale", self._whole)
        self._parts = Parts(base, {part: f"{module}.{part}" for part in named})
        packed, scale = self._parts.info(main).shape, self._parts.info("weight_scale")
        self._is_nv = scale.dtype == "F8_E4M3"
        self._bits = 4
        if len(packed) == 2 and len(scale.shape) == 2 and packed[1] == scale.shape[1] * _MX_GROUP * 6 // 8:
            self._bits = 6  # 24 bytes for a scale; of FP4, 16 or 8
        self._out, self._into = (packed[0], packed[1] * 8 // self._bits) if len(packed) == 2 else (0, 0)
        layout = self._layout(scale)
        kind = "FP4" if self._bits == 4 else "FP6"
        self.info = TensorInfo(kind, (self._out, self._into), layout, self._parts.stored)

    def _layout(self, scale: TensorInfo) -> CodeLayout | None:
        groups = scale.shape[1] if len(scale.shape) == 2 else 0
        size = self._into // groups if groups and self._into % groups == 0 else 0
        if size not in (_NV_GROUPS if self._is_nv else (_MX_GROUP,)):
            return None
        dtype = "F8_E4M3" if self._is_nv else "BF16"
        if self._bits == 6:
            return CodeLayout("int8", size, dtype)
        return CodeLayout("table4", size, dtype, table=E2M1_DOUBLED)

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        parts = self._parts
        if len(shape) != 2:
            return [f"{parts.said(self._main)}: is a packed matrix; expected {TensorInfo('BF16', shape)}"]
        out, into = shape
        problems = parts.misshapen(
            [
                (self._main, ("U8",), (out, into * self._bits // 8)),
                (
                    "weight_scale",
                    ("F8_E4M3", "U8", "F8_E8M0"),
                    [(out, into // size) for size in (_NV_GROUPS if self._is_nv else (_MX_GROUP,))],
                ),
                (self._whole, ("F32",), [(1,), (), (1, 1)]),
            ]
        )
        wanted = ("weight_scale", self._whole) if self._is_nv else ("weight_scale",)
        problems += [f"{self._module}.{part}: is missing" for part in wanted if part not in parts]
        if not self._is_nv and self._whole in parts:
            problems.append(
                f"{parts.said(self._whole)}: belongs to scales of F8_E4M3, not {parts.info('weight_scale')}"
            )
        if not problems and self.info.codes is None:
            problems.append(f"{parts.said('weight_scale')}: its groups do not divide {into} inputs")
        return problems

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Codes:
        layout, parts = self.info.codes, self._parts
        assert expert is None and layout is not None
        last = self._out if last is None else last
        codes = unpack_bits(parts.array(base, self._main, first, last), self._bits, self._into)
        stored = parts.array(base, "weight_scale", first, last)
        if self._bits == 6:
            eighths = e8m0_as_bf16(stored, 8, parts.said("weight_scale"))
            return Codes(layout, e2m3_eightfold()[codes], eighths)
        if not self._is_nv:
            return Codes(layout, codes, e8m0_as_bf16(stored, 2, parts.said("weight_scale")))
        whole = float(parts.positive_number(base, self._whole)[0])
        factor = 1 / whole if self._main == "weight_packed" else whole
        return Codes(layout, codes, stored, factors=half_of(factor, last - first, self._into))


__all__ = ["Fp4", "Fp4Linear"]
