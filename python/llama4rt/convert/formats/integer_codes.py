"""Whole numbers of 1 to 8 bits as an engine's 4- and 8-bit codes: the same values, in the narrower of the two.

Where a width and its zero points leave room (all but 4 and 8 bits: differences of 3 bits span -7..7, of 7 bits
-127..127), the zero point is taken into the code and none is stored.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.stored_rows import CODE_KINDS, CodeLayout, Codes, repeat_groups


def kind_of(bits: int) -> str:
    return "int4" if bits <= 4 else "int8"


def integer_layout(bits: int, group_size: int, scale_dtype: str, has_zeros: bool) -> CodeLayout:
    """Of codes that mean (code - zero) * scale, zero being 2^(bits - 1) where there are no zero points."""
    return CodeLayout(kind_of(bits), group_size, scale_dtype, zeros=has_zeros and bits in (4, 8))


def integer_codes(
    layout: CodeLayout,
    bits: int,
    codes: NDArray[np.uint8],
    scales: NDArray[Any],
    zeros: NDArray[np.uint8] | None,
) -> Codes:
    """codes [rows, in], below 2^bits, with scales and zero points [rows, groups] of the layout."""
    if layout.zeros:
        return Codes(layout, codes, scales, zeros)
    middle = CODE_KINDS[layout.kind].zero
    if zeros is None:
        return Codes(layout, codes + np.uint8(middle - (1 << (bits - 1))), scales)
    # In a byte, sums wrap; the result is in range.
    shift = np.uint8(middle) - repeat_groups(zeros, layout.group_size, codes.shape[1])
    return Codes(layout, codes + shift, scales)


__all__ = ["integer_codes", "integer_layout", "kind_of"]
