"""AWQ as AutoAWQ's `gemm` version writes it, 4 bits: linears whose codes lie [in, out], several outputs to a word.

    qweight   I32 [in, out / 8]      nibble i of a word, the lowest first, is output 8 c + (0, 2, 4, 6, 1, 3, 5, 7)[i]
    qzeros    I32 [groups, out / 8]  zero points in the same order, as they are
    scales    F16, BF16 or F32 [groups, out]
    bias      [out], zeros that some writers add

value = (code - zero) * scale, rounded to fp32 once.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import FLOAT_DTYPES, Checkpoint, TensorInfo
from llama4rt.convert.formats.integer_codes import integer_layout
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.formats.packed_bits import unpack_bits
from llama4rt.convert.formats.parts import Parts, kept_type
from llama4rt.convert.stored_rows import GROUP_SIZES, Codes, group_size_for, repeat_groups

_CODES = ".qweight"
_PER_WORD = 8
_OUTPUT_OF_NIBBLE = (0, 2, 4, 6, 1, 3, 5, 7)


class Awq:
    """The Format."""

    title: ClassVar[str] = "AWQ (gemm)"
    quant_methods: ClassVar[tuple[str, ...]] = ("awq",)

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        """GPTQ has the same names: there qweight has a column for each output."""
        names = checkpoint.names()
        found: dict[str, StoredMatrix] = {}
        for name, info in names.items():
            module = name.removesuffix(_CODES)
            scales = names.get(f"{module}.scales", TensorInfo("", ()))
            if (
                name != module
                and len(info.shape) == len(scales.shape) == 2
                and info.shape[1] != scales.shape[1]
            ):
                found[f"{module}.weight"] = AwqLinear(checkpoint, module)
        return found


class AwqLinear:
    """One linear in this form. `module` is its full name."""

    def __init__(self, base: Checkpoint, module: str) -> None:
        self._module = module
        self._parts = Parts(
            base, {part: f"{module}.{part}" for part in ("qweight", "qzeros", "scales", "bias")}
        )
        self._into = self._parts.info("qweight").shape[0]
        scales = self._parts.info("scales")
        groups, self._out = scales.shape
        divides = groups > 0 and self._into % groups == 0
        size = group_size_for(self._into // groups, self._into) if divides else None
        layout = None
        if size is not None:
            layout = integer_layout(4, size, kept_type(scales.dtype), has_zeros=True)
        self._repeat = 1 if size is None else -(-(self._into // groups) // size)
        self.info = TensorInfo("AWQ", (self._out, self._into), layout, self._parts.stored)

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        parts = self._parts
        if "qzeros" not in parts or len(shape) != 2:
            return [
                f"{parts.said('qweight')}: is an AWQ matrix with qzeros missing, or none; expected {shape}"
            ]
        out, into = shape
        groups = parts.info("scales").shape[0]
        problems = parts.misshapen(
            [
                ("qweight", ("I32",), (into, out // _PER_WORD)),
                ("scales", FLOAT_DTYPES, (groups or 1, out)),
                ("qzeros", ("I32",), (groups, out // _PER_WORD)),
                ("bias", FLOAT_DTYPES, (out,)),
            ]
        )
        if problems and parts.info("qweight").shape[0] == out:
            problems.append(
                f"{parts.said('qweight')}: has a row for each output (gemv); save it in version gemm"
            )
        if not problems and self.info.codes is None:
            problems.append(
                f"{parts.said('scales')}: {groups} groups over {into} inputs; groups of a multiple of "
                f"{GROUP_SIZES[-1]} inputs can be imported"
            )
        if not problems and "bias" in parts and bool(parts.numbers(base, "bias").any()):
            problems.append(f"{parts.said('bias')}: is not zero; Llama 4's linears have no bias")
        return problems

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Codes:
        layout, parts = self.info.codes, self._parts
        assert expert is None and layout is not None
        last = self._out if last is None else last
        start, stop = first // _PER_WORD, -(-last // _PER_WORD)
        cut = slice(first - start * _PER_WORD, last - start * _PER_WORD)
        codes = _outputs(parts.array(base, "qweight")[:, start:stop])[cut]
        zeros = _outputs(parts.array(base, "qzeros")[:, start:stop])[cut]
        scales: NDArray[Any] = parts.array(base, "scales")[:, first:last].T
        groups = -(-self._into // layout.group_size)
        return Codes(
            layout,
            np.ascontiguousarray(codes),
            repeat_groups(scales, self._repeat, groups),
            repeat_groups(zeros, self._repeat, groups),
        )


def _outputs(words: NDArray[Any]) -> NDArray[np.uint8]:
    """Words [n, words] -> codes [8 * words, n], by output."""
    nibbles = unpack_bits(words, 4, words.shape[1] * _PER_WORD).reshape(words.shape[0], -1, _PER_WORD)
    codes = np.empty((words.shape[1], _PER_WORD, words.shape[0]), dtype=np.uint8)
    for place, output in enumerate(_OUTPUT_OF_NIBBLE):
        codes[:, output] = nibbles[:, :, place].T
    return codes.reshape(-1, words.shape[0])


__all__ = ["Awq", "AwqLinear"]
