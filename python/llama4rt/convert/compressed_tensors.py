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
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.tensors import SourceTensors, TensorInfo, as_float32
from llama4rt.errors import CheckpointError

CODES_PER_WORD = 8
_GROUP_SIZES = (128, 64, 32)  # that an engine file can hold, csrc/format/quant.h
_SCALE_DTYPES = ("BF16", "F16", "F32")
_PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")


@dataclass(frozen=True)
class PackedLinear:
    """One linear found in this form. `module` is its full name, without `.weight...`."""

    module: str
    out: int
    into: int
    source_group: int  # inputs that share a scale; `into` when a whole row does
    scale_dtype: str
    zero_points: str  # "", "packed" or "int8"
    has_shape: bool
    has_g_idx: bool

    @property
    def engine_group(self) -> int:
        """The largest group size of engine files that repeats this linear's scales exactly."""
        if self.source_group >= self.into:
            return _GROUP_SIZES[0]
        return next(size for size in _GROUP_SIZES if self.source_group % size == 0)

    @property
    def engine_scale_dtype(self) -> str:
        return "BF16" if self.scale_dtype == "BF16" else "F32"


def packed_names(module: str) -> list[str]:
    """Names of everything a packed linear may be made of."""
    return [f"{module}.{part}" for part in _PARTS]


def declared_group_sizes(config: Mapping[str, Any]) -> list[int]:
    """Group sizes that config.json's quantization_config names. Raises CheckpointError for a format not read here."""
    quantization = config.get("quantization_config") or config.get("compression_config")
    text = config.get("text_config")
    if quantization is None and isinstance(text, Mapping):
        quantization = text.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return []
    method = quantization.get("quant_method", "compressed-tensors")
    if method != "compressed-tensors":
        raise CheckpointError(
            f"quantization_config.quant_method is {method!r:.80}; llama4rt reads compressed-tensors int4 "
            "(pack-quantized) and checkpoints that are not quantised"
        )
    groups = quantization.get("config_groups")
    sizes = []
    for group in groups.values() if isinstance(groups, Mapping) else []:
        weights = group.get("weights") if isinstance(group, Mapping) else None
        size = weights.get("group_size") if isinstance(weights, Mapping) else None
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            sizes.append(size)
    return sizes


