"""Every published way to store a quantised matrix, as quantised_writers.py writes it, is read bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_checkpoint import ArrayCheckpoint, all_formats
from llama4rt.convert.formats.layer import FormatLayer
from llama4rt.convert.formats.packed_bits import unpack_bits
from llama4rt.convert.formats.scale_grid import grid_of
from llama4rt.convert.formats.unused_scales import without_unused_scales
from llama4rt.convert.formats.whole_number_table import whole_number_table
from llama4rt.convert.locate import open_checkpoint
from llama4rt.convert.stored_rows import Codes, Values
from llama4rt.errors import CheckpointError
from quantised_writers import FP4, NF4, WRITERS, Written, four_bit, gptq, groups_of, mlx, pack_stream
from random_checkpoints import SMALL, Floats, write_config, write_tensors

OUT, IN = 160, 256  # five blocks of 32 outputs; two blocks of 128 rows, the second short


@pytest.fixture(scope="module")
def numbers() -> Floats:
    return (np.random.default_rng(0).standard_normal((OUT, IN)) / 16).astype(np.float32)


def layer_of(written: Written, module: str = "model.layers.0.m") -> FormatLayer:
    tensors = {f"{module}.{part}": stored for part, stored in written.tensors.items()}
    return all_formats(ArrayCheckpoint(tensors, written.config))


def values_of(rows: Values | Codes) -> Floats:
    return (rows.values() if isinstance(rows, Codes) else rows).as_float32()


def check_equal(found: Floats, written: Written) -> None:
    """To the bit, or within the bound of a kind that no table of whole numbers holds."""
    if not written.bound:
        np.testing.assert_array_equal(found, written.meant)
        return
    into = written.meant.shape[1]
    largest = np.repeat(np.abs(groups_of(written.meant, 64)).max(2), 64, axis=1)[:, :into]
    assert np.all(np.abs(found - written.meant) <= written.bound * largest)


@pytest.mark.parametrize("kind", WRITERS)
def test_values_are_those_of_the_published_rule(kind: str, numbers: Floats) -> None:
    written = WRITERS[kind](numbers)
    layer = layer_of(written)
    name = "model.layers.0.m.weight"
    left = (
        set(layer.names()) - {name} - {"model.layers.0.m.input_scale", "model.layers.0.m.input_global_scale"}
    )
    assert not left
    assert layer.problems(name, (OUT, IN)) == []
    check_equal(values_of(layer.rows(name)), written)
    # The writer quantised what it was given.
    bits = 1 if "-1" in kind else 2 if "-2" in kind else 3 if "-3" in kind else 4
    alike = np.corrcoef(written.meant.reshape(-1), numbers.reshape(-1))[0, 1]
    assert alike > {1: 0.3, 2: 0.75, 3: 0.96, 4: 0.99}[bits]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("first", "last"), [(0, 7), (7, 40), (33, 150), (100, 160)])
def test_rows_are_those_of_the_whole(kind: str, first: int, last: int, numbers: Floats) -> None:
    """Cut words of zero points, blocks of rows and of absmax."""
    layer = layer_of(WRITERS[kind](numbers))
    whole = values_of(layer.rows("model.layers.0.m.weight"))
    np.testing.assert_array_equal(
        values_of(layer.rows("model.layers.0.m.weight", first, last)), whole[first:last]
    )


# --- corners


def codes_of(layer: FormatLayer) -> Codes:
    rows = layer.rows("model.layers.0.m.weight")
    assert isinstance(rows, Codes)
    return rows


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("packed-2-asymmetric", ("int4", 64, "F16", False, False)),  # the zero point is in the code
        ("packed-3", ("int4", 32, "BF16", False, False)),
        ("packed-4-asymmetric", ("int4", 64, "F16", True, False)),
        ("packed-6-asymmetric", ("int8", 64, "F16", False, False)),
        ("packed-8-asymmetric", ("int8", 64, "F16", True, False)),
        ("gptq-4", ("int4", 32, "F16", False, False)),  # sym
        ("gptq-4-asymmetric", ("int4", 64, "F16", True, False)),
        ("awq", ("int4", 32, "F16", True, False)),
        ("fp8-channel-bf16", ("fp8", 128, "BF16", False, False)),
        ("fp8-block", ("fp8", 128, "F32", False, False)),
        ("fp8-group", ("fp8", 32, "BF16", False, False)),
        ("mxfp8", ("fp8", 32, "BF16", False, False)),
        ("int8-asymmetric", ("int8", 128, "F32", True, False)),
        ("nvfp4", ("table4", 16, "F8_E4M3", False, False)),
        ("mxfp4", ("table4", 32, "BF16", False, False)),
        ("mxfp6", ("int8", 32, "BF16", False, False)),
        ("nf4-nested", ("table4", 64, "F32", False, False)),
        ("mlx-3", ("int4", 64, "BF16", False, True)),
        ("mlx-6-f16", ("int8", 32, "F16", False, True)),
    ],
)
def test_each_kind_is_stored_no_wider_than_it_needs(
    kind: str, layout: tuple[object, ...], numbers: Floats
) -> None:
    found = codes_of(layer_of(WRITERS[kind](numbers))).layout
    assert (found.kind, found.group_size, found.scale_dtype, found.zeros, found.offsets) == layout


def test_every_code_of_every_width_is_read() -> None:
    """0 to 2^bits - 1, at every place of a word and across words."""
    for bits in range(1, 9):
        codes = (np.arange(96)[None] * np.array([[1], [3], [7]]) % (1 << bits)).astype(np.uint8)
        words = pack_stream(codes, bits)
        np.testing.assert_array_equal(unpack_bits(words, bits, 96), codes)
        np.testing.assert_array_equal(unpack_bits(words, bits, 77), codes[:, :77])
        np.testing.assert_array_equal(unpack_bits(words.view(np.uint32), bits, 96), codes)
        np.testing.assert_array_equal(unpack_bits(pack_stream(codes, bits, "<u1"), bits, 96), codes)


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_groups_that_are_moved_as_a_whole_go_in_as_codes(size: int, numbers: Floats) -> None:
    """g_idx may name groups in any order, as long as runs of inputs share one."""
    order = np.random.default_rng(1).permutation(IN // size)
    inputs = (order[:, None] * size + np.arange(size)).reshape(-1)
    layer = layer_of(gptq(numbers, 4, size, False, order=inputs))
    assert codes_of(layer).layout.group_size == size
    written = gptq(numbers, 4, size, False, order=inputs)
    np.testing.assert_array_equal(codes_of(layer).values().array, written.meant)
    assert layer.names()["model.layers.0.m.weight"].note == ""


@pytest.mark.parametrize("kind", ["gptq-desc-act", "packed-4"])
def test_scattered_groups_are_said_aloud(kind: str, numbers: Floats) -> None:
    written = WRITERS[kind](numbers)
    if kind == "packed-4":
        written.tensors["weight_g_idx"] = (
            "I32",
            np.random.default_rng(2).permutation(IN).astype(np.int32) // 32,
        )
    layer = layer_of(written)
    assert isinstance(layer.rows("model.layers.0.m.weight"), Values)
    assert "not runs of inputs" in layer.names()["model.layers.0.m.weight"].note


def test_unset_and_negative_group_lists(numbers: Floats) -> None:
    """All -1 is no list at all; -1 alone names the last group."""
    written = gptq(numbers, 4, 32, False)
    plain = values_of(layer_of(written).rows("model.layers.0.m.weight"))
    for change in (lambda g: np.full_like(g, -1), lambda g: np.where(g == g.max(), -1, g).astype(g.dtype)):
        dtype, listed = written.tensors["g_idx"]
        changed = Written(written.tensors | {"g_idx": (dtype, change(listed))}, written.meant, written.config)
        np.testing.assert_array_equal(values_of(layer_of(changed).rows("model.layers.0.m.weight")), plain)
    del written.tensors["g_idx"]
    np.testing.assert_array_equal(values_of(layer_of(written).rows("model.layers.0.m.weight")), plain)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_zero_point_of_zero_wraps(bits: int, numbers: Floats) -> None:
    """Of groups without negative numbers: version 1 stores -1, which is all ones."""
    written = gptq(np.abs(numbers), bits, 32, False)
    np.testing.assert_array_equal(codes_of(layer_of(written)).values().array, written.meant)


def test_one_scale_and_zero_point_for_the_whole_matrix(numbers: Floats) -> None:
    """compressed-tensors' strategy "tensor": the zero point is neither packed nor offset."""
    written = WRITERS["packed-4"](numbers)
    written.tensors |= {
        "weight_scale": ("F32", np.array([0.25], np.float32)),
        "weight_zero_point": ("I8", np.array([-3], np.int8)),
    }
    found = codes_of(layer_of(written))
    assert (found.layout.group_size, found.layout.zeros) == (128, True)
    np.testing.assert_array_equal(
        found.values().array, (found.codes.astype(np.float32) - 8 + 3) * np.float32(0.25)
    )
    assert found.codes.max() == 15


