"""Writers of quantised matrices, one for each published kind: made from the published rules, apart from the readers.

Each takes numbers [out, in] and returns the tensors that a checkpoint stores and the numbers that they mean, computed
in the order of roundings that the kind's own program has. Bits are packed as whole Python integers, tables spelt out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from random_checkpoints import Floats, Stored, stored

Bytes = NDArray[np.uint8]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
E2M3 = np.array(
    [
        sign * (m / 8 if e == 0 else (1 + m / 8) * 2 ** (e - 1))
        for sign in (1, -1)
        for e in range(4)
        for m in range(8)
    ],
    np.float32,
)
E4M3 = np.array(
    [
        sign * (m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7))
        for sign in (1, -1)
        for e in range(16)
        for m in range(8)
    ],
    np.float32,
)
E4M3[[127, 255]] = np.nan
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
FP4 = np.array([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4], np.float32)
FP4 = np.concatenate([FP4, -FP4])


@dataclass
class Written:
    """One matrix: its tensors, by what follows the module's name, and the numbers [out, in] meant."""

    tensors: dict[str, Stored]
    meant: Floats
    config: dict[str, Any] = field(default_factory=dict)  # for the checkpoint's config.json
    bound: float = 0.0  # how far a reader may be off, in parts of the largest of each run of 64 inputs


def nearest(table: Floats, values: NDArray[Any]) -> Bytes:
    """The code of the nearest number of a table."""
    order = np.argsort(np.nan_to_num(table, nan=np.inf), kind="stable")
    sorted_numbers = table[order][np.isfinite(table[order])]
    middles = (sorted_numbers[1:].astype(np.float64) + sorted_numbers[:-1]) / 2
    return order[np.searchsorted(middles, values)].astype(np.uint8)


