"""compressed-tensors `pack-quantized` integers of 1 to 8 bits: recognise them, unpack them, bit for bit.

A linear [out, in] is stored as
    weight_packed      int32 [out, ceil(in * bits / 32)]  a dense stream of codes along `in`, the first in the lowest
                       bits, code = q + 2^(bits - 1)
    weight_scale       [out, groups], or one number       value = (q - zero) * scale
    weight_zero_point  int32 [ceil(out * bits / 32), groups], asymmetric only: packed along `out`, offset as the codes
                       (early files, or one for the matrix: int8, shaped as the scales, neither packed nor offset)
    weight_shape       int64 [2]
    weight_g_idx       int32 [in], with activation ordering only

Codes of less than 4 bits become 4 bits, those of 5 to 7 become 8, at the same values. Where weight_g_idx scatters
groups over the inputs, the numbers are given (input_groups.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import FLOAT_DTYPES, Checkpoint, TensorInfo
from llama4rt.convert.formats.input_groups import GROUPS_OF_THEIR_OWN, InputGroups, groups_of_inputs
from llama4rt.convert.formats.integer_codes import integer_codes, integer_layout
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.formats.packed_bits import unpack_bits, words_of
from llama4rt.convert.formats.parts import Parts, kept_type, numbers_of
from llama4rt.convert.formats.scale_grid import declared_blocks, grid_of
from llama4rt.convert.quantization_config import quantization_config
from llama4rt.convert.stored_rows import GROUP_SIZES, Codes, Values, as_float32
from llama4rt.errors import CheckpointError

_PACKED = ".weight_packed"
_PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
_USUAL_BITS = 4


class PackedIntegers:
    """The Format."""

    title: ClassVar[str] = "compressed-tensors integers (pack-quantized)"
    quant_methods: ClassVar[tuple[str, ...]] = ("compressed-tensors",)

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        """Every module with a `weight_packed`, but for those of bytes: these are FP4."""
        config = checkpoint.config()
        packed = [n for n, info in checkpoint.names().items() if n.endswith(_PACKED) and info.dtype != "U8"]
        modules = [name.removesuffix(_PACKED) for name in packed]
        return {f"{module}.weight": PackedLinear(checkpoint, module, config) for module in modules}


class PackedLinear:
    """One linear in this form. `module` is its full name, without `.weight...`."""

    def __init__(self, base: Checkpoint, module: str, config: Mapping[str, Any]) -> None:
        """config: the checkpoint's; the groups it names decide where a last one may be short."""
        self._module = module
        self._parts = Parts(base, {part: f"{module}.{part}" for part in _PARTS})
        self._said = self._said_shape(base)
        self._bits, self._out, self._into = self._sizes(declared_bits(config))
        blocks = declared_blocks(config)
        scale = self._parts.info("weight_scale")
        self._grid = grid_of(scale.shape, self._out, self._into, blocks)
        self._groups: InputGroups | None = None
        layout, note = None, ""
        if self._grid is not None:
            sizes = [columns for rows, columns in blocks if rows == self._grid.rows]
            of_grid = [self._grid.columns, *sizes]
            self._groups = groups_of_inputs(
                base, self._parts, "weight_g_idx", self._into, self._grid.shape[1], of_grid
            )
        if self._groups is not None and self._groups.size is not None:
            dtype = kept_type(scale.dtype)
            has_zeros = "weight_zero_point" in self._parts
            layout = integer_layout(self._bits, self._groups.size, dtype, has_zeros)
        elif self._groups is not None and self._groups.is_listed:
            note = GROUPS_OF_THEIR_OWN
        kind = f"int{self._bits}"
        self.info = TensorInfo(kind, (self._out, self._into), layout, self._parts.stored, note)

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        """Reads the small companions whose values matter: weight_shape and weight_g_idx."""
        parts = self._parts
        if len(shape) != 2:
            return [
                f"{parts.said('weight_packed')}: is a packed matrix; expected {TensorInfo('BF16', shape)}"
            ]
        out, into = shape
        problems = parts.misshapen(
            [
                ("weight_packed", ("I32",), (out, words_of(into, self._bits))),
                ("weight_shape", ("I64", "I32"), (2,)),
                ("weight_g_idx", ("I32", "I64"), (into,)),
            ]
        )
        if self._said is not None and self._said != [out, into]:
            return [f"{parts.said('weight_shape')}: says {self._said}; expected {[out, into]}"]
        if self._said is None and self._into != into:
            per_word = 32 / self._bits
            problems.append(
                f"{self._module}.weight_shape: is missing; {into} inputs do not fill words of {per_word:g} codes"
            )
        if "weight_scale" not in parts:
            problems.append(f"{self._module}.weight_scale: is missing")
        return problems or self._scale_problems(out, into)

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Values | Codes:
        assert expert is None and self._grid is not None and self._groups is not None
        parts, layout = self._parts, self.info.codes
        last = self._out if last is None else last
        codes = unpack_bits(parts.array(base, "weight_packed", first, last), self._bits, self._into)
        grid_rows = np.arange(first, last) // self._grid.rows
        scales = parts.array(base, "weight_scale").reshape(self._grid.shape)[grid_rows]
        zeros = self._zeros(base, first, last)
        dtype = parts.info("weight_scale").dtype
        if layout is None:
            of_input = self._groups.of_input
            middle = np.float32(1 << (self._bits - 1))
            shift = middle if zeros is None else zeros[:, of_input].astype(np.float32)
            return Values(
                numbers_of(codes.astype(np.float32) - shift, as_float32(scales[:, of_input], dtype)), "F32"
            )
        of_group = self._groups.of_group
        given = None if zeros is None else np.ascontiguousarray(zeros[:, of_group])
        return integer_codes(layout, self._bits, codes, np.ascontiguousarray(scales[:, of_group]), given)

    def _said_shape(self, base: Checkpoint) -> list[int] | None:
        shape = self._parts.info("weight_shape")
        if shape.shape != (2,) or shape.dtype not in ("I64", "I32"):
            return None
        said: list[int] = self._parts.array(base, "weight_shape").tolist()
        return said

    def _sizes(self, declared: Sequence[int]) -> tuple[int, int, int]:
        """(bits, out, in); of a damaged linear, about."""
        packed = self._parts.info("weight_packed").shape
        if len(packed) != 2:
            return _USUAL_BITS, 0, 0
        usual = [*declared, _USUAL_BITS]
        if self._said is not None:
            for bits in (*usual, *range(1, 9)):
                if self._said[1] > 0 and words_of(self._said[1], bits) == packed[1]:
                    return bits, packed[0], self._said[1]
        return usual[0], packed[0], packed[1] * 32 // usual[0]

    def _scale_problems(self, out: int, into: int) -> list[str]:
        parts, scale, grid = self._parts, self._parts.info("weight_scale"), self._grid
        if scale.dtype not in FLOAT_DTYPES or grid is None:
            groups = scale.shape[1] if len(scale.shape) == 2 else 1
            wanted = TensorInfo(" or ".join(FLOAT_DTYPES), (out, groups))
            if scale.dtype in FLOAT_DTYPES and scale.shape == (out, groups):
                return [self._group_problem(into, groups)]
            return [f"{parts.said('weight_scale')}: is {scale}; expected {wanted}"]
        if self._groups is None or (self._groups.size is None and not self._groups.is_listed):
            return [self._group_problem(into, grid.shape[1])]
        problems = list(self._groups.problems)
        zero = parts.info("weight_zero_point")
        packed = ("I32", (words_of(out, self._bits), grid.shape[1]))
        if "weight_zero_point" in parts and (zero.dtype, zero.shape) not in (packed, ("I8", scale.shape)):
            expected = f"{TensorInfo(*packed)} or {TensorInfo('I8', scale.shape)}"
            problems.append(f"{parts.said('weight_zero_point')}: is {zero}; expected {expected}")
        return problems

    def _group_problem(self, into: int, groups: int) -> str:
        return (
            f"{self._parts.said('weight_scale')}: {groups} groups over {into} inputs; groups of a multiple of "
            f"{GROUP_SIZES[-1]} inputs, or whole rows, can be imported"
        )

    def _zeros(self, base: Checkpoint, first: int, last: int) -> NDArray[np.uint8] | None:
        """Zero points as codes, [rows, groups of the checkpoint]."""
        parts, grid = self._parts, self._grid
        if "weight_zero_point" not in parts or grid is None:
            return None
        if parts.info("weight_zero_point").dtype == "I8":
            middle = 1 << (self._bits - 1)
            stored = parts.array(base, "weight_zero_point").reshape(grid.shape)[
                np.arange(first, last) // grid.rows
            ]
            zeros = stored.astype(np.int16) + middle
            if bool(((zeros < 0) | (zeros >= 2 * middle)).any()):
                name = parts.said("weight_zero_point")
                raise CheckpointError(f"{name}: holds a value outside {-middle}..{middle - 1}")
            plain: NDArray[np.uint8] = zeros.astype(np.uint8)
            return plain
        start = first - first % 32  # a whole number of words
        words = slice(start * self._bits // 32, words_of(last, self._bits))
        packed = parts.array(base, "weight_zero_point")[words]
        codes = unpack_bits(packed.T, self._bits, last - start)[:, first - start :]
        return np.ascontiguousarray(codes.T)


def declared_bits(config: Mapping[str, Any]) -> list[int]:
    """Widths that config.json's quantization_config names."""
    quantization = quantization_config(config) or {}
    groups = quantization.get("config_groups")
    found = []
    for group in groups.values() if isinstance(groups, Mapping) else []:
        weights = group.get("weights") if isinstance(group, Mapping) else None
        bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
        if type(bits) is int and 1 <= bits <= 8:
            found.append(bits)
    return found


__all__ = ["PackedIntegers", "PackedLinear", "declared_bits"]