@pytest.mark.parametrize("stored_as", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("said", ["gptq", "gptq_v2", None])
def test_a_symmetric_file_tells_its_version_itself(stored_as: str, said: str | None, numbers: Floats) -> None:
    written = gptq(numbers, 4, 32, True, stored_as)
    written.config["quantization_config"]["checkpoint_format"] = said
    np.testing.assert_array_equal(codes_of(layer_of(written)).values().array, written.meant)


def test_a_symmetric_file_with_other_zero_points_is_refused(numbers: Floats) -> None:
    written = gptq(numbers, 4, 32, False)
    written.config["quantization_config"]["sym"] = True
    with pytest.raises(
        CheckpointError, match=r"m\.qzeros: config\.json says sym, but not every zero point is 8"
    ):
        layer_of(written).rows("model.layers.0.m.weight")


@pytest.mark.parametrize(
    ("into", "block", "size"), [(160, 64, 32), (48, 64, 16), (256, 128, 128), (192, 4096, 64), (40, 64, None)]
)
@pytest.mark.parametrize("nested", [False, True])
def test_blocks_that_run_on_over_rows(into: int, block: int, size: int | None, nested: bool) -> None:
    """bitsandbytes cuts the flattened matrix: a block may begin in one row and end in the next."""
    values = np.random.default_rng(5).standard_normal((37, into)).astype(np.float32)
    written = four_bit(values, "nf4", nested, block)
    layer = layer_of(written)
    assert layer.problems("model.layers.0.m.weight", (37, into)) == []
    for first, last in ((0, 37), (3, 20)):
        rows = layer.rows("model.layers.0.m.weight", first, last)
        if size is None:
            assert isinstance(rows, Values)
            np.testing.assert_array_equal(values_of(rows), written.meant[first:last])
        else:
            assert isinstance(rows, Codes)
            assert rows.layout.group_size == size
            assert np.abs(values_of(rows) - written.meant[first:last]).max() < 0.004 * np.abs(values).max()
    assert layer.names()["model.layers.0.m.weight"].note


@pytest.mark.parametrize(("table", "error", "rms"), [(NF4, 0.0039, 0.0018), (FP4, 0.0032, 0.0012)])
def test_tables_of_fractions_lose_little(table: Floats, error: float, rms: float) -> None:
    """What the reader's words and the page of quantisation say: in parts of the largest entry."""
    found = whole_number_table(tuple(table.tolist()))
    difference = np.array(found.numbers) * found.unit - table.astype(np.float64)
    assert np.abs(difference).max() == pytest.approx(found.error)
    assert found.error < error
    assert np.sqrt((difference**2).mean()) < rms
    assert whole_number_table(tuple(range(-8, 8))).error == 0


def test_a_table_of_fractions_adds_little_to_the_error_of_four_bits() -> None:
    values = np.random.default_rng(6).standard_normal((64, 1024)).astype(np.float32)
    written = four_bit(values)
    ours = values_of(layer_of(written).rows("model.layers.0.m.weight"))
    before, after = (np.sqrt(((found - values) ** 2).mean()) for found in (written.meant, ours))
    assert before > 0.08
    assert after < 1.005 * before


@pytest.mark.parametrize(
    ("into", "size", "bits", "said", "found"),
    [
        (256, 64, 4, {"group_size": 64, "bits": 4}, (64, 4)),
        (256, 128, 2, {"group_size": 128, "bits": 2}, (128, 2)),
        (256, 64, 4, {"group_size": 128, "bits": 2}, (128, 2)),  # the shapes fit both: the config decides
        (256, 64, 5, {}, (64, 5)),  # only one pair fits
        (
            256,
            32,
            8,
            {"model.layers.0.m": {"group_size": 32, "bits": 8}, "group_size": 64, "bits": 4},
            (32, 8),
        ),
        (256, 32, 6, {"group_size": 64, "bits": 4}, None),  # 32 x 6 or 64 x 3, and neither is declared
        (256, 64, 7, {"group_size": 64, "bits": 7}, None),
    ],
)
def test_mlx_asks_the_config_only_where_shapes_leave_it_open(
    into: int, size: int, bits: int, said: dict[str, object], found: tuple[int, int] | None
) -> None:
    written = mlx(np.random.default_rng(7).standard_normal((16, into)).astype(np.float32), bits, size)
    written.config = {"quantization": said}
    layer = layer_of(written)
    if found is None:
        (problem,) = layer.problems("model.layers.0.m.weight", (16, into))
        assert "m.scales: is BF16" in problem
        return
    info = layer.names()["model.layers.0.m.weight"]
    assert info.shape == (16, into // size * found[0])
    assert info.codes is not None and info.codes.group_size == found[0]


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((), (300, 200)),
        ((1,), (300, 200)),
        ((1, 1), (300, 200)),
        ((300,), (1, 200)),
        ((300, 1), (1, 200)),
        ((3, 2), (128, 128)),
        ((3, 1, 2, 1), (128, 128)),
        ((5, 4), (64, 50)),  # declared
        ((300, 2), (1, 100)),
        ((300, 3), None),
        ((2, 300), None),
        ((300, 0), None),
        ((0,), None),
        ((3, 2, 1), None),
    ],
)
def test_the_shape_of_scales_says_whose_they_are(
    shape: tuple[int, ...], grid: tuple[int, int] | None
) -> None:
    found = grid_of(shape, 300, 200, [(64, 50)])
    assert (None if found is None else (found.rows, found.columns)) == grid


