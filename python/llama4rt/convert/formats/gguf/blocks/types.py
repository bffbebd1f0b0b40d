"""All element types of GGUF by their number: plain ones, and blocks with how they decode."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.formats.gguf.blocks import k_quants, lattices, legacy, tables, ternary
from llama4rt.convert.formats.gguf.blocks.packed import BlockType
from llama4rt.convert.stored_rows import NUMPY_DTYPES, CodeLayout, Codes, Values

# ggml's numbers. Those that are missing were removed from it, or only ever live in memory.
_NUMBERS = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    26: "I32",
    27: "I64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}
_BLOCKS = {
    block.name: block for family in (legacy, k_quants, tables, lattices, ternary) for block in family.TYPES
}


@dataclass(frozen=True)
class ElementType:
    """What the numbers of a tensor are stored as."""

    name: str
    length: int  # numbers in a block; 1 of plain ones
    size: int  # bytes of a block
    block: BlockType | None  # None: plain

    @property
    def codes(self) -> CodeLayout | None:
        return None if self.block is None else self.block.layout

    def rows(self, raw: NDArray[np.uint8], into: int) -> Values | Codes:
        """raw: [rows, bytes of a row], each of `into` numbers."""
        if self.block is None:
            return Values(raw.view(NUMPY_DTYPES[self.name]), self.name)
        decoded = self.block.decode(raw.reshape(-1).view(self.block.dtype))
        count = len(raw)
        offsets = None if decoded.offsets is None else decoded.offsets.reshape(count, -1)
        return Codes(
            self.block.layout,
            decoded.codes.reshape(count, into),
            decoded.scales.reshape(count, -1),
            offsets=offsets,
        )


def _element_type(name: str) -> ElementType:
    block = _BLOCKS.get(name)
    if block is None:
        return ElementType(name, 1, np.dtype(NUMPY_DTYPES[name]).itemsize, None)
    return ElementType(name, block.length, block.size, block)


ELEMENT_TYPES = {number: _element_type(name) for number, name in _NUMBERS.items()}

__all__ = ["ELEMENT_TYPES", "ElementType"]
