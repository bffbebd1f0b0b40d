"""The readers of quantised matrices against the programs that write them: quantised and dequantised there, in fp32.

compressed-tensors is always there; the others where `make oracles` was run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from array_checkpoint import ArrayCheckpoint, all_formats
from llama4rt.convert.formats.bitsandbytes_4bit import FourBitStream
from llama4rt.convert.formats.layer import FormatLayer
from llama4rt.convert.stored_rows import Codes, Values
from oracles_beside import file_of_source, program
from quantised_writers import groups_of
from random_checkpoints import Stored
from test_quantised_formats import values_of

torch = pytest.importorskip("torch")

OUT, IN = 96, 256
NAME = "m.weight"
DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
}


def stored_of(tensor: Any) -> Stored:
    """A torch tensor as a checkpoint stores it."""
    dtype = DTYPES[tensor.dtype]
    if dtype == "F8_E4M3":
        tensor = tensor.view(torch.uint8)
    return dtype, tensor.detach().contiguous().numpy()


def layer_of(tensors: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> FormatLayer:
    stored = {f"m.{name}": t if isinstance(t, tuple) else stored_of(t) for name, t in tensors.items()}
    layer = all_formats(ArrayCheckpoint(stored, config or {}))
    assert layer.problems(NAME, layer.names()[NAME].shape) == []
    return layer


def matrix(seed: int = 1, out: int = OUT, into: int = IN) -> Any:
    return torch.randn(out, into, generator=torch.Generator().manual_seed(seed)) / 16


# --- compressed-tensors

FLOAT8 = {"num_bits": 8, "type": "float"}
COMPRESSED = {
    "float-quantized tensor": FLOAT8 | {"strategy": "tensor"},
    "float-quantized channel": FLOAT8 | {"strategy": "channel"},
    "float-quantized block": FLOAT8 | {"strategy": "block", "block_structure": [128, 128]},
    "float-quantized group": FLOAT8 | {"strategy": "group", "group_size": 64},
    "mxfp8-quantized": FLOAT8 | {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
    "int-quantized channel": {"num_bits": 8, "type": "int", "strategy": "channel"},
    "int-quantized asymmetric": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False},
    "nvfp4-pack-quantized": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
    "mxfp4-pack-quantized": {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
    "mxfp6-pack-quantized": {"num_bits": 6, "type": "float", "strategy": "group", "group_size": 32},
    **{
        f"pack-quantized {bits} {'symmetric' if symmetric else 'asymmetric'} {group}": {
            "num_bits": bits,
            "type": "int",
            "strategy": "group" if group else "channel",
            "group_size": group,
            "symmetric": symmetric,
        }
        for bits in range(1, 9)
        for symmetric in (True, False)
        for group in (32, None)
    },
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_compressed_tensors(kind: str) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    form = kind.split()[0]
    try:
        args = QuantizationArgs(**COMPRESSED[kind])
    except (ValueError, NotImplementedError) as error:
        if sys.version_info >= (3, 11):
            raise
        pytest.skip(f"compressed-tensors 0.19, the newest for Python 3.10: {error}")
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    weight = matrix()
    local = {"weight": weight}
    whole = None
    if form.startswith("nvfp4"):
        whole = local["weight_global_scale"] = generate_gparam(weight.min(), weight.max())
    low, high = extremes(weight, args)
    kept = {"global_scale": whole} if whole is not None else {}
    scale, zero = calculate_qparams(low, high, args, **kept)
    if form.startswith("mx"):
        scale = 2.0 ** torch.floor(torch.log2(scale.float()))
    local["weight_scale"] = scale.float()
    local["weight_zero_point"] = zero.to(torch.int8)
    compressor = BaseCompressor.get_value_from_registry(form)
    tensors = compressor.compress(local, scheme)
    if "weight_packed" in tensors and form.endswith("fp4-pack-quantized"):
        meant = fp4_meant(tensors, args, dequantize, form)
    else:
        meant = compressor.decompress(tensors, scheme)["weight"].float()
    declared = {key: value for key, value in COMPRESSED[kind].items() if isinstance(value, int | str | list)}
    layer = layer_of(tensors, {"quantization_config": {"config_groups": {"group_0": {"weights": declared}}}})
    found = values_of(layer.rows(NAME))
    if form.startswith(("mxfp6", "mxfp8")):  # it dequantises to bf16
        found = torch.from_numpy(found).bfloat16().float().numpy()
    if form.startswith("nvfp4"):  # it divides by the scale of the whole, an engine multiplies
        np.testing.assert_allclose(found, meant.numpy(), rtol=5 * 2.0**-24)
        return
    np.testing.assert_array_equal(found, meant.numpy())


def extremes(weight: Any, args: Any) -> tuple[Any, Any]:
    """Least and largest of what shares a scale, shaped as the scales."""
    strategy = str(args.strategy)
    if strategy == "tensor":
        return weight.min().reshape(1), weight.max().reshape(1)
    if strategy == "block":
        padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % 128, 0, -weight.shape[0] % 128))
        blocks = padded.unflatten(1, (-1, 128)).unflatten(0, (-1, 128))
        return blocks.amin((1, 3)), blocks.amax((1, 3))
    groups = weight.unflatten(1, (-1, args.group_size or weight.shape[1]))
    return groups.amin(-1), groups.amax(-1)


def fp4_meant(tensors: Mapping[str, Any], args: Any, dequantize: Any, form: str) -> Any:
    """As its decompress() does, but in fp32 to the end."""
    from compressed_tensors.compressors.mx_utils import decompress_mx_scale
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

    numbers = unpack_fp4_from_uint8(tensors["weight_packed"], OUT, IN).float()
    scale = tensors["weight_scale"]
    wide = decompress_mx_scale(scale).float() if form.startswith("mx") else scale.float()
    whole = tensors.get("weight_global_scale")
    return dequantize(x_q=numbers, scale=wide, args=args, global_scale=whole, dtype=torch.float32)


# --- bitsandbytes


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("block", [64, 128])
def test_bitsandbytes_4bit(kind: str, nested: bool, block: int) -> None:
    """Codes and scales to the bit; values, whose table is rounded, within its bound."""
    functional = program("bitsandbytes.functional")
    weight = matrix()
    codes, state = functional.quantize_4bit(
        weight, blocksize=block, compress_statistics=nested, quant_type=kind
    )
    meant = functional.dequantize_4bit(codes, state).numpy()
    tensors = {"weight": codes} | {f"weight.{name}": t for name, t in state.as_dict(packed=True).items()}
    layer = layer_of(tensors)
    rows = layer.rows(NAME)
    assert isinstance(rows, Codes)
    assert rows.layout.group_size == block
    stream = FourBitStream(
        ArrayCheckpoint({f"m.{n}": stored_of(t) for n, t in tensors.items()}, {}), "m", kind
    )
    base = ArrayCheckpoint({f"m.{n}": stored_of(t) for n, t in tensors.items()}, {})
    absmax = stream.absmax(base, 0, OUT * IN // block).reshape(OUT, -1)
    np.testing.assert_array_equal(stream.table[rows.codes] * np.repeat(absmax, block, axis=1), meant)
    largest = np.repeat(np.abs(groups_of(meant, block)).max(2), block, axis=1)
    assert (np.abs(values_of(rows) - meant) <= 0.004 * largest).all()


def test_bitsandbytes_4bit_of_rows_that_are_no_blocks() -> None:
    functional = program("bitsandbytes.functional")
    codes, state = functional.quantize_4bit(matrix(2, 37, 40), compress_statistics=True, quant_type="nf4")
    tensors = {"weight": codes} | {f"weight.{name}": t for name, t in state.as_dict(packed=True).items()}
    rows = layer_of(tensors).rows(NAME)
    assert isinstance(rows, Values)
    np.testing.assert_array_equal(rows.array, functional.dequantize_4bit(codes, state).numpy())


@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_4bit_of_a_parameter(nested: bool) -> None:
    """Rows are whole blocks: its kernel for CPUs takes wrong scales of others (0.50.2)."""
    parametrize = program("bitsandbytes.nn.parametrize")
    module = torch.nn.Module()
    module.gate_up_proj = torch.nn.Parameter(torch.stack([matrix(seed, IN, 128) for seed in range(3)]))
    parametrize.replace_parameter_4bit(module, "gate_up_proj", compress_statistics=nested)
    meant = module.gate_up_proj.detach().numpy()  # dequantised there, when it is asked for
    at = "model.layers.0.feed_forward.experts."
    tensors = {f"{at}{name}": stored_of(tensor) for name, tensor in module.state_dict().items()}
    layer = all_formats(ArrayCheckpoint(tensors, {}))
    assert set(layer.names()) == {f"{at}gate_up_proj"}
    for expert in range(3):
        rows = layer.rows(f"{at}gate_up_proj", 5, 70, expert)
        assert isinstance(rows, Values)
        np.testing.assert_array_equal(rows.array, meant[expert][:, 5:70])


def test_bitsandbytes_int8() -> None:
    functional = program("bitsandbytes.functional")
    codes, largest, _ = functional.int8_vectorwise_quant(matrix().half())
    meant = functional.int8_vectorwise_dequant(codes, largest).numpy()
    found = values_of(layer_of({"weight": codes, "SCB": largest}).rows(NAME))
    np.testing.assert_allclose(found, meant, rtol=2.0**-22)


# --- ModelOpt


def test_modelopt_nvfp4() -> None:
    tensor = program("modelopt.torch.quantization.qtensor").NVFP4QTensor
    packed, scale, whole = tensor.quantize(matrix(), 16)
    meant = packed.dequantize(torch.float32, scale=scale, double_scale=whole, block_sizes={-1: 16})
    tensors = {"weight": packed._quantized_data, "weight_scale": scale, "weight_scale_2": whole}
    np.testing.assert_array_equal(values_of(layer_of(tensors).rows(NAME)), meant.numpy())


def test_modelopt_mxfp4() -> None:
    tensor = program("modelopt.torch.quantization.qtensor").MXFP4QTensor
    packed, scale = tensor.quantize(matrix(), 32)
    meant = packed.dequantize(torch.float32, scale=scale, block_sizes={-1: 32})
    tensors = {"weight": packed._quantized_data, "weight_scale": scale.reshape(OUT, -1)}
    np.testing.assert_array_equal(values_of(layer_of(tensors).rows(NAME)), meant.numpy())


@pytest.mark.parametrize("part", ["gate_up_proj", "down_proj"])
def test_modelopt_fused_experts(part: str) -> None:
    """NVFP4 as its export does it: on the transposed stack, which is then turned back."""
    utils = program("modelopt.torch.export.quant_utils")
    tensor = program("modelopt.torch.quantization.qtensor").NVFP4QTensor
    stack = torch.stack([matrix(seed, IN, OUT) for seed in range(3)])  # [E, in, out]
    turned, _ = utils.maybe_transpose_expert_weight_dimensions(stack)
    whole = tensor.get_weights_scaling_factor_2(turned)
    scale = tensor.get_weights_scaling_factor(turned, 16, whole)[0]
    packed = utils.to_quantized_weight(turned, scale, "nvfp4", whole, 16)
    meant = (
        tensor(turned.shape, torch.float32, packed)
        .dequantize(torch.float32, scale=scale, double_scale=whole, block_sizes={-1: 16})
        .numpy()
    )
    packed, scale = utils.maybe_transpose_expert_weight_dimensions(packed, scale)
    name = f"model.layers.0.feed_forward.experts.{part}"
    parts = {"": packed, "_weight_scale": scale, "_weight_scale_2": whole}
    layer = all_formats(ArrayCheckpoint({f"{name}{end}": stored_of(t) for end, t in parts.items()}, {}))
    assert layer.problems(name, (3, IN, OUT)) == []
    for expert in range(3):
        np.testing.assert_array_equal(values_of(layer.rows(name, expert=expert)), meant[expert])


def test_modelopt_fused_fp8() -> None:
    utils = program("modelopt.torch.export.quant_utils")
    stack = torch.stack([matrix(seed, IN, OUT) for seed in range(3)])
    scale = stack.abs().max() / 448
    codes = utils.to_quantized_weight(stack, scale, "fp8")
    meant = codes.float() * scale
    name = "model.layers.0.feed_forward.experts.gate_up_proj"
    base = ArrayCheckpoint({name: stored_of(codes), f"{name}_weight_scale": stored_of(scale)}, {})
    layer = all_formats(base)
    assert layer.problems(name, (3, IN, OUT)) == []
    for expert in range(3):
        np.testing.assert_array_equal(values_of(layer.rows(name, expert=expert)), meant[expert].T.numpy())


# --- MLX


def from_mlx(array: Any, core: ModuleType) -> Stored:
    name = {core.uint32: "U32", core.uint8: "U8", core.float32: "F32", core.float16: "F16"}[array.dtype]
    return name, np.array(array)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
def test_mlx_affine(bits: int, group: int, dtype: str) -> None:
    core = program("mlx.core")
    core.set_default_device(core.cpu)
    weight = core.array(matrix().numpy()).astype(getattr(core, dtype))
    parts = core.quantize(weight, group_size=group, bits=bits)
    meant = core.dequantize(
        *[parts[0], *[p.astype(core.float32) for p in parts[1:]]], group_size=group, bits=bits
    )
    tensors = {n: from_mlx(p, core) for n, p in zip(("weight", "scales", "biases"), parts, strict=True)}
    layer = layer_of(tensors, {"quantization": {"group_size": group, "bits": bits}})
    np.testing.assert_array_equal(values_of(layer.rows(NAME)), np.array(meant))


@pytest.mark.parametrize(("mode", "group", "bits"), [("nvfp4", 16, 4), ("mxfp4", 32, 4), ("mxfp8", 32, 8)])
def test_mlx_modes(mode: str, group: int, bits: int) -> None:
    core = program("mlx.core")
    core.set_default_device(core.cpu)
    parts = core.quantize(core.array(matrix().numpy()), group_size=group, bits=bits, mode=mode)
    meant = core.dequantize(*parts, group_size=group, bits=bits, mode=mode, dtype=core.float32)
    tensors = {n: from_mlx(p, core) for n, p in zip(("weight", "scales"), parts, strict=True)}
    np.testing.assert_array_equal(values_of(layer_of(tensors).rows(NAME)), np.array(meant))


@pytest.mark.parametrize("whole", [0.05, 0.3, 1.7])
def test_mlx_nvfp4_with_a_scale_of_the_whole(whole: float) -> None:
    core = program("mlx.core")
    core.set_default_device(core.cpu)
    scale = core.array(whole, dtype=core.float32)
    parts = core.quantize(core.array(matrix().numpy()), mode="nvfp4", global_scale=scale)
    meant = core.dequantize(*parts, mode="nvfp4", global_scale=scale, dtype=core.float32)
    tensors = {
        n: from_mlx(p, core)
        for n, p in zip(("weight", "scales", "global_scale"), (*parts, scale), strict=True)
    }
    np.testing.assert_array_equal(values_of(layer_of(tensors).rows(NAME)), np.array(meant))


# --- AutoAWQ


def test_autoawq(tmp_path: Path) -> None:
    """Words of any bits: the order of its nibbles is all there is to know."""
    packing = file_of_source("autoawq", "awq/utils/packing_utils.py", tmp_path)
    rng = np.random.default_rng(4)
    qweight, qzeros = (
        rng.integers(-(2**31), 2**31, (rows, OUT // 8), dtype=np.int64).astype(np.int32)
        for rows in (IN, IN // 64)
    )
    scales = rng.uniform(0.01, 0.1, (IN // 64, OUT)).astype(np.float16)
    meant = packing.dequantize_gemm(
        torch.from_numpy(qweight), torch.from_numpy(qzeros), torch.from_numpy(scales).float(), 4, 64
    )
    tensors: dict[str, Stored] = {
        "qweight": ("I32", qweight),
        "qzeros": ("I32", qzeros),
        "scales": ("F16", scales),
    }
    np.testing.assert_array_equal(values_of(layer_of(tensors).rows(NAME)), meant.T.numpy())