def test_scales_of_activations_and_of_the_cache_are_left_out_aloud(numbers: Floats) -> None:
    tensors = {f"m.{part}": stored for part, stored in WRITERS["nvfp4-modelopt"](numbers).tensors.items()}
    tensors |= {f"a.{n}": ("F32", np.ones((), np.float32)) for n in ("k_proj.k_scale", "v_proj.v_scale")}
    tensors["experts.gate_up_proj_input_scale"] = ("F32", np.ones((), np.float32))
    tensors["norm.weight"] = ("F32", np.ones(4, np.float32))
    left = without_unused_scales(ArrayCheckpoint(tensors, {}))
    assert set(left.names()) == {"m.weight", "m.weight_scale", "m.weight_scale_2", "norm.weight"}
    activations, cache = left.notes()
    assert activations.startswith("2 scales of activations (m.input_scale and so on) are not used")
    assert cache.startswith("2 scales of the cache (a.k_proj.k_scale and so on) are not used")
    plain = ArrayCheckpoint({"norm.weight": tensors["norm.weight"]}, {})
    assert without_unused_scales(plain) is plain


# --- files that say in config.json's place how a checkpoint was quantised


def directory_of(written: Written, place: Path, file: str | None, said: Any) -> Path:
    place.mkdir()
    write_config(place, SMALL, **({} if file else written.config))
    write_tensors(place, {f"model.layers.0.m.{part}": stored for part, stored in written.tensors.items()})
    if file:
        (place / file).write_text(said if isinstance(said, str) else json.dumps(said))
    return place


