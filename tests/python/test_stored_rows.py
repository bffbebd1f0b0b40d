"""Codes and what they mean: the definition, its change of layout, and the layout that several matrices share."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from llama4rt.convert.stored_rows import (
    GROUP_SIZES,
    CodeLayout,
    Codes,
    as_float32,
    common_layout,
    e4m3_numbers,
    group_size_for,
)
from numpy.typing import NDArray
from random_codes import LAYOUTS, NF4, RAMP, random_codes


def meaning(codes: Codes, row: int, column: int) -> np.float32:
    """One number by the definition, step by step in fp32."""
    layout, group = codes.layout, column // codes.layout.group_size
    code = int(codes.codes[row, column])

    def number(stored: NDArray[Any], factors: NDArray[Any] | None) -> np.float32:
        wide = np.float32(as_float32(stored[row : row + 1, group], layout.scale_dtype)[0])
        if factors is None:
            return wide
        return wide * np.float32(factors[row, 0 if layout.row_factors else column // 256])

    scale = number(codes.scales, codes.factors)
    if layout.kind == "table4":
        assert layout.table is not None
        return np.float32(layout.table[code]) * scale
    if layout.kind == "fp8":
        exponent, mantissa = code >> 3 & 15, code & 7
        magnitude = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        return np.float32(-magnitude if code & 128 else magnitude) * scale
    zero = 0 if layout.offsets else {"int4": 8, "int8": 128}[layout.kind]
    if codes.zeros is not None:
        zero = int(codes.zeros[row, group])
    product = np.float32(code - zero) * scale
    if codes.offsets is None:
        return product
    return product + number(codes.offsets, codes.offset_factors)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_values_follow_the_definition(layout: CodeLayout) -> None:
    codes = random_codes(np.random.default_rng(1), layout, 3, 2 * layout.group_size + 263)
    values = codes.values()
    assert (values.dtype, values.array.dtype, values.array.shape) == ("F32", np.float32, codes.codes.shape)
    for row, column in itertools.product(range(3), range(codes.codes.shape[1])):
        assert values.array[row, column] == meaning(codes, row, column), (row, column)


def test_an_offset_is_added_after_the_product_is_rounded() -> None:
    """GGUF's d * q - m, in two roundings; one would give another number."""
    scale, offset = np.float32(1 / 3), np.float32(-2.3333333)
    codes = Codes(
        CodeLayout("int4", 16, "F32", offsets=True),
        np.array([[7]], np.uint8),
        np.array([[scale]]),
        None,
        np.array([[offset]]),
    )
    (value,) = codes.values().array[0]
    assert value == np.float32(7) * scale + offset
    assert value != np.float32(7 * float(scale) + float(offset))


def test_e4m3_has_these_numbers() -> None:
    numbers = e4m3_numbers()
    for code, number in (
        (0x00, 0.0),
        (0x01, 2**-9),
        (0x07, 7 * 2**-9),
        (0x08, 2**-6),
        (0x38, 1.0),
        (0x7E, 448.0),
    ):
        assert numbers[code] == number
        assert numbers[code | 0x80] == -number
    assert math.copysign(1, numbers[0x80]) == -1
    assert [code for code in range(256) if math.isnan(numbers[code])] == [0x7F, 0xFF]
    assert np.all(np.diff(numbers[:0x7F]) > 0)


# --- one layout for several matrices


