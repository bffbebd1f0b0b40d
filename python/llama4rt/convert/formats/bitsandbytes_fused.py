"""Fused stacks of all experts [E, in, out] in bitsandbytes' NF4 and FP4, as its replace_parameter_4bit stores a
parameter that is no linear's weight: with P for the stack's name, the codes are P itself, and P.absmax, P.quant_map and
so on what they are of a matrix (bitsandbytes_4bit.py).

Its blocks run along the outputs, so that no engine's groups, which run along the inputs, have them: the numbers
themselves are given, exact in fp32.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.formats.bitsandbytes_4bit import CUT_ROWS, STATE, TYPES, FourBitStream
from llama4rt.convert.formats.fused_experts import STACKS
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.formats.parts import numbers_of
from llama4rt.convert.stored_rows import Values


class FusedFourBit:
    """The Format."""

    title: ClassVar[str] = "NF4 and FP4 of fused experts (bitsandbytes)"
    quant_methods: ClassVar[tuple[str, ...]] = ("bitsandbytes",)

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        found: dict[str, StoredMatrix] = {}
        for name in checkpoint.names():
            stack, state, kind = name.partition(f".{STATE}")
            if state and kind in TYPES and stack.endswith(STACKS):
                found[stack] = FourBitStack(FourBitStream(checkpoint, stack, kind, of_parameter=True))
        return found


class FourBitStack:
    """One stack."""

    def __init__(self, stream: FourBitStream) -> None:
        self._stream = stream
        self.info = TensorInfo(stream.kind, stream.state.shape, None, stream.parts.stored, CUT_ROWS)

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        if self._stream.problems or (shape == self.info.shape and len(shape) == 3):
            return self._stream.problems
        return [f"{self._stream.parts.said('weight')}: is {self.info}; expected {TensorInfo('BF16', shape)}"]

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Values:
        stream = self._stream
        _, into, out = stream.state.shape
        assert expert is not None
        last = out if last is None else last
        start, block = expert * into * out, stream.state.blocksize
        codes = self._codes(base, expert, first, last)
        absmax = stream.absmax(base, start // block, -(-(start + into * out) // block))
        places = start + np.arange(into)[:, None] * out + np.arange(first, last)
        scales: NDArray[np.float32] = absmax[places // block - start // block]
        return Values(numbers_of(stream.table[codes], scales), "F32", transposed=True)

    def _codes(self, base: Checkpoint, expert: int, first: int, last: int) -> NDArray[np.uint8]:
        """[in, last - first] of one expert."""
        stream = self._stream
        _, into, out = stream.state.shape
        start = expert * into * out
        if out % 2:  # rows share bytes
            return stream.codes(base, start, start + into * out).reshape(into, out)[:, first:last]
        packed = (
            stream.parts.array(base, "weight").reshape(-1).view(np.uint8)[start // 2 :][: into * out // 2]
        )
        some = packed.reshape(into, out // 2)[:, first // 2 : -(-last // 2)]
        codes = np.stack([some >> 4, some & 15], axis=2).reshape(into, -1)
        return codes[:, first % 2 :][:, : last - first]


__all__ = ["FourBitStack", "FusedFourBit"]