def test_gptq_s_own_file_is_asked(numbers: Floats, tmp_path: Path) -> None:
    """Which version an asymmetric file is, only the config says."""
    written = gptq(numbers, 4, 32, False, "gptq_v2")
    said = written.config["quantization_config"]
    place = directory_of(written, tmp_path / "own", "quantize_config.json", said)
    opened = open_checkpoint(place)
    np.testing.assert_array_equal(values_of(opened.rows("model.layers.0.m.weight")), written.meant)
    before = opened.source_hash()
    (place / "quantize_config.json").write_text(json.dumps(said | {"checkpoint_format": "gptq"}))
    changed = open_checkpoint(place)
    assert changed.source_hash() != before
    assert not np.array_equal(values_of(changed.rows("model.layers.0.m.weight")), written.meant)
    # config.json comes first.
    write_config(place, SMALL, **written.config)
    opened = open_checkpoint(place)
    np.testing.assert_array_equal(values_of(opened.rows("model.layers.0.m.weight")), written.meant)


@pytest.mark.parametrize(
    ("file", "kind", "said"),
    [
        ("hf_quant_config.json", "nvfp4-modelopt", {"producer": {}, "quantization": {"quant_algo": "NVFP4"}}),
        ("hf_quant_config.json", "fp8-tensor", {"quantization": {"quant_algo": "MIXED_PRECISION"}}),
        ("hf_quant_config.json", "fp8-tensor", {"quantization": None}),
        ("quant_config.json", "awq", {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}),
    ],
)
def test_other_writers_files(file: str, kind: str, said: Any, numbers: Floats, tmp_path: Path) -> None:
    written = WRITERS[kind](numbers)
    opened = open_checkpoint(directory_of(written, tmp_path / "own", file, said))
    np.testing.assert_array_equal(values_of(opened.rows("model.layers.0.m.weight")), written.meant)


def test_a_damaged_file_is_named(numbers: Floats, tmp_path: Path) -> None:
    place = directory_of(gptq(numbers), tmp_path / "own", "quantize_config.json", "[1, 2]")
    with pytest.raises(CheckpointError, match=r"quantize_config\.json: "):
        open_checkpoint(place)
