"""GPTQ, of 2 to 8 bits: linears whose codes lie [in, out], with groups of inputs, in order or not.

    qweight   I32 [in * bits / 32, out]     codes along `in`, a dense stream, the first in the lowest bits; unsigned
    qzeros    I32 [groups, out * bits / 32] zero points along `out`, packed alike; format "gptq" (v1) stores them minus
              one, modulo 2^bits, "gptq_v2" and "gptq_p" as they are
    scales    F16, BF16 or F32 [groups, out]
    g_idx     I32 [in], the group of each input; without it, groups follow each other
    bias      [out], zeros that some writers add

value[n, k] = (code - zero) * scale, of group g_idx[k], rounded to fp32 once. Where runs of 16 or more inputs share a
group, codes go in as they are. With desc_act they do not: g_idx scatters groups over all inputs, an engine's groups are
runs of inputs, and no other order of inputs would do for all matrices that read the same activations. Then the numbers
themselves are given, exact in fp32, for the writer to quantise anew.

Format "gptq_p" packs by planes of bits (unpack_planes); 5, 6 and 7 bits exist only so. Which format a file is, only the
config says (checkpoint_format); but with "sym" the zero point is known to be 2^(bits - 1), and what is stored decides
between v1 and v2.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import FLOAT_DTYPES, Checkpoint, TensorInfo
from llama4rt.convert.formats.input_groups import GROUPS_OF_THEIR_OWN, InputGroups, groups_of_inputs
from llama4rt.convert.formats.integer_codes import integer_codes, integer_layout
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.formats.packed_bits import unpack_bits, unpack_planes, words_of
from llama4rt.convert.formats.parts import Parts, kept_type, numbers_of
from llama4rt.convert.quantization_config import quantization_config
from llama4rt.convert.stored_rows import GROUP_SIZES, Codes, Values, as_float32
from llama4rt.errors import CheckpointError

_CODES = ".qweight"
_WIDTHS = (2, 3, 4, 8)
_PLANAR_WIDTHS = (2, 3, 4, 5, 6, 7, 8)


class Gptq:
    """The Format."""

    title: ClassVar[str] = "GPTQ"
    quant_methods: ClassVar[tuple[str, ...]] = ("gptq",)

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        """AWQ has the same names: there the codes of a row of qweight are several outputs."""
        names = checkpoint.names()
        config = quantization_config(checkpoint.config()) or {}
        found: dict[str, StoredMatrix] = {}
        for name, info in names.items():
            module = name.removesuffix(_CODES)
            scales = names.get(f"{module}.scales", TensorInfo("", ()))
            if name == module or (
                len(info.shape) == len(scales.shape) == 2 and info.shape[1] != scales.shape[1]
            ):
                continue
            found[f"{module}.weight"] = GptqLinear(checkpoint, module, config)
        return found


class GptqLinear:
    """One linear in this form. `module` is its full name; `config` the checkpoint's quantization_config."""

    def __init__(self, base: Checkpoint, module: str, config: Mapping[str, Any]) -> None:
        named = ("qweight", "qzeros", "scales", "g_idx", "bias")
        self._module = module
        self._parts = Parts(base, {part: f"{module}.{part}" for part in named})
        packed, zeros = (self._parts.info(part).shape for part in ("qweight", "qzeros"))
        scales = self._parts.info("scales")
        groups, self._out = scales.shape if len(scales.shape) == 2 else (0, 0)
        self._bits = 32 * zeros[1] // self._out if self._out and len(zeros) == 2 else 0
        self._into = 32 * packed[0] // self._bits if self._bits and len(packed) == 2 else 0
        self._is_planar = config.get("checkpoint_format") == "gptq_p"
        self._widths = _PLANAR_WIDTHS if self._is_planar else _WIDTHS
        self._is_symmetric = config.get("sym") is True
        self._is_first_version = self._version(base, config) == 1
        self._groups: InputGroups | None = None
        layout, note = None, ""
        if groups and self._into and self._bits in self._widths:
            size = config.get("group_size")
            declared = [size] if type(size) is int and size > 0 else []
            self._groups = groups_of_inputs(base, self._parts, "g_idx", self._into, groups, declared)
        if self._groups is not None and self._groups.size is not None:
            dtype = kept_type(scales.dtype)
            layout = integer_layout(self._bits, self._groups.size, dtype, not self._is_symmetric)
        elif self._groups is not None and self._groups.is_listed:
            note = GROUPS_OF_THEIR_OWN
        self.info = TensorInfo("GPTQ", (self._out, self._into), layout, self._parts.stored, note)

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        parts, bits = self._parts, self._bits
        missing = [f"{self._module}.{part}: is missing" for part in ("qzeros", "scales") if part not in parts]
        if missing or len(shape) != 2:
            return missing or [f"{parts.said('qweight')}: is a matrix; expected {TensorInfo('BF16', shape)}"]
        out, into = shape
        groups = parts.info("scales").shape[0] if self._out else 0
        problems = parts.misshapen([("scales", FLOAT_DTYPES, (groups or 1, out))])
        if not problems and bits not in self._widths:
            problems.append(
                f"{parts.said('qzeros')}: is {parts.info('qzeros')}, so codes have {bits} bits; GPTQ is read with "
                f"{', '.join(map(str, self._widths))}"
            )
        if problems:
            return problems
        problems = parts.misshapen(
            [
                ("qweight", ("I32",), (words_of(into, bits), out)),
                ("qzeros", ("I32",), (groups, words_of(out, bits))),
                ("g_idx", ("I32", "I64"), (into,)),
                ("bias", FLOAT_DTYPES, (out,)),
            ]
        )
        if not problems and (self._groups is None or not (self._groups.is_listed or self._groups.size)):
            problems.append(
                f"{parts.said('scales')}: {groups} groups over {into} inputs; groups of a multiple of "
                f"{GROUP_SIZES[-1]} inputs can be imported"
            )
        elif not problems and self._groups is not None:
            problems += self._groups.problems
        if not problems and "bias" in parts and bool(parts.numbers(base, "bias").any()):
            problems.append(f"{parts.said('bias')}: is not zero; Llama 4's linears have no bias")
        return problems

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Values | Codes:
        assert expert is None and self._groups is not None
        parts, layout = self._parts, self.info.codes
        last = self._out if last is None else last
        packed = parts.array(base, "qweight")[:, first:last]
        codes = self._unpack(packed.T, self._into)
        zeros = self._zeros(base, first, last)
        stored = parts.array(base, "scales")[:, first:last].T
        if layout is None:
            of_input = self._groups.of_input
            scales = as_float32(stored, parts.info("scales").dtype)[:, of_input]
            whole = codes.astype(np.float32) - zeros[:, of_input].astype(np.float32)
            return Values(numbers_of(whole, scales), "F32")
        of_group = self._groups.of_group
        given = None if self._is_symmetric else zeros[:, of_group]
        return integer_codes(layout, self._bits, codes, np.ascontiguousarray(stored[:, of_group]), given)

    def _unpack(self, words: NDArray[Any], count: int) -> NDArray[np.uint8]:
        return (unpack_planes if self._is_planar else unpack_bits)(words, self._bits, count)

    def _zeros(self, base: Checkpoint, first: int, last: int) -> NDArray[np.uint8]:
        """True zero points [rows, groups]."""
        start = first - first % 32  # a whole number of words
        stop = min(-(-last // 32) * 32, self._out)  # planes lie in whole blocks of 32
        words = slice(start * self._bits // 32, words_of(stop, self._bits))
        packed = self._parts.array(base, "qzeros")[:, words]
        stored = self._unpack(packed, last - start)[:, first - start :].T
        zeros: NDArray[np.uint8] = (stored + np.uint8(self._is_first_version)) & np.uint8(
            (1 << self._bits) - 1
        )
        if self._is_symmetric and bool((zeros != 1 << (self._bits - 1)).any()):
            raise CheckpointError(
                f"{self._parts.said('qzeros')}: config.json says sym, but not every zero point is "
                f"{1 << (self._bits - 1)}; if the file is asymmetric, set sym to false there"
            )
        return zeros

    def _version(self, base: Checkpoint, config: Mapping[str, Any]) -> int:
        """1 or 2: with known zero points by what is stored, otherwise by the config."""
        declared = 2 if config.get("checkpoint_format") in ("gptq_v2", "gptq_p") else 1
        if self._is_planar:
            return declared
        zeros = self._parts.info("qzeros")
        if (
            not self._is_symmetric
            or self._bits not in self._widths
            or zeros.dtype != "I32"
            or 0 in zeros.shape
        ):
            return declared
        count = 32 * zeros.shape[1] // self._bits
        seen = self._unpack(self._parts.array(base, "qzeros", 0, 1), count)[0, : self._out]
        middle = 1 << (self._bits - 1)
        for version, zero in ((1, middle - 1), (2, middle)):
            if bool((seen == zero).all()):
                return version
        return declared


__all__ = ["Gptq", "GptqLinear"]
