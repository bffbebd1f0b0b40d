"""compressed-tensors pack-quantized int4: unpacked and imported bit for bit, with that package as the judge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_checkpoint import ArrayCheckpoint, codes_of
from llama4rt import build
from llama4rt._core import EngineFile
from llama4rt.convert.formats.compressed_tensors import PackedIntegers, declared_bits
from llama4rt.convert.formats.layer import FormatLayer
from llama4rt.convert.formats.packed_bits import unpack_bits
from llama4rt.convert.formats.scale_grid import declared_blocks
from llama4rt.convert.locate import check_quantization_method
from llama4rt.convert.stored_rows import CodeLayout
from llama4rt.errors import CheckpointError
from numpy.typing import NDArray
from random_checkpoints import (
    TINY,
    Stored,
    Values,
    engine_weights,
    expected_vision,
    expected_weights,
    gate_up,
    random_values,
    stored,
    unfuse,
    write_config,
    write_tensors,
)

CONFIG = TINY | {"num_hidden_layers": 2, "interleave_moe_layer_step": 2}


def arrays(tensors: Mapping[str, Stored], group_size: int | None = None) -> ArrayCheckpoint:
    weights = {} if group_size is None else {"group_size": group_size}
    return ArrayCheckpoint(
        tensors, {"quantization_config": {"config_groups": {"group_0": {"weights": weights}}}}
    )


def layer_over(base: ArrayCheckpoint) -> FormatLayer:
    return FormatLayer(base, PackedIntegers.detect(base))


def pack_columns(codes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Codes 0..15 [rows, columns], 8 to a word along the columns, lowest bits first. Plain loops."""
    rows, columns = codes.shape
    words = np.zeros((rows, -(-columns // 8)), dtype=np.uint32)
    for column in range(columns):
        words[:, column // 8] |= codes[:, column].astype(np.uint32) << np.uint32(4 * (column % 8))
    return words.view(np.int32)


def pack(
    name: str, codes: NDArray[np.uint8], scales: Stored, zeros: NDArray[np.uint8] | None = None
) -> dict[str, Stored]:
    """The tensors of one linear from its codes [out, in], scales and zeros [out, groups]."""
    out = {
        f"{name}.weight_packed": ("I32", pack_columns(codes)),
        f"{name}.weight_scale": scales,
        f"{name}.weight_shape": ("I64", np.array(codes.shape, dtype=np.int64)),
    }
    if zeros is not None:
        out[f"{name}.weight_zero_point"] = ("I32", np.ascontiguousarray(pack_columns(zeros.T).T))
    return out


def random_linear(
    rng: np.random.Generator,
    out: int,
    into: int,
    group: int,
    *,
    asymmetric: bool = False,
    scale_dtype: str = "BF16",
) -> tuple[NDArray[np.uint8], Stored, NDArray[np.uint8] | None, NDArray[np.float32]]:
    """(codes, scales, zeros, the values meant)."""
    groups = -(-into // group)
    codes = rng.integers(0, 16, (out, into), dtype=np.uint8)
    scales = np.float32(2.0) ** rng.integers(-8, -3, (out, groups)) * np.float32(1.25)
    zeros = rng.integers(0, 16, (out, groups), dtype=np.uint8) if asymmetric else None
    offset = np.full((out, groups), 8) if zeros is None else zeros
    group_of = np.arange(into) // group
    values = (codes.astype(np.float32) - offset[:, group_of].astype(np.float32)) * scales[:, group_of]
    return codes, stored(scales.astype(np.float32), scale_dtype), zeros, values.astype(np.float32)


# --- unpacking


def test_golden_row() -> None:
    """-8..7 is 0x76543210, 0xFEDCBA98."""
    packed = np.array([[0x76543210, 0xFEDCBA98]], dtype=np.uint32).view(np.int32)
    assert unpack_bits(packed, 4, 16).tolist() == [list(range(16))]
    assert unpack_bits(packed, 4, 11).tolist() == [list(range(11))]


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (5, 13), (16, 128), (33, 257)])
def test_unpacking_agrees_with_the_package(shape: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    values = torch.randint(-8, 8, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    packed = helpers.pack_to_int32(values, 4)
    assert np.array_equal(unpack_bits(packed.numpy(), 4, shape[1]).astype(np.int8) - 8, values.numpy())
    assert np.array_equal(pack_columns((values.numpy() + 8).astype(np.uint8)), packed.numpy())
    along_rows = helpers.pack_to_int32(values, 4, packed_dim=0)
    assert np.array_equal(
        unpack_bits(along_rows.numpy().T, 4, shape[0]).T.astype(np.int8) - 8, values.numpy()
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("strategy", "group"), [("group", 32), ("group", 128), ("channel", None)])
def test_values_agree_with_the_package(strategy: str, group: int | None, symmetric: bool) -> None:
    """Quantised, packed and decompressed by compressed-tensors; ours are the same to the bit, before bf16 rounding."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(num_bits=4, type="int", symmetric=symmetric, strategy=strategy, group_size=group)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    out, into = 24, 256
    weight = torch.randn(out, into, generator=torch.Generator().manual_seed(2))
    grouped = weight.unflatten(1, (-1, group or into))
    scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
    local = {"weight": weight, "weight_scale": scale.float(), "weight_zero_point": zero.to(torch.int8)}
    packed = PackedQuantizationCompressor.compress(local, scheme)
    meant = PackedQuantizationCompressor.decompress(packed, scheme)["weight"].float().numpy()
    dtypes = {torch.int32: "I32", torch.int64: "I64", torch.float32: "F32"}
    layer = layer_over(arrays({f"m.{n}": (dtypes[t.dtype], t.numpy()) for n, t in packed.items()}, group))
    assert layer.problems("m.weight", (out, into)) == []
    info = layer.names()["m.weight"]
    assert info.codes == CodeLayout("int4", group or 128, "F32", zeros=not symmetric)
    assert (info.dtype, info.shape, set(info.stored)) == ("int4", (out, into), {f"m.{n}" for n in packed})
    np.testing.assert_array_equal(codes_of(layer, "m.weight").values().array, meant)
    for first, last in ((0, 7), (7, 16), (16, 24)):  # rows that cut words of packed zero points
        np.testing.assert_array_equal(
            codes_of(layer, "m.weight", first, last).values().array, meant[first:last]
        )


@pytest.mark.parametrize(
    ("into", "groups", "declared", "engine_group"),
    [
        (256, 2, 128, 128),
        (256, 8, 32, 32),
        (256, 4, None, 64),
        (256, 1, None, 128),
        (96, 1, 128, 128),
        (512, 2, None, 128),
        (192, 2, None, 32),
        (96, 2, None, 16),
        (200, 2, 128, 128),  # a short last group
        (128, 8, 16, 16),
        (200, 3, None, None),
        (48, 2, None, None),
    ],
)
def test_group_sizes(into: int, groups: int, declared: int | None, engine_group: int | None) -> None:
    tensors = {
        "m.weight_packed": ("I32", np.zeros((8, -(-into // 8)), np.int32)),
        "m.weight_scale": ("BF16", np.zeros((8, groups), np.uint16)),
    }
    layer = layer_over(arrays(tensors, declared))
    problems = layer.problems("m.weight", (8, into))
    if engine_group is None:
        (problem,) = problems
        assert "groups of a multiple of 16 inputs" in problem
    else:
        assert problems == []
        assert layer.names()["m.weight"].codes == CodeLayout("int4", engine_group, "BF16", zeros=False)


def test_a_last_word_that_is_not_full_needs_weight_shape() -> None:
    codes, scales, _, meant = random_linear(np.random.default_rng(4), 5, 13, 13)
    tensors = pack("m", codes, scales)
    layer = layer_over(arrays(tensors))
    assert layer.problems("m.weight", (5, 13)) == []
    np.testing.assert_array_equal(codes_of(layer, "m.weight").values().array, meant)
    del tensors["m.weight_shape"]
    assert layer_over(arrays(tensors)).problems("m.weight", (5, 13)) == [
        "m.weight_shape: is missing; 13 inputs do not fill words of 8 codes"
    ]


@pytest.mark.parametrize(("group", "engine_group"), [(256, 128), (192, 64), (96, 32), (512, 128)])
def test_wide_groups_repeat_their_scales(group: int, engine_group: int) -> None:
    rng = np.random.default_rng(3)
    codes, scales, zeros, values = random_linear(rng, 16, 512, group, asymmetric=True)
    layer = layer_over(arrays(pack("m", codes, scales, zeros), group))
    assert layer.problems("m.weight", (16, 512)) == []
    ours = codes_of(layer, "m.weight")
    assert ours.layout.group_size == engine_group
    assert np.array_equal(ours.codes, codes)
    assert ours.zeros is not None
    assert ours.scales.shape == ours.zeros.shape == (16, 512 // engine_group)
    np.testing.assert_array_equal(ours.values().array, values)


@pytest.mark.parametrize("into", [256, 200])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("scale_dtype", ["BF16", "F32"])
def test_another_layout_means_the_same(into: int, asymmetric: bool, scale_dtype: str) -> None:
    rng = np.random.default_rng(5)
    codes, scales, zeros, values = random_linear(
        rng, 8, into, 128, asymmetric=asymmetric, scale_dtype=scale_dtype
    )
    layer = layer_over(arrays(pack("m", codes, scales, zeros), 128))
    ours = codes_of(layer, "m.weight")
    for group in (128, 64, 32):
        finer = ours.in_layout(CodeLayout("int4", group, "F32", zeros=True))
        assert finer.zeros is not None
        assert finer.scales.dtype == np.float32
        assert finer.scales.shape == finer.zeros.shape == (8, -(-into // group))
        np.testing.assert_array_equal(finer.values().array, values)


# --- whole checkpoints


def packed_checkpoint(
    directory: Path,
    values: Values,
    *,
    group: int = 64,
    packed: Any = lambda name: True,
    asymmetric: Any = lambda name: False,
    scale_dtype: str = "BF16",
    **quantization: Any,
) -> Values:
    """Writes CONFIG with random codes in every linear that packed(name) chooses; returns what all tensors mean."""
    rng = np.random.default_rng(7)
    tensors: dict[str, Stored] = {}
    meant: Values = {}
    for name, value in unfuse(values).items():
        is_linear = "_proj" in name or "lm_head" in name
        if not is_linear or not packed(name):
            tensors[name], meant[name] = stored(value, "BF16"), value
            continue
        codes, scales, zeros, meant[name] = random_linear(
            rng, *value.shape, group, asymmetric=asymmetric(name), scale_dtype=scale_dtype
        )
        tensors |= pack(name.removesuffix(".weight"), codes, scales, zeros)
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": group}
    write_config(
        directory,
        CONFIG,
        quantization_config={
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
            **quantization,
        },
    )
    write_tensors(directory, tensors)
    return meant


def expected_unfused(meant: Values) -> dict[str, list[NDArray[np.float32]]]:
    """Engine tensors of a checkpoint whose experts are stored one by one."""
    fused = dict(meant)
    for layer, moe in enumerate([False, True]):
        if not moe:
            continue
        stack = f"model.layers.{layer}.feed_forward.experts"
        parts = {
            part: np.stack(
                [meant[f"{stack}.{e}.{part}_proj.weight"].T for e in range(CONFIG["num_local_experts"])]
            )
            for part in ("gate", "up", "down")
        }
        fused[f"{stack}.gate_up_proj"] = np.concatenate([parts["gate"], parts["up"]], axis=2)
        fused[f"{stack}.down_proj"] = parts["down"]
    return expected_weights(CONFIG, fused)


def check(path: Path, meant: Values, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Compares an engine's values with what the checkpoint means; kinds: how some weights must be stored."""
    expected, found = expected_unfused(meant), engine_weights(path)
    file = EngineFile(str(path))
    described = json.loads(file.metadata["weights"])
    for name, matrices in expected.items():
        ours, theirs = np.stack(found[name]), np.stack(matrices)
        kind = described[name]["kind"] if name in described else "plain"
        if name in kinds:
            assert kind == kinds[name], name
        if kind == "int4":
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
            assert (described[name]["rms_error"], described[name]["max_error"]) == (0, 0), name
        else:  # a code times a scale may need more bits than bf16 has
            np.testing.assert_allclose(ours, theirs, rtol=2**-8, err_msg=name)
    return {name: file.weight(name) for name in described}


LINEARS = [
    "layers.0.attn.qkv", "layers.0.attn.o", "layers.0.mlp.gate_up", "layers.0.mlp.down",
    "layers.1.moe.shared.gate_up", "layers.1.moe.shared.down", "layers.1.moe.gate_up", "layers.1.moe.down",
]  # fmt: skip


@pytest.mark.parametrize("scale_dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_import_is_exact(group: int, asymmetric: bool, scale_dtype: str, tmp_path: Path) -> None:
    meant = packed_checkpoint(
        tmp_path,
        random_values(CONFIG),
        group=group,
        packed=lambda name: "lm_head" not in name,
        asymmetric=lambda name: asymmetric,
        scale_dtype=scale_dtype,
    )
    # Packed linears do not care about these options.
    build(tmp_path, tmp_path / "out.l4e", weights="int8", group_size=32)
    weights = check(tmp_path / "out.l4e", meant, dict.fromkeys(LINEARS, "int4") | {"lm_head": "bf16"})
    for name in LINEARS:
        assert weights[name]["group_size"] == group
        assert weights[name]["has_zeros"] is asymmetric
        assert weights[name]["scale_dtype"] == ("BF16" if scale_dtype == "BF16" else "F32")


def test_codes_are_taken_over_as_they_are(tmp_path: Path) -> None:
    """Scales of 1 show the codes themselves."""
    values = random_values(CONFIG)
    codes = np.random.default_rng(9).integers(0, 16, (128, 128), dtype=np.uint8)
    tensors = {n: stored(v, "BF16") for n, v in unfuse(values).items()}
    name = "model.layers.0.self_attn.o_proj"
    del tensors[f"{name}.weight"]
    tensors |= pack(name, codes, stored(np.ones((128, 1), dtype=np.float32), "BF16"))
    write_config(tmp_path, CONFIG)
    write_tensors(tmp_path, tensors)
    build(tmp_path, tmp_path / "out.l4e")
    found = EngineFile(str(tmp_path / "out.l4e")).dequantize("layers.0.attn.o")
    assert np.array_equal(found, codes.astype(np.float32) - 8)


def test_pieces_of_different_kinds_become_bf16(tmp_path: Path) -> None:
    meant = packed_checkpoint(
        tmp_path,
        random_values(CONFIG),
        packed=lambda name: not any(part in name for part in ("k_proj", "experts.2.up_proj", "lm_head")),
    )
    build(tmp_path, tmp_path / "out.l4e")
    kinds = dict.fromkeys(LINEARS, "int4") | {"layers.0.attn.qkv": "bf16", "layers.1.moe.gate_up": "bf16"}
    check(tmp_path / "out.l4e", meant, kinds)


def test_symmetric_and_asymmetric_pieces_share_a_weight_exactly(tmp_path: Path) -> None:
    meant = packed_checkpoint(
        tmp_path,
        random_values(CONFIG),
        asymmetric=lambda name: "up_proj" in name,
        packed=lambda n: "lm_head" not in n,
    )
    build(tmp_path, tmp_path / "out.l4e")
    weights = check(tmp_path / "out.l4e", meant, dict.fromkeys(LINEARS, "int4"))
    assert weights["layers.1.moe.gate_up"]["has_zeros"]
    assert not weights["layers.1.moe.down"]["has_zeros"]


def test_a_packed_head_stays_int4(tmp_path: Path) -> None:
    meant = packed_checkpoint(tmp_path, random_values(CONFIG))
    build(tmp_path, tmp_path / "out.l4e")
    check(tmp_path / "out.l4e", meant, {"lm_head": "int4"})


@pytest.mark.parametrize("vision", ["bf16", "int8"])
def test_a_packed_vision_tower_becomes_what_its_codes_mean(vision: str, tmp_path: Path) -> None:
    """One linear of the tower packed, with a bias beside it; codes times scales of two fit bf16 exactly."""
    rng = np.random.default_rng(8)
    values = random_values(CONFIG, vision=True)
    tensors = {name: stored(value, "BF16") for name, value in values.items()}
    module = "vision_model.model.layers.1.mlp.fc2"
    codes, scales, _, meant = random_linear(rng, 32, 128, 32)
    del tensors[f"{module}.weight"]
    tensors |= pack(module, codes, scales)
    values[f"{module}.weight"] = meant
    write_config(tmp_path, CONFIG, vision=True)
    write_tensors(tmp_path, tensors)
    build(tmp_path, tmp_path / "out.l4e", vision=vision)
    found, expected = engine_weights(tmp_path / "out.l4e"), expected_vision(values)
    described = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["weights"])
    assert described["vision.layers.1.mlp.fc2"]["kind"] == vision
    for name in expected if vision == "bf16" else ["vision.layers.1.mlp.fc2.bias"]:
        np.testing.assert_array_equal(found[name][0], expected[name][0], err_msg=name)
    np.testing.assert_allclose(found["vision.layers.1.mlp.fc2"][0], meant, atol=0.005 * np.abs(meant).max())


def test_unpacked_linears_are_quantised_as_asked(tmp_path: Path) -> None:
    packed_checkpoint(tmp_path, random_values(CONFIG), packed=lambda name: "experts" in name)
    build(tmp_path, tmp_path / "out.l4e", weights="int8", group_size=32)
    weights = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["weights"])
    assert (weights["layers.0.attn.qkv"]["kind"], weights["layers.0.attn.qkv"]["group_size"]) == ("int8", 32)
    assert (weights["layers.1.moe.gate_up"]["kind"], weights["layers.1.moe.gate_up"]["group_size"]) == (
        "int4",
        64,
    )


# --- what is refused


def one_packed(tmp_path: Path, change: Any) -> None:
    """Builds a checkpoint with one packed linear after change(tensors, its name)."""
    tensors = {n: stored(v, "BF16") for n, v in unfuse(random_values(CONFIG)).items()}
    name = "model.layers.0.self_attn.o_proj"
    del tensors[f"{name}.weight"]
    codes, scales, zeros, _ = random_linear(np.random.default_rng(1), 128, 128, 64, asymmetric=True)
    tensors |= pack(name, codes, scales, zeros)
    change(tensors, name)
    write_config(tmp_path, CONFIG)
    write_tensors(tmp_path, tensors)
    build(tmp_path, tmp_path / "out.l4e")


def put(part: str, dtype: str, array: NDArray[Any]) -> Any:
    return lambda tensors, name: tensors.update({f"{name}.{part}": (dtype, array)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("weight_packed", "I32", np.zeros((128, 33), np.int32)), r"I32 \[128, 33\]; expected I32 \[128, 16\]"),
        (put("weight_packed", "I32", np.zeros((128, 32), np.int32)), r"zero_point: is .*; expected I32 \[32, 2\]"),
        (put("weight_packed", "F32", np.zeros((128, 16), np.float32)), r"F32 \[128, 16\]; expected I32"),
        (put("weight_scale", "BF16", np.zeros((64, 2), np.uint16)), r"BF16 \[64, 2\]; expected .* \[128, 2\]"),
        (put("weight_scale", "I32", np.zeros((128, 2), np.int32)), r"expected BF16 or F16 or F32 \[128, 2\]"),
        (put("weight_scale", "F32", np.full((128, 2), np.nan, np.float32)), r"o_proj.weight_packed: .*scale"),
        (put("weight_scale", "BF16", np.zeros((128, 0), np.uint16)), r"0 groups over 128 inputs"),
        (put("weight_zero_point", "I32", np.zeros((16, 3), np.int32)), r"zero_point: is I32 \[16, 3\]; expected"),
        (put("weight_zero_point", "I8", np.full((128, 2), 8, np.int8)), r"a value outside -8\.\.7"),
        (put("weight_shape", "I64", np.array([128, 64])), r"weight_shape: says \[128, 64\]; expected \[128, 128\]"),
        (put("weight_g_idx", "I32", np.arange(128, dtype=np.int32)), r"weight_g_idx: names a group outside 0\.\.1"),
        (put("weight_g_idx", "I32", np.arange(64, dtype=np.int32)), r"weight_g_idx: is I32 \[64\]"),
        (put("weight", "BF16", np.zeros((128, 128), np.uint16)), r"o_proj.weight: is BF16 .*no such tensor"),
        (put("input_shift", "F32", np.ones(1, np.float32)), r"input_shift: .*no such tensor"),
        (lambda tensors, name: tensors.pop(f"{name}.weight_scale"), r"weight_scale: is missing"),
    ],
)  # fmt: skip
def test_malformed_linears_are_typed_errors(change: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        one_packed(tmp_path, change)
    assert not list(tmp_path.glob("*.l4e*"))


@pytest.mark.parametrize(
    "order",
    [np.arange(128, dtype=np.int32) // 64, np.full(128, -1, dtype=np.int32)],
    ids=["identity", "unset"],
)
def test_an_order_that_changes_nothing_is_accepted(order: NDArray[np.int32], tmp_path: Path) -> None:
    one_packed(tmp_path, put("weight_g_idx", "I32", order))


def test_early_files_have_plain_zero_points(tmp_path: Path) -> None:
    zeros = np.random.default_rng(2).integers(-8, 8, (128, 2), dtype=np.int8)
    one_packed(tmp_path, put("weight_zero_point", "I8", zeros))
    file = EngineFile(str(tmp_path / "out.l4e"))
    assert file.weight("layers.0.attn.o")["has_zeros"]
    codes, scales, _, _ = random_linear(np.random.default_rng(1), 128, 128, 64, asymmetric=True)
    wide = (scales[1].astype(np.uint32) << 16).view(np.float32)
    group_of = np.arange(128) // 64
    meant = (codes.astype(np.float32) - 8 - zeros.astype(np.float32)[:, group_of]) * wide[:, group_of]
    assert np.array_equal(file.dequantize("layers.0.attn.o"), meant)


@pytest.mark.parametrize("method", ["aqlm", "torchao", "unheard-of", 7, []])
def test_other_quantisations_are_refused_by_name(method: Any) -> None:
    with pytest.raises(CheckpointError, match="quant_method is"):
        check_quantization_method({"quantization_config": {"quant_method": method}})


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"quantization_config": None},
        {"quantization_config": {}},
        {"quantization_config": {"config_groups": []}},
        {
            "quantization_config": {
                "config_groups": {"a": 1, "b": {"weights": 2}, "c": {"weights": {"group_size": "x"}}}
            }
        },
        {"quantization_config": {"config_groups": {"a": {"weights": {"group_size": -1}}}}},
    ],
)
def test_odd_quantisation_configs_declare_nothing(config: dict[str, Any]) -> None:
    assert declared_blocks(config) == []
    assert declared_bits(config) == []


def test_what_the_config_declares_is_found_everywhere() -> None:
    groups = {
        "group_0": {"weights": {"group_size": 64, "num_bits": 3}},
        "group_1": {"weights": {"block_structure": [128, 64]}},
    }
    quantization = {"quant_method": "compressed-tensors", "config_groups": groups}
    for config in (
        {"quantization_config": quantization},
        {"compression_config": quantization},
        {"text_config": {"quantization_config": quantization}},
    ):
        assert declared_blocks(config) == [(1, 64), (128, 64)]
        assert declared_bits(config) == [3]
    assert declared_blocks({"quantization_config": {"weight_block_size": [32, 16]}}) == [(32, 16)]


def test_gate_up_helper() -> None:
    """The tests' own interleaving, on a case small enough to see."""
    gate, up = np.full((3, 1), 1.0), np.full((3, 1), 2.0)
    assert gate_up(gate, up)[:, 0].tolist() == [1] * 3 + [0] * 13 + [2] * 3 + [0] * 13
