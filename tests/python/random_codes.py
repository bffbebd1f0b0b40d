"""Random codes of every layout that an engine file holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from llama4rt.convert.stored_rows import CodeLayout, Codes
from numpy.typing import NDArray

# The sixteen numbers of bitsandbytes' NF4, times 127 and rounded: a table without symmetry.
NF4 = (-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127)
RAMP = (-128, -111, -94, -77, -60, -43, -26, -9, 8, 25, 42, 59, 76, 93, 110, 127)

LAYOUTS = [
    CodeLayout("int4", 128, "BF16"),
    CodeLayout("int4", 32, "F32"),
    CodeLayout("int4", 16, "F32", zeros=True),
    CodeLayout("int4", 64, "BF16", zeros=True),
    CodeLayout("int4", 32, "F32", offsets=True),
    CodeLayout("int4", 16, "BF16", offsets=True),
    CodeLayout("int8", 16, "F32"),
    CodeLayout("int8", 128, "BF16"),
    CodeLayout("int8", 64, "F32", zeros=True),
    CodeLayout("int8", 16, "F32", offsets=True),
    CodeLayout("int8", 32, "BF16", offsets=True),
    CodeLayout("int4", 32, "F32", zeros=True, offsets=True),
    CodeLayout("int8", 16, "BF16", zeros=True, offsets=True),
    CodeLayout("fp8", 128, "F32"),
    CodeLayout("fp8", 16, "BF16"),
    CodeLayout("table4", 16, "F32", table=NF4),
    CodeLayout("table4", 32, "BF16", table=RAMP),
    CodeLayout("table4", 128, "F32", table=NF4),
    CodeLayout("int4", 32, "F16"),
    CodeLayout("int4", 32, "F16", offsets=True),
    CodeLayout("int4", 32, "I8", offsets=True),
    CodeLayout("int4", 32, "I8", offsets=True, factor_dtype="F16"),
    CodeLayout("int8", 16, "I8"),
    CodeLayout("int8", 16, "I8", factor_dtype="F16"),
    CodeLayout("table4", 16, "F8_E4M3", table=RAMP, row_factors=True),
]


def random_codes(rng: np.random.Generator, layout: CodeLayout, rows: int, into: int) -> Codes:
    """Values of about 0.05; each code occurs where there are enough of them."""
    groups = -(-into // layout.group_size)
    codes = rng.integers(0, 2**layout.bits, (rows, into), dtype=np.uint8)
    step = {"int4": 0.01, "int8": 0.0007, "fp8": 0.0005, "table4": 0.0009}[layout.kind]
    zeros = offsets = None
    if layout.kind == "fp8":
        codes[(codes & 0x7F) == 0x7F] = 0x08
    if layout.zeros:
        zeros = rng.integers(0, 2**layout.bits, (rows, groups), dtype=np.uint8)
    if layout.offsets and not layout.factored:
        offsets = _numbers(rng.normal(0, 0.05, (rows, groups)), layout.scale_dtype)
    scales = rng.uniform(0.5, 1.5, (rows, groups)) * step * rng.choice([-1, 1], (rows, groups))
    factors = offset_factors = None
    if layout.factored:
        shape = (rows, layout.factor_columns(into))
        factors = _numbers(rng.uniform(0.5, 1.5, shape) * step / 64, layout.factor_dtype)
        if layout.offsets:
            offset_factors = _numbers(-rng.uniform(0.5, 1.5, shape) * 0.001, layout.factor_dtype)
            offsets = rng.integers(0, 64, (rows, groups), dtype=np.int8)
        stored = rng.integers(-100, 100, (rows, groups), dtype=np.int8)
        if layout.scale_dtype == "F8_E4M3":
            stored = rng.integers(0x40, 0x78, (rows, groups), dtype=np.uint8)
        return Codes(layout, codes, stored, zeros, offsets, factors, offset_factors)
    return Codes(layout, codes, _numbers(scales, layout.scale_dtype), zeros, offsets)


def _numbers(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """As scales are stored; bf16 cuts the bits off that it does not have."""
    wide = np.ascontiguousarray(values, dtype=np.float32)
    if dtype == "F16":
        return wide.astype(np.float16)
    return wide if dtype == "F32" else (wide.view(np.uint32) >> 16).astype(np.uint16)
