"""compressed-tensors `pack-quantized` int4: recognise it, unpack it, bit for bit.

A linear [out, in] is stored as
    weight_packed      int32 [out, ceil(in / 8)]    8 codes along `in`, the first in the lowest 4 bits, code = q + 8
    weight_scale       [out, groups]                value = (q - zero) * scale
    weight_zero_point  int32 [ceil(out / 8), groups], asymmetric only: packed along `out`, also offset by 8
                       (early files: int8 [out, groups], neither packed nor offset)
    weight_shape       int64 [2]
    weight_g_idx       int32 [in], with activation ordering only; refused unless it changes nothing
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.quantization_config import quantization_config
from llama4rt.convert.stored_rows import (
    GROUP_SIZES,
    CodeLayout,
    Codes,
    Values,
    as_float32,
    group_size_for,
    repeat_groups,
)
from llama4rt.errors import CheckpointError

CODES_PER_WORD = 8
_SCALE_DTYPES = ("BF16", "F16", "F32")
_PACKED = ".weight_packed"
_PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")


class CompressedTensorsInt4:
    """The Format."""

    title: ClassVar[str] = "compressed-tensors int4 (pack-quantized)"
    quant_methods: ClassVar[tuple[str, ...]] = ("compressed-tensors",)

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        """Every module with a `weight_packed`, but for those of bytes: these are nvfp4-pack-quantized."""
        declared = declared_group_sizes(checkpoint.config())
        packed = [n for n, info in checkpoint.names().items() if n.endswith(_PACKED) and info.dtype != "U8"]
        modules = [name.removesuffix(_PACKED) for name in packed]
        return {f"{module}.weight": PackedLinear(checkpoint, module, declared) for module in modules}


class PackedLinear:
    """One linear in this form. `module` is its full name, without `.weight...`."""

    def __init__(self, base: Checkpoint, module: str, declared: Iterable[int]) -> None:
        """declared: group sizes that the config names; they decide where a last group may be short."""
        self.module = module
        names = base.names()
        self._parts = {part: names[f"{module}.{part}"] for part in _PARTS if f"{module}.{part}" in names}
        self._declared = tuple(declared)
        self.out, self.into = _shape(base, module, self._parts)
        scale = self._parts.get("weight_scale", TensorInfo("", ()))
        self._scale_dtype = scale.dtype
        self._groups = scale.shape[1] if len(scale.shape) == 2 else 1
        zero = self._parts.get("weight_zero_point")
        self._zeros_packed = zero is not None and zero.dtype != "I8"
        self.source_group = _source_group(self.into, self._groups, self._declared)
        size = None if self.source_group is None else group_size_for(self.source_group, self.into)
        layout = None
        if size is not None:
            scales = "BF16" if self._scale_dtype == "BF16" else "F32"
            layout = CodeLayout("int4", size, scales, zeros=zero is not None)
        stored = tuple(f"{module}.{part}" for part in self._parts)
        self.info = TensorInfo("int4", (self.out, self.into), layout, stored)

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        """Reads the small companions whose values matter: weight_shape and weight_g_idx."""
        if len(shape) != 2:
            return [f"{self.module}{_PACKED}: is a packed matrix; expected {TensorInfo('BF16', shape)}"]
        out, into = shape
        problems: list[str] = []
        if "weight_scale" not in self._parts:
            problems.append(f"{self.module}.weight_scale: is missing")
        for part, dtypes, wanted in (
            ("weight_packed", ("I32",), (out, -(-into // CODES_PER_WORD))),
            ("weight_scale", _SCALE_DTYPES, (out, self._groups)),
            ("weight_zero_point", ("I8", "I32"), (self._zero_rows(out), self._groups)),
            ("weight_shape", ("I64", "I32"), (2,)),
            ("weight_g_idx", ("I32", "I64"), (into,)),
        ):
            found = self._parts.get(part)
            if found is not None and (found.dtype not in dtypes or found.shape != wanted):
                expected = TensorInfo(" or ".join(dtypes), wanted)
                problems.append(f"{self.module}.{part}: is {found}; expected {expected}")
        if "weight_scale" in self._parts and _source_group(into, self._groups, self._declared) is None:
            problems.append(
                f"{self.module}.weight_scale: {self._groups} groups over {into} inputs; groups of a multiple of "
                f"{GROUP_SIZES[-1]} inputs, or whole rows, can be imported"
            )
        return problems or self._value_problems(base, out, into)

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Codes:
        """Scales and zeros are repeated where one source group covers several groups of the layout."""
        layout = self.info.codes
        assert expert is None and layout is not None and self.source_group is not None
        last = self.out if last is None else last
        packed = _array(base, f"{self.module}.weight_packed", first, last)
        scales = _array(base, f"{self.module}.weight_scale", first, last)
        if self._scale_dtype != "BF16":
            scales = as_float32(scales, self._scale_dtype)
        groups = -(-self.into // layout.group_size)
        repeat = groups if self.source_group >= self.into else self.source_group // layout.group_size
        zeros = self._zeros(base, first, last) if layout.zeros else None
        return Codes(
            layout,
            unpack_codes(packed, self.into),
            repeat_groups(scales, repeat, groups),
            None if zeros is None else repeat_groups(zeros, repeat, groups),
        )

    def _value_problems(self, base: Checkpoint, out: int, into: int) -> list[str]:
        problems = []
        if "weight_shape" in self._parts:
            said = _array(base, f"{self.module}.weight_shape").tolist()
            if said != [out, into]:
                problems.append(f"{self.module}.weight_shape: says {said}; expected {[out, into]}")
        elif self.into != into:
            problems.append(
                f"{self.module}.weight_shape: is missing; {into} inputs do not fill words of {CODES_PER_WORD} codes"
            )
        if "weight_g_idx" in self._parts and self.source_group is not None:
            order = _array(base, f"{self.module}.weight_g_idx")
            # All -1 is how the format's own library says "not ordered".
            plain = np.arange(into) // self.source_group
            if not (np.array_equal(order, plain) or bool((order == -1).all())):
                problems.append(
                    f'{self.module}.weight_g_idx: reorders the inputs (activation ordering "group"), which engine '
                    'files cannot hold; quantise with actorder "weight" or without'
                )
        return problems

    def _zero_rows(self, out: int) -> int:
        """Rows in which the zero points of `out` outputs are stored."""
        return -(-out // CODES_PER_WORD) if self._zeros_packed else out

    def _zeros(self, base: Checkpoint, first: int, last: int) -> NDArray[np.uint8]:
        name = f"{self.module}.weight_zero_point"
        if not self._zeros_packed:
            zeros = _array(base, name, first, last).astype(np.int16) + 8
            if bool(((zeros < 0) | (zeros > 15)).any()):
                raise CheckpointError(f"{name}: holds a value outside -8..7")
            return zeros.astype(np.uint8)
        start, stop = first // CODES_PER_WORD, -(-last // CODES_PER_WORD)
        codes = unpack_codes(_array(base, name, start, stop).T, (stop - start) * CODES_PER_WORD).T
        offset = first - start * CODES_PER_WORD
        return np.ascontiguousarray(codes[offset : offset + last - first])


def declared_group_sizes(config: Mapping[str, Any]) -> list[int]:
    """Group sizes that config.json's quantization_config names."""
    quantization = quantization_config(config)
    groups = None if quantization is None else quantization.get("config_groups")
    sizes = []
    for group in groups.values() if isinstance(groups, Mapping) else []:
        weights = group.get("weights") if isinstance(group, Mapping) else None
        size = weights.get("group_size") if isinstance(weights, Mapping) else None
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            sizes.append(size)
    return sizes