def pack_stream(codes: NDArray[Any], bits: int, word: str = "<i4") -> NDArray[Any]:
    """Codes [rows, n] as a dense stream of words along the columns: each row is one long integer."""
    size = np.dtype(word).itemsize
    length = -(-codes.shape[1] * bits // (8 * size)) * size
    rows = []
    for row in codes:
        whole = sum(int(code) << (bits * i) for i, code in enumerate(row))
        rows.append(np.frombuffer(whole.to_bytes(length, "little"), dtype=word))
    return np.stack(rows) if rows else np.zeros((0, length // size), word)


def groups_of(values: Floats, size: int) -> Floats:
    """[out, groups, size], the last padded with zeros."""
    out, into = values.shape
    groups = -(-into // size)
    padded = np.zeros((out, groups * size), np.float32)
    padded[:, :into] = values
    return padded.reshape(out, groups, size)


def spread(scales: NDArray[Any], size: int, into: int) -> NDArray[Any]:
    return np.repeat(scales, size, axis=1)[:, :into]


def rounded(values: Floats, dtype: str) -> Floats:
    """Values that a type holds."""
    if dtype == "BF16":
        return ((values.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype]).astype(np.float32)


def affine(values: Floats, size: int, bits: int, dtype: str, symmetric: bool) -> tuple[Bytes, Floats, Bytes]:
    """(codes [out, in], scales and zero points [out, groups])."""
    groups = groups_of(values, size)
    top = (1 << bits) - 1
    middle = 1 << (bits - 1)
    if symmetric:
        scales = rounded(np.abs(groups).max(2) / max(middle - 1, 1), dtype)
        zeros = np.full(scales.shape, middle)
    else:
        low, high = np.minimum(groups.min(2), 0), np.maximum(groups.max(2), 0)
        scales = rounded((high - low) / top, dtype)
        zeros = np.clip(np.rint(-low / scales), 0, top)
    wide_scales, wide_zeros = (spread(part, size, values.shape[1]) for part in (scales, zeros))
    codes = np.clip(np.rint(values / wide_scales + wide_zeros), 0, top)
    return codes.astype(np.uint8), scales, zeros.astype(np.uint8)


def meant_by(codes: Bytes, zeros: NDArray[Any], scales: Floats) -> Floats:
    """(code - zero) * scale, one rounding."""
    return (codes.astype(np.float32) - zeros.astype(np.float32)) * scales.astype(np.float32)


# --- compressed-tensors, ModelOpt, FBGEMM


def packed(
    values: Floats, bits: int = 4, size: int = 32, symmetric: bool = True, dtype: str = "BF16"
) -> Written:
    codes, scales, zeros = affine(values, size, bits, dtype, symmetric)
    tensors = {
        "weight_packed": ("I32", pack_stream(codes, bits)),
        "weight_scale": stored(scales, dtype),
        "weight_shape": ("I64", np.array(values.shape, np.int64)),
    }
    if not symmetric:
        tensors["weight_zero_point"] = ("I32", np.ascontiguousarray(pack_stream(zeros.T, bits).T))
    into = values.shape[1]
    weights = {
        "num_bits": bits,
        "type": "int",
        "strategy": "group",
        "group_size": size,
        "symmetric": symmetric,
    }
    config = compressed("pack-quantized", weights)
    return Written(tensors, meant_by(codes, spread(zeros, size, into), spread(scales, size, into)), config)


def compressed(form: str, weights: dict[str, Any]) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights}
    quantization = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}
    return {"quantization_config": quantization}


def fp8(values: Floats, grid: str = "channel", dtype: str = "F32", name: str = "weight_scale") -> Written:
    """grid: tensor, channel, block (128 x 128) or group (of 32)."""
    out, into = values.shape
    rows, columns = {"tensor": (out, into), "channel": (1, into), "block": (128, 128), "group": (1, 32)}[grid]
    high, wide = -(-out // rows), -(-into // columns)
    scales = np.zeros((high, wide), np.float32)
    for i in range(high):
        for k in range(wide):
            block = values[i * rows : (i + 1) * rows, k * columns : (k + 1) * columns]
            scales[i, k] = np.abs(block).max() / 448
    scales = rounded(scales, dtype)
    of_each = np.repeat(np.repeat(scales, rows, axis=0)[:out], columns, axis=1)[:, :into]
    codes = nearest(E4M3, values / of_each)
    shaped = scales.reshape(1) if grid == "tensor" else scales
    tensors = {"weight": ("F8_E4M3", codes), name: stored(shaped, dtype)}
    weights = {"num_bits": 8, "type": "float", "strategy": grid}
    return Written(tensors, E4M3[codes] * of_each, compressed("float-quantized", weights))


def mxfp8(values: Floats) -> Written:
    powers = power_of(np.abs(groups_of(values, 32)).max(2) / 448)
    of_each = spread(np.ldexp(np.float32(1), powers - 127), 32, values.shape[1])
    codes = nearest(E4M3, np.clip(values / of_each, -448, 448))
    tensors = {"weight": ("F8_E4M3", codes), "weight_scale": ("U8", powers.astype(np.uint8))}
    weights = {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32}
    return Written(tensors, E4M3[codes] * of_each, compressed("mxfp8-quantized", weights))


def power_of(scales: Floats) -> NDArray[np.int32]:
    """The e8m0 code of the power of two at or above."""
    return (np.ceil(np.log2(np.maximum(scales, 2.0**-120))) + 127).astype(np.int32)


def int8(values: Floats, symmetric: bool = True, size: int | None = None) -> Written:
    into = values.shape[1]
    size = into if size is None else size
    codes, scales, zeros = affine(values, size, 8, "F32", symmetric)
    tensors = {
        "weight": ("I8", (codes.astype(np.int16) - 128).astype(np.int8)),
        "weight_scale": stored(scales, "F32"),
    }
    if not symmetric:
        tensors["weight_zero_point"] = ("I8", (zeros.astype(np.int16) - 128).astype(np.int8))
    weights = {"num_bits": 8, "type": "int", "strategy": "channel"}
    config = compressed("int-quantized", weights)
    return Written(tensors, meant_by(codes, spread(zeros, size, into), spread(scales, size, into)), config)


def nvfp4(values: Floats, by: str = "compressed-tensors") -> Written:
    """The whole's scale divides in compressed-tensors and multiplies in ModelOpt; two roundings in either."""
    largest = np.abs(values).max()
    whole = np.float32(448 * 6 / largest) if by == "compressed-tensors" else np.float32(largest / (448 * 6))
    blocks = np.abs(groups_of(values, 16)).max(2) / 6
    fp8_scales = nearest(E4M3, blocks * whole if by == "compressed-tensors" else blocks / whole)
    local = E4M3[fp8_scales] / whole if by == "compressed-tensors" else E4M3[fp8_scales] * whole
    of_each = spread(local.astype(np.float32), 16, values.shape[1])
    codes = nearest(E2M1, np.divide(values, of_each, out=np.zeros_like(values), where=of_each != 0))
    halves = pack_stream(codes, 4, "<u1")
    scales = ("F8_E4M3", fp8_scales)
    meant = E2M1[codes] * of_each
    if by == "compressed-tensors":
        weights = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
        tensors = {
            "weight_packed": ("U8", halves),
            "weight_scale": scales,
            "weight_global_scale": stored(whole.reshape(1), "F32"),
            "input_global_scale": stored(np.ones(1, np.float32), "F32"),
        }
        return Written(tensors, meant, compressed("nvfp4-pack-quantized", weights), bound=5 * 2.0**-24)
    tensors = {
        "weight": ("U8", halves),
        "weight_scale": scales,
        "weight_scale_2": stored(whole.reshape(()), "F32"),
        "input_scale": stored(np.float32(1).reshape(()), "F32"),
    }
    return Written(
        tensors, meant, {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
    )


def mxfp(values: Floats, bits: int = 4) -> Written:
    """MXFP4, and MXFP6 of four codes in three bytes."""
    table = E2M1 if bits == 4 else E2M3
    powers = power_of(np.abs(groups_of(values, 32)).max(2) / table.max())
    of_each = spread(np.ldexp(np.float32(1), powers - 127), 32, values.shape[1])
    codes = nearest(table, values / of_each)
    tensors = {
        "weight_packed": ("U8", pack_stream(codes, bits, "<u1")),
        "weight_scale": ("U8", powers.astype(np.uint8)),
    }
    weights = {"num_bits": bits, "type": "float", "strategy": "group", "group_size": 32}
    return Written(tensors, table[codes] * of_each, compressed(f"mxfp{bits}-pack-quantized", weights))


# --- GPTQ, AWQ


def gptq(
    values: Floats,
    bits: int = 4,
    size: int = 32,
    symmetric: bool = True,
    form: str = "gptq",
    order: Any = None,
) -> Written:
    """form: gptq (zero points minus one), gptq_v2 or gptq_p (planes); order: inputs as they were quantised."""
    into = values.shape[1]
    order = np.arange(into) if order is None else np.asarray(order)
    group_of = np.empty(into, np.int32)
    group_of[order] = np.arange(into) // size
    codes, scales, zeros = affine(np.ascontiguousarray(values[:, order]), size, bits, "F16", symmetric)
    in_place = np.empty_like(codes)
    in_place[:, order] = codes
    kept = (zeros.astype(np.int16) - (form == "gptq")) % (1 << bits)
    pack = planes if form == "gptq_p" else pack_stream
    tensors = {
        "qweight": ("I32", np.ascontiguousarray(pack(in_place, bits).T)),
        "qzeros": ("I32", pack(kept.T, bits)),
        "scales": stored(np.ascontiguousarray(scales.T), "F16"),
        "g_idx": ("I32", group_of),
    }
    quantization = {"bits": bits, "group_size": size, "sym": symmetric, "checkpoint_format": form}
    config = {"quantization_config": {"quant_method": "gptq", **quantization}}
    return Written(tensors, meant_by(in_place, zeros[:, group_of], scales[:, group_of]), config)


def planes(codes: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """GPTQModel's planar words: each 32 codes as planes of 4, 2 and 1 bits of theirs, low bits first."""
    widths: Sequence[int] = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}[bits]
    blocks = []
    for first in range(0, codes.shape[1], 32):
        at = 0
        for width in widths:
            part = (codes[:, first : first + 32].astype(np.int64) >> at) & ((1 << width) - 1)
            blocks.append(pack_stream(part, width))
            at += width
    return np.concatenate(blocks, axis=1)


def awq(values: Floats, size: int = 32) -> Written:
    codes, scales, zeros = affine(values, size, 4, "F16", symmetric=False)
    tensors = {
        "qweight": ("I32", interleaved(codes.T)),
        "qzeros": ("I32", interleaved(zeros.T)),
        "scales": stored(np.ascontiguousarray(scales.T), "F16"),
    }
    quantization = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": size,
        "zero_point": True,
        "version": "gemm",
    }
    into = values.shape[1]
    meant = meant_by(codes, spread(zeros, size, into), spread(scales, size, into))
    return Written(tensors, meant, {"quantization_config": quantization})


def interleaved(codes: NDArray[Any]) -> NDArray[np.int32]:
    """[n, out] -> [n, out / 8]: eight outputs to a word, in the order that AWQ's kernels like."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for column in range(words.shape[1]):
        for place in range(8):
            words[:, column] |= codes[:, 8 * column + order[place]].astype(np.uint32) << np.uint32(4 * place)
    return words.view(np.int32)


# --- bitsandbytes, MLX


def four_bit(values: NDArray[Any], kind: str = "nf4", nested: bool = False, block: int = 64) -> Written:
    """values of any shape, flattened; the last block may be short. The stored tensors keep bitsandbytes' names."""
    table = NF4 if kind == "nf4" else FP4
    flat = values.reshape(-1)
    absmax = np.abs(groups_of(flat[None], block)[0]).max(1)
    state: dict[str, Any] = {
        "quant_type": kind,
        "blocksize": block,
        "dtype": "bfloat16",
        "shape": list(values.shape),
    }
    tensors: dict[str, Stored] = {"weight.quant_map": stored(table, "F32")}
    if nested:
        offset = np.float32(absmax.mean())
        outer = np.abs(groups_of((absmax - offset)[None], 256)[0]).max(1)
        inner_map = np.linspace(-1, 1, 256).astype(np.float32)
        of_each = np.repeat(outer, 256)[: absmax.size]
        inner = nearest(inner_map, (absmax - offset) / of_each)
        absmax = inner_map[inner] * of_each + offset
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
        tensors["weight.nested_absmax"] = stored(outer, "F32")
        tensors["weight.nested_quant_map"] = stored(inner_map, "F32")
        tensors["weight.absmax"] = ("U8", inner)
    else:
        tensors["weight.absmax"] = stored(absmax, "F32")
    of_each = np.repeat(absmax, block)[: flat.size]
    codes = nearest(table, flat / of_each)
    high_first = np.zeros(-(-flat.size // 2), np.uint8)
    high_first |= codes[0::2] << 4
    high_first[: flat.size // 2] |= codes[1::2]
    tensors["weight"] = ("U8", high_first[:, None])
    text = json.dumps(state).encode()
    tensors[f"weight.quant_state.bitsandbytes__{kind}"] = ("U8", np.frombuffer(text, np.uint8))
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    return Written(tensors, (table[codes] * of_each).reshape(values.shape), config, bound=0.004)


def llm_int8(values: Floats) -> Written:
    """Means (code * SCB) * (1 / 127), each product rounded."""
    largest = np.abs(values).max(1).astype(np.float32)
    codes = np.rint(values / largest[:, None] * 127).astype(np.int8)
    meant = codes.astype(np.float32) * largest[:, None] * np.float32(7.874015718698502e-3)
    tensors = {
        "weight": ("I8", codes),
        "SCB": stored(largest, "F32"),
        "weight_format": ("U8", np.array(0, np.uint8)),
    }
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    return Written(tensors, meant, config, bound=2.0**-22)


def mlx(values: Floats, bits: int = 4, size: int = 64, dtype: str = "BF16") -> Written:
    """Affine, with codes that count from the least: value = code * scale + bias, two roundings."""
    groups = groups_of(values, size)
    scales = rounded((groups.max(2) - groups.min(2)) / ((1 << bits) - 1), dtype)
    biases = rounded(np.ascontiguousarray(groups.min(2)), dtype)
    into = values.shape[1]
    wide = spread(scales, size, into)
    codes = np.clip(np.rint((values - spread(biases, size, into)) / wide), 0, (1 << bits) - 1).astype(
        np.uint8
    )
    tensors = {
        "weight": ("U32", pack_stream(codes, bits, "<u4")),
        "scales": stored(scales, dtype),
        "biases": stored(biases, dtype),
    }
    meant = codes.astype(np.float32) * wide + spread(biases, size, into)
    return Written(tensors, meant, {"quantization": {"group_size": size, "bits": bits}})


def mlx_mode(values: Floats, mode: str = "mxfp4") -> Written:
    """The modes without biases, whose scales are bytes."""
    size = 16 if mode == "nvfp4" else 32
    table = E4M3 if mode == "mxfp8" else E2M1
    needed = np.abs(groups_of(values, size)).max(2) / np.nanmax(table)
    codes_of_scales = nearest(E4M3, needed) if mode == "nvfp4" else power_of(needed).astype(np.uint8)
    powers = np.ldexp(np.float32(1), codes_of_scales.astype(np.int32) - 127)
    scales = E4M3[codes_of_scales] if mode == "nvfp4" else powers
    of_each = spread(scales, size, values.shape[1])
    codes = nearest(table, np.divide(values, of_each, out=np.zeros_like(values), where=of_each != 0))
    bits = 8 if mode == "mxfp8" else 4
    tensors = {"weight": ("U32", pack_stream(codes, bits, "<u4")), "scales": ("U8", codes_of_scales)}
    return Written(
        tensors, table[codes] * of_each, {"quantization": {"group_size": size, "bits": bits, "mode": mode}}
    )


Writer = Callable[[Floats], Written]


def writers() -> dict[str, Writer]:
    """A writer of each kind, and of each corner of it, by name."""
    found: dict[str, Writer] = {
        "fp8-channel": lambda v: fp8(v, "channel"),
        "fp8-channel-bf16": lambda v: fp8(v, "channel", "BF16"),
        "fp8-tensor": lambda v: fp8(v, "tensor"),
        "fp8-block": lambda v: fp8(v, "block"),
        "fp8-group": lambda v: fp8(v, "group", "BF16"),
        "fp8-block-inv": lambda v: fp8(v, "block", name="weight_scale_inv"),
        "mxfp8": mxfp8,
        "int8-channel": int8,
        "int8-asymmetric": lambda v: int8(v, symmetric=False),
        "int8-group": lambda v: int8(v, symmetric=False, size=64),
        "nvfp4": nvfp4,
        "nvfp4-modelopt": lambda v: nvfp4(v, "modelopt"),
        "mxfp4": mxfp,
        "mxfp6": lambda v: mxfp(v, 6),
        "gptq-desc-act": lambda v: gptq(v, order=np.random.default_rng(3).permutation(v.shape[1])),
        "awq": awq,
        "nf4": four_bit,
        "nf4-nested": lambda v: four_bit(v, nested=True),
        "fp4": lambda v: four_bit(v, "fp4"),
        "llm-int8": llm_int8,
        **{f"mlx-{mode}": lambda v, mode=mode: mlx_mode(v, mode) for mode in ("nvfp4", "mxfp4", "mxfp8")},
    }
    for bits in range(1, 9):
        found[f"packed-{bits}"] = lambda v, bits=bits: packed(v, bits)
        found[f"packed-{bits}-asymmetric"] = lambda v, bits=bits: packed(v, bits, 64, False, "F16")
    for form, widths in (("gptq", (2, 3, 4, 8)), ("gptq_v2", (2, 3, 4, 8)), ("gptq_p", range(2, 9))):
        for bits in widths:
            found[f"{form}-{bits}"] = lambda v, bits=bits, form=form: gptq(v, bits, 32, True, form)
            found[f"{form}-{bits}-asymmetric"] = lambda v, bits=bits, form=form: gptq(
                v, bits, 64, False, form
            )
    for bits in (2, 3, 4, 5, 6, 8):
        found[f"mlx-{bits}"] = lambda v, bits=bits: mlx(v, bits)
        found[f"mlx-{bits}-f16"] = lambda v, bits=bits: mlx(v, bits, 32, "F16")
    return found


WRITERS = writers()

__all__ = ["E2M1", "E2M3", "E4M3", "FP4", "NF4", "WRITERS", "Writer", "Written", "awq", "four_bit", "fp8", "gptq",
           "groups_of", "int8", "llm_int8", "mlx", "mlx_mode", "mxfp", "nearest", "nvfp4", "pack_stream", "packed",
           "rounded"]  # fmt: skip
