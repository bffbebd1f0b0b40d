"""Every block type of ggml: the codes mean exactly what the gguf package's own dequantiser says, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from llama4rt.convert.formats.gguf.blocks import codebooks
from llama4rt.convert.formats.gguf.blocks.types import ELEMENT_TYPES, ElementType
from llama4rt.convert.stored_rows import Codes, Values
from numpy.typing import NDArray

gguf = pytest.importorskip("gguf", reason="the gguf package is the oracle")

QUANTISED = {number: kind for number, kind in ELEMENT_TYPES.items() if kind.block is not None}
# Scales as they lie in files: small and large, of both signs, zero, subnormal, the largest.
SCALES = np.array([0.01, -0.02, 1.0, 0.0, -0.0, 6e-8, 65504.0, 3.1e-5], dtype="<f2")


def random_blocks(kind: ElementType, rows: int, blocks: int, seed: int) -> NDArray[np.uint8]:
    """[rows, bytes]: any bits in the codes, and in every fp16 field one of SCALES."""
    assert kind.block is not None
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, blocks * kind.size), dtype=np.uint8)
    records = raw.reshape(-1).view(kind.block.dtype)
    for name in ("d", "m", "dmin"):
        if name in (records.dtype.names or ()):
            records[name] = rng.choice(SCALES, len(records))
    if kind.name == "IQ1_M":  # d lies in the high nibbles of the scales: never Inf or NaN
        records["scales"][:, 3] &= 0xBFFF
    if kind.name == "MXFP4":  # an exponent of 254 or 255 makes numbers that fp32 does not hold
        records["e"] = np.minimum(records["e"], 250)
    return raw


def meant(kind: ElementType, raw: NDArray[np.uint8], into: int) -> NDArray[np.float32]:
    rows = kind.rows(raw, into)
    assert isinstance(rows, Codes) and rows.layout == kind.codes
    assert rows.codes.shape == (len(raw), into) and rows.codes.max() < 1 << rows.layout.bits
    assert rows.scales.shape == (len(raw), into // rows.layout.group_size)
    assert rows.scales.dtype == np.float32
    return rows.values().array


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)


@pytest.mark.parametrize("number", QUANTISED, ids=[kind.name for kind in QUANTISED.values()])
def test_codes_mean_what_ggml_says(number: int) -> None:
    kind = QUANTISED[number]
    theirs = gguf.GGMLQuantizationType(number)
    assert theirs.name == kind.name and gguf.GGML_QUANT_SIZES[theirs] == (kind.length, kind.size)
    for seed, (rows, blocks) in enumerate([(1, 1), (3, 2), (64, 5), (256, 8)]):
        raw = random_blocks(kind, rows, blocks, seed)
        expected = gguf.quants.dequantize(raw, theirs)
        assert np.isfinite(expected).all()
        found = meant(kind, raw, blocks * kind.length)
        np.testing.assert_array_equal(bits(found), bits(expected))


@pytest.mark.parametrize("number", QUANTISED, ids=[kind.name for kind in QUANTISED.values()])
def test_every_bit_of_a_block_counts(number: int) -> None:
    """No bit is read from the wrong place: turning one changes what ggml sees, and here the same numbers."""
    kind = QUANTISED[number]
    base = random_blocks(kind, 1, 1, 7)
    assert kind.block is not None
    count = 8 * kind.size
    turned = np.unpackbits(base, axis=1, bitorder="little") ^ np.eye(count, dtype=np.uint8)
    raw = np.packbits(turned, axis=1, bitorder="little")
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(number))
        found = meant(kind, raw, kind.length)
    same = (bits(found) == bits(expected)) | (np.isnan(found) & np.isnan(expected))
    assert same.all(), np.flatnonzero(~same.all(axis=1))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_types_are_values(name: str) -> None:
    number, kind = next((number, kind) for number, kind in ELEMENT_TYPES.items() if kind.name == name)
    raw = np.random.default_rng(0).normal(0, 1, (3, 8)).astype(np.float16 if name == "F16" else np.float32)
    stored: NDArray[Any] = raw if name != "BF16" else (raw.view(np.uint32) >> 16).astype(np.uint16)
    rows = kind.rows(stored.view(np.uint8).reshape(3, -1), 8)
    assert isinstance(rows, Values)
    expected = gguf.quants.dequantize(stored.view(np.uint8), gguf.GGMLQuantizationType(number))
    np.testing.assert_array_equal(rows.as_float32(), expected.reshape(3, 8))


@pytest.mark.parametrize(
    ("book", "name"),
    [
        (codebooks.IQ1, "IQ1_S"),
        (codebooks.IQ2_XXS, "IQ2_XXS"),
        (codebooks.IQ2_XS, "IQ2_XS"),
        (codebooks.IQ2_S, "IQ2_S"),
        (codebooks.IQ3_XXS, "IQ3_XXS"),
        (codebooks.IQ3_S, "IQ3_S"),
    ],
)
def test_codebooks_are_ggmls(book: codebooks.Codebook, name: str) -> None:
    theirs = getattr(gguf.quants, name)
    theirs.init_grid()
    levels = np.array(theirs.grid_map, dtype=np.float32)
    assert book.points.shape == theirs.grid_shape
    np.testing.assert_array_equal(levels[book.points], theirs.grid[0, 0])


def test_all_of_ggmls_types_are_known() -> None:
    """Those that are left out never lie in a file of weights, or only in files of other models."""
    known = {kind.name for kind in ELEMENT_TYPES.values()}
    left = {kind.name for kind in gguf.GGMLQuantizationType} - known
    assert left == {"Q8_1", "Q8_K", "I16", "F64", "Q1_0"}
