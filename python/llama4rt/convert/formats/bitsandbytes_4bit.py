"""bitsandbytes' NF4 and FP4: linears as one stream of 4-bit codes, with a table of 16 numbers and a scale per block.

    weight               U8, [numel / 2, 1]: two codes a byte, the FIRST IN THE HIGH 4 BITS, rows one after the other
    weight.absmax        F32 [blocks], the largest magnitude of each; or U8, with double quantisation:
    weight.nested_absmax, weight.nested_quant_map
                         F32 [blocks / 256] and F32 [256]: absmax = nested_quant_map[code] * nested_absmax
                         + nested_offset, each step rounded to fp32
    weight.quant_map     F32 [16], the table: value = quant_map[code] * absmax
    weight.quant_state.bitsandbytes__nf4, or __fp4
                         U8, a JSON text: quant_type, blocksize, shape, and nested_blocksize, nested_offset

Stacks of experts [E, out, in] are read, too. An engine's table holds whole numbers, so the 16 fractions become whole
numbers times a unit (whole_number_table.py): a value is off by at most 0.4 % of its block's absmax, and absmax * unit
is rounded to fp32. Blocks run over the flattened matrix; where 16 inputs in a row never share two of them, codes go in.
Elsewhere (inputs not a multiple of 16: never of Llama 4's text) the numbers themselves are given, exact in fp32.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.formats.bitsandbytes_state import QuantState, read_state
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.formats.parts import Parts, numbers_of
from llama4rt.convert.formats.stacked_experts import matrices_of
from llama4rt.convert.formats.whole_number_table import whole_number_table
from llama4rt.convert.stored_rows import GROUP_SIZES, TABLE_SIZE, CodeLayout, Codes, Values
from llama4rt.errors import CheckpointError

_STATE = "weight.quant_state.bitsandbytes__"
_TYPES = ("nf4", "fp4")
_NESTED_MAP = 256
_ROUNDED = (
    "its table of 16 fractions was rounded to whole numbers; "
    "a value is off by at most {:.2f} % of its block's largest"
)
_CUT_ROWS = (
    "its blocks do not lie in runs of inputs, so its numbers were taken and stored as the build's options say"
)


class Bitsandbytes4bit:
    """The Format."""

    title: ClassVar[str] = "bitsandbytes NF4 and FP4"
    quant_methods: ClassVar[tuple[str, ...]] = ("bitsandbytes",)

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        found: dict[str, StoredMatrix] = {}
        for name in checkpoint.names():
            module, state, kind = name.partition(f".{_STATE}")
            if state and kind in _TYPES:
                stream = FourBitStream(checkpoint, module, kind)
                found |= {
                    name: FourBitLinear(stream, index) for name, index in matrices_of(module, stream.experts)
                }
        return found


class FourBitStream:
    """The tensors of one module in this form, and what they say."""

    def __init__(self, base: Checkpoint, module: str, kind: str) -> None:
        named = (
            "weight",
            "weight.absmax",
            "weight.quant_map",
            "weight.nested_absmax",
            "weight.nested_quant_map",
        )
        self.parts = Parts(base, {part: f"{module}.{part}" for part in (*named, f"{_STATE}{kind}")})
        self.module = module
        self.kind = kind
        self.problems: list[str] = []
        self.state = QuantState((0, 0), 1, 1, 0.0)
        self.table: NDArray[np.float32] = np.zeros(TABLE_SIZE, np.float32)
        try:
            self.state = read_state(base, self.parts, f"{_STATE}{kind}")
            self.problems = self._misshapen()
            if not self.problems:
                self.table = self.parts.numbers(base, "weight.quant_map")
        except CheckpointError as error:
            self.problems = [str(error)]
        if not bool(np.isfinite(self.table).all()):
            self.problems.append(f"{self.parts.said('weight.quant_map')}: holds a number that is not finite")
            self.table = np.zeros(TABLE_SIZE, np.float32)

    @property
    def experts(self) -> int | None:
        return self.state.shape[0] if len(self.state.shape) == 3 else None

    def _misshapen(self) -> list[str]:
        numel = self.state.numel
        blocks = -(-numel // self.state.blocksize)
        wanted: list[tuple[str, tuple[str, ...], Any]] = [
            ("weight", ("U8",), [(-(-numel // 2), 1), (-(-numel // 2),), (1, -(-numel // 2))]),
            ("weight.absmax", ("F32", "U8"), (blocks,)),
            ("weight.quant_map", ("F32",), (TABLE_SIZE,)),
        ]
        if self.is_nested:
            wanted += [
                ("weight.nested_absmax", ("F32",), (-(-blocks // self.state.nested_blocksize),)),
                ("weight.nested_quant_map", ("F32",), (_NESTED_MAP,)),
            ]
        missing = [f"{self.module}.{part}: is missing" for part, _, _ in wanted if part not in self.parts]
        return missing or self.parts.misshapen(wanted)

    @property
    def is_nested(self) -> bool:
        return self.parts.info("weight.absmax").dtype == "U8"

    def codes(self, base: Checkpoint, first: int, last: int) -> NDArray[np.uint8]:
        """Of the numbers first..last of the stream."""
        start = first // 2
        stored = self.parts.array(base, "weight").reshape(-1)[start : -(-last // 2)]
        codes = np.empty(2 * stored.size, dtype=np.uint8)
        np.right_shift(stored, 4, out=codes[0::2])
        np.bitwise_and(stored, 15, out=codes[1::2])
        return codes[first - 2 * start : last - 2 * start]

    def absmax(self, base: Checkpoint, first: int, last: int) -> NDArray[np.float32]:
        """Of the blocks first..last."""
        stored = self.parts.array(base, "weight.absmax", first, last)
        if not self.is_nested:
            plain: NDArray[np.float32] = stored.astype(np.float32)
            return plain
        size = self.state.nested_blocksize
        start = first // size
        of_block = np.arange(first, last) // size - start
        outer = self.parts.array(base, "weight.nested_absmax", start, -(-last // size))[of_block]
        inner = self.parts.numbers(base, "weight.nested_quant_map")[stored]
        absmax: NDArray[np.float32] = numbers_of(inner, outer) + np.float32(self.state.nested_offset)
        return absmax


class FourBitLinear:
    """One matrix of a stream: the whole, or an expert's."""

    def __init__(self, stream: FourBitStream, index: int) -> None:
        self._stream = stream
        self._out, self._into = stream.state.shape[-2:]
        self._first_row = index * self._out
        size = next((s for s in GROUP_SIZES if stream.state.blocksize % s == self._into % s == 0), None)
        layout = None
        note = _CUT_ROWS
        if size is not None:
            self._table = whole_number_table(tuple(stream.table.tolist()))
            layout = CodeLayout("table4", size, "F32", table=self._table.numbers)
            note = _ROUNDED.format(100 * self._table.error) if self._table.error else ""
        self.info = TensorInfo(stream.kind, (self._out, self._into), layout, stream.parts.stored, note)

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        if self._stream.problems or shape == self.info.shape:
            return self._stream.problems
        return [f"{self._stream.parts.said('weight')}: is {self.info}; expected {TensorInfo('BF16', shape)}"]

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Values | Codes:
        assert expert is None
        stream, layout = self._stream, self.info.codes
        last = self._out if last is None else last
        block = stream.state.blocksize
        start, stop = ((self._first_row + row) * self._into for row in (first, last))
        codes = stream.codes(base, start, stop).reshape(last - first, self._into)
        scales = stream.absmax(base, start // block, -(-stop // block))
        size = 1 if layout is None else layout.group_size
        blocks = np.arange(start, stop, size) // block - start // block
        scales = scales[blocks].reshape(last - first, -1)
        if layout is None:
            return Values(numbers_of(stream.table[codes], scales), "F32")
        return Codes(layout, codes, numbers_of(scales, np.float32(self._table.unit)))


__all__ = ["Bitsandbytes4bit", "FourBitLinear", "FourBitStream"]