def find_packed(
    module: str, out: int, into: int, tensors: Mapping[str, TensorInfo], declared: Iterable[int]
) -> tuple[PackedLinear | None, list[str]]:
    """Recognises `module`.weight_packed and its companions: (the linear, []) or (None, what is wrong)."""
    problems: list[str] = []

    def expect(name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> None:
        found = tensors[f"{module}.{name}"]
        if found.dtype not in dtypes or found.shape != shape:
            wanted = TensorInfo(" or ".join(dtypes), shape)
            problems.append(f"{module}.{name}: is {found}; expected {wanted}")

    expect("weight_packed", ("I32",), (out, -(-into // CODES_PER_WORD)))
    scale = tensors.get(f"{module}.weight_scale")
    if scale is None:
        return None, [*problems, f"{module}.weight_scale: is missing"]
    groups = scale.shape[1] if len(scale.shape) == 2 else 1
    expect("weight_scale", _SCALE_DTYPES, (out, groups))
    source_group = _source_group(into, groups, declared)
    if source_group is None:
        problems.append(
            f"{module}.weight_scale: {groups} groups over {into} inputs; groups of a multiple of 32 inputs, "
            "or whole rows, can be imported"
        )
    zero_points = ""
    zero = tensors.get(f"{module}.weight_zero_point")
    if zero is not None:
        zero_points = "int8" if zero.dtype == "I8" else "packed"
        rows = out if zero_points == "int8" else -(-out // CODES_PER_WORD)
        expect("weight_zero_point", ("I8", "I32"), (rows, groups))
    has_shape, has_g_idx = f"{module}.weight_shape" in tensors, f"{module}.weight_g_idx" in tensors
    if has_shape:
        expect("weight_shape", ("I64", "I32"), (2,))
    if has_g_idx:
        expect("weight_g_idx", ("I32", "I64"), (into,))
    if problems or source_group is None:
        return None, problems
    return PackedLinear(module, out, into, source_group, scale.dtype, zero_points, has_shape, has_g_idx), []


def _source_group(into: int, groups: int, declared: Iterable[int]) -> int | None:
    if groups == 1:
        return into
    candidates = [size for size in declared if -(-into // size) == groups]
    if not candidates and groups > 0 and into % groups == 0:
        candidates = [into // groups]
    return next((size for size in candidates if size % _GROUP_SIZES[-1] == 0), None)


def check_packed(linear: PackedLinear, source: SourceTensors) -> list[str]:
    """What is wrong with the small companions, whose values matter: weight_shape and weight_g_idx."""
    problems = []
    if linear.has_shape:
        shape = tuple(int(v) for v in source.array(f"{linear.module}.weight_shape"))
        if shape != (linear.out, linear.into):
            problems.append(
                f"{linear.module}.weight_shape: says {list(shape)}; expected {[linear.out, linear.into]}"
            )
    if linear.has_g_idx:
        order = source.array(f"{linear.module}.weight_g_idx")
        # All -1 is how the format's own library says "not ordered".
        plain = np.arange(linear.into) // linear.source_group
        if not (np.array_equal(order, plain) or bool((order == -1).all())):
            problems.append(
                f'{linear.module}.weight_g_idx: reorders the inputs (activation ordering "group"), which engine files '
                'cannot hold; quantise with actorder "weight" or without'
            )
    return problems


def unpack_codes(packed: NDArray[Any], into: int) -> NDArray[np.uint8]:
    """int32 [rows, words] -> codes 0..15 [rows, into]."""
    pairs = np.ascontiguousarray(packed).astype("<i4", copy=False).view(np.uint8)
    codes = np.empty((pairs.shape[0], 2 * pairs.shape[1]), dtype=np.uint8)
    np.bitwise_and(pairs, 15, out=codes[:, 0::2])
    np.right_shift(pairs, 4, out=codes[:, 1::2])
    return np.ascontiguousarray(codes[:, :into])


def read_rows(
    linear: PackedLinear, source: SourceTensors, first: int, last: int, group: int, with_zeros: bool
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.uint8] | None]:
    """(codes [rows, in], scales [rows, groups], zeros [rows, groups] or None) of rows first..last.

    Scales are raw bf16 bits where the checkpoint has bf16, else fp32; they and the zeros are repeated where one source
    group covers several groups of `group`. with_zeros: give zeros even where the checkpoint has none.
    """
    codes = unpack_codes(source.array(f"{linear.module}.weight_packed")[first:last], linear.into)
    scales = source.array(f"{linear.module}.weight_scale")[first:last]
    if linear.scale_dtype != "BF16":
        scales = as_float32(scales, linear.scale_dtype)
    zeros = None
    if linear.zero_points:
        zeros = _zeros(linear, source, first, last)
    elif with_zeros:
        zeros = np.full(scales.shape, 8, dtype=np.uint8)
    groups = -(-linear.into // group)
    repeat = groups if linear.source_group >= linear.into else linear.source_group // group

    def spread(values: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(np.repeat(values, repeat, axis=1)[:, :groups])

    return codes, spread(scales), None if zeros is None else spread(zeros)


def _zeros(linear: PackedLinear, source: SourceTensors, first: int, last: int) -> NDArray[np.uint8]:
    stored = source.array(f"{linear.module}.weight_zero_point")
    if linear.zero_points == "int8":
        zeros = (stored[first:last].astype(np.int16) + 8).astype(np.int16)
        if bool(((zeros < 0) | (zeros > 15)).any()):
            raise CheckpointError(f"{linear.module}.weight_zero_point: holds a value outside -8..7")
        return zeros.astype(np.uint8)
    words = slice(first // CODES_PER_WORD, -(-last // CODES_PER_WORD))
    codes = unpack_codes(stored[words].T, (words.stop - words.start) * CODES_PER_WORD).T
    offset = first - words.start * CODES_PER_WORD
    return np.ascontiguousarray(codes[offset : offset + last - first])


def dequantize_rows(
    linear: PackedLinear, source: SourceTensors, first: int, last: int
) -> NDArray[np.float32]:
    """(code - zero) * scale in fp32: what rows first..last mean."""
    codes, scales, zeros = read_rows(linear, source, first, last, linear.engine_group, with_zeros=True)
    assert zeros is not None
    wide = as_float32(scales, linear.engine_scale_dtype)
    group_of = np.arange(linear.into) // linear.engine_group
    return (codes.astype(np.float32) - zeros.astype(np.float32)[:, group_of]) * wide[:, group_of]


__all__ = [
    "PackedLinear",
    "check_packed",
    "declared_group_sizes",
    "dequantize_rows",
    "find_packed",
    "packed_names",
    "read_rows",
    "unpack_codes",
]