@pytest.mark.parametrize("first", LAYOUTS, ids=str)
def test_the_common_layout_keeps_every_number(first: CodeLayout) -> None:
    rng = np.random.default_rng(2)
    for second in LAYOUTS:
        common = common_layout([first, second])
        assert common == common_layout([second, first])
        if (first.kind == "fp8") != (second.kind == "fp8"):
            assert common is None
            continue
        assert common is not None
        codes = random_codes(rng, first, 6, 300)
        moved = codes.in_layout(common)
        assert moved.layout == common
        groups = (6, -(-300 // common.group_size))
        assert moved.scales.shape == groups
        types = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "I8": np.int8, "F8_E4M3": np.uint8}
        assert moved.scales.dtype == types[common.scale_dtype]
        assert (moved.factors is not None) == common.factored
        assert (moved.offset_factors is not None) == (common.factored and common.offsets)
        for part, wanted in ((moved.zeros, common.zeros), (moved.offsets, common.offsets)):
            assert (part is not None) == wanted
            assert part is None or part.shape == groups
        assert moved.offsets is None or moved.offsets.dtype == moved.scales.dtype
        assert int(moved.codes.max()) < 2**common.bits
        np.testing.assert_array_equal(moved.values().array, codes.values().array)


def test_the_common_layout_is_no_wider_than_it_must_be() -> None:
    wide = CodeLayout("int4", 128, "BF16")
    fine = CodeLayout("int4", 32, "F32")
    zeros = CodeLayout("int4", 64, "BF16", zeros=True)
    offsets = CodeLayout("int4", 16, "BF16", offsets=True)
    nf4 = CodeLayout("table4", 64, "F32", table=NF4)
    ramp = CodeLayout("table4", 64, "F32", table=RAMP)
    fp8 = CodeLayout("fp8", 128, "F32")
    assert common_layout([wide, wide]) == wide
    assert common_layout([wide, fine, zeros]) == CodeLayout("int4", 32, "F32", zeros=True)
    assert common_layout([offsets, offsets]) == offsets
    assert common_layout([wide, offsets]) == CodeLayout("int4", 16, "BF16", zeros=True, offsets=True)
    assert common_layout([nf4, nf4]) == nf4
    assert common_layout([nf4, ramp]) == CodeLayout("int8", 64, "F32")
    assert common_layout([nf4, wide]) == CodeLayout("int8", 64, "F32")
    assert common_layout([wide, CodeLayout("int8", 16, "BF16")]) == CodeLayout("int8", 16, "BF16")
    assert common_layout([fp8, CodeLayout("fp8", 64, "BF16")]) == CodeLayout("fp8", 64, "F32")
    assert common_layout([fp8, wide]) is None
    halves = CodeLayout("int4", 32, "F16")
    factored = CodeLayout("int4", 32, "I8", offsets=True)
    assert common_layout([halves, halves]) == halves
    assert common_layout([halves, wide]) == CodeLayout("int4", 32, "F32")
    assert common_layout([factored, CodeLayout("int8", 16, "I8")]) == CodeLayout("int8", 16, "I8", True, True)
    row = CodeLayout("int4", 32, "I8", offsets=True, factor_dtype="F16", row_factors=True)
    assert common_layout([row, row]) == row
    assert common_layout([row, factored]) == factored
    k_quants = [
        CodeLayout("int4", 32, "I8", offsets=True, factor_dtype="F16"),
        CodeLayout("int8", 16, "I8", factor_dtype="F16"),
    ]
    assert common_layout(k_quants) == CodeLayout("int8", 16, "I8", True, True, factor_dtype="F16")
    assert common_layout([factored, halves]) == CodeLayout("int4", 32, "F32", zeros=True, offsets=True)


@pytest.mark.parametrize(
    ("source", "into", "size"),
    [
        (16, 512, 16),
        (48, 96, 16),
        (32, 512, 32),
        (96, 192, 32),
        (256, 512, 128),
        (512, 512, 128),
        (100, 100, 128),
    ],
)
def test_the_group_size_repeats_scales_exactly(source: int, into: int, size: int) -> None:
    assert group_size_for(source, into) == size


def test_groups_of_eight_are_too_fine() -> None:
    assert group_size_for(8, 64) is None
    assert GROUP_SIZES == (128, 64, 32, 16)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (("int3", 32, "F32"), "kind is 'int3'"),
        (("int4", 48, "F32"), "group_size is 48"),
        (("int4", 32, "F64"), "scale_dtype is 'F64'"),
        (("fp8", 32, "F32", True), "fp8 codes have neither"),
        (("table4", 32, "F32", False, True, NF4), "table4 codes have neither"),
        (("table4", 32, "F32"), "has a table when"),
        (("int4", 32, "F32", False, False, NF4), "has a table when"),
        (("table4", 32, "F32", False, False, NF4[:15]), "must be 16 numbers"),
        (("table4", 32, "F32", False, False, (*NF4[:15], 128)), "must be 16 numbers"),
    ],
)
def test_layouts_that_mean_nothing_are_refused(fields: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CodeLayout(*fields)