def unpack_codes(packed: NDArray[Any], into: int) -> NDArray[np.uint8]:
    """int32 [rows, words] -> codes 0..15 [rows, into]."""
    pairs = np.ascontiguousarray(packed).astype("<i4", copy=False).view(np.uint8)
    codes = np.empty((pairs.shape[0], 2 * pairs.shape[1]), dtype=np.uint8)
    np.bitwise_and(pairs, 15, out=codes[:, 0::2])
    np.right_shift(pairs, 4, out=codes[:, 1::2])
    return np.ascontiguousarray(codes[:, :into])


def _shape(base: Checkpoint, module: str, parts: Mapping[str, TensorInfo]) -> tuple[int, int]:
    """[out, in] of a packed linear; of a damaged one, about. weight_shape only decides how full the last word is."""
    words = parts["weight_packed"].shape
    if len(words) != 2:
        return 0, 0
    into = words[1] * CODES_PER_WORD
    shape = parts.get("weight_shape")
    if shape is not None and shape.shape == (2,) and shape.dtype in ("I64", "I32"):
        said = int(_array(base, f"{module}.weight_shape")[1])
        if -(-said // CODES_PER_WORD) == words[1]:
            into = said
    return words[0], into


def _source_group(into: int, groups: int, declared: Iterable[int]) -> int | None:
    """Inputs that share a scale, `into` when a whole row does; None when the groups are of no size that can be read."""
    if groups == 1:
        return into
    candidates = [size for size in declared if -(-into // size) == groups]
    if not candidates and groups > 0 and into % groups == 0:
        candidates = [into // groups]
    return next((size for size in candidates if size % GROUP_SIZES[-1] == 0), None)


def _array(base: Checkpoint, name: str, first: int = 0, last: int | None = None) -> NDArray[Any]:
    """Rows of a part, which is plain."""
    rows = base.rows(name, first, last)
    assert isinstance(rows, Values)
    return rows.array


__all__ = ["CompressedTensorsInt4", "PackedLinear", "declared_group_sizes", "unpack_codes"]
