"""How large an error rounding explains, as a variance for every element of a step's result.

In front of a matrix activations are rounded (docs/numerics.md), and behind it sums in fp32; in attention the cache
rounds keys and values. Errors of single numbers are taken as independent, so variances add. What the rounding of
weights does is no matter of expectation: the file's weights are there to be multiplied with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.convert.config import ModelConfig
from llama4rt.quality.diff.reference import softmax_weights

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

FP32 = 2.0**-24
BF16 = 2.0**-8 / 3**0.5  # of a number just above a power of two; of others it is less
_FP8 = 2.0**-4 / 3**0.5
_FP8_SMALLEST = 2.0**-9  # steps below 2^-6
_FORMATS = {form.name: form for form in _core.weight_formats()}
_FLOATS = ("fp8",)  # scaled kinds whose codes are no integers: activations stay fp32
_INT16_MOST_SUM = 262_000  # of magnitudes of integers that meet those of an int16 cache
_WHOLE = 128  # inputs that a matrix without groups is looked at together


# The largest integers of keys and values in a cache of integers; of int4 half a step more.
_LEVELS = {"int4": 8, "int8": 127, "int16": 8191}
_ROTATED = ("int4",)  # caches whose heads pass a Hadamard matrix (csrc/ops/kv_rotation.h)
_MET_BY = 32767  # of queries and softmax weights in front of them


@dataclass(frozen=True)
class MatrixRounding:
    """Of what meets one matrix of the engine file, on one device."""

    group: int
    activation_levels: float  # of a group's largest magnitude: 127, 32767; 0: not integers
    bf16_activations: bool  # on a GPU

    @staticmethod
    def of(weight: Mapping[str, Any], device: str, activations: str) -> "MatrixRounding":
        """weight: an entry of the file's own list. activations: "int8" or "int16", of a CPU."""
        form = _FORMATS[str(weight["kind"])]
        levels = 0.0
        if device == "cpu" and form.is_scaled and form.name not in _FLOATS:
            levels = 127.0 if activations == "int8" and form.bits == 4 else 32767.0
        group = int(weight.get("group_size") or 0) or _WHOLE
        return MatrixRounding(group, levels, bf16_activations=device.startswith("cuda"))

    def variance(self, x: Array, rows: Array) -> Wide:
        """[T, N] of x [T, K] times rows [N, K] transposed."""
        size = _by_group(rows, self.group, np.square, np.add)  # [N, groups] sums of squares
        count = _by_group(np.ones((1, rows.shape[1]), np.float32), self.group, np.square, np.add)
        energy = _by_group(x, self.group, np.square, np.add)  # [T, groups]
        relative = rows.shape[1] * FP32**2 + (BF16**2 if self.bf16_activations else 0)
        of_activations = relative * energy / count
        if self.activation_levels:
            step = _by_group(x, self.group, np.abs, np.maximum) / self.activation_levels
            of_activations = of_activations + step**2 / 12
        return np.asarray(of_activations @ size.T)


def attention_variance(q: Array, k: Array, v: Array, config: ModelConfig, kv_dtype: str, device: str) -> Wide:
    """[T, Hq * D] of rounded keys and values, and on a GPU of queries and softmax weights in bf16."""
    T, D = len(q), config.head_dim
    per_kv = config.num_attention_heads // config.num_key_value_heads
    weights = softmax_weights(q, k, config)  # [Hq, T, T]

    def heads(x: Array) -> Wide:
        return np.asarray(x.reshape(T, -1, D).transpose(1, 0, 2), dtype=np.float64)

    def repeated(x: Wide) -> Wide:
        return np.asarray(np.repeat(x, per_kv, axis=0))

    queries, keys, values = heads(q), repeated(heads(k)), repeated(heads(v))
    gpu = device.startswith("cuda")
    of_key, of_value = (_kv_variance(x, kv_dtype) for x in (keys, values))
    of_query = BF16**2 * queries**2 if gpu else _query_variance(queries, kv_dtype)
    # Of a score: what rounds its key, its query, and the sum of D products.
    scores = queries**2 @ of_key.transpose(0, 2, 1) + of_query @ (keys**2).transpose(0, 2, 1)
    scores = scores / D + 16 * FP32**2 * (1 + (queries**2 @ (keys**2).transpose(0, 2, 1)) / D)
    if gpu:
        scores = scores + BF16**2  # of a softmax weight, which moves like its score
    out = weights @ values
    moved = weights**2 * scores + (0 if gpu else _weight_variance(weights, kv_dtype))
    from_scores = moved @ values**2 - 2 * out * (moved @ values) + out**2 * moved.sum(axis=-1, keepdims=True)
    total = np.maximum(from_scores, 0) + weights**2 @ of_value + (16 * FP32) ** 2 * (weights @ values**2)
    return np.asarray(total.transpose(1, 0, 2).reshape(T, -1))


def _query_variance(x: Wide, kv_dtype: str) -> Wide:
    """Of every element of queries x [heads, T, D] on a CPU, where a cache of integers meets integers."""
    if kv_dtype not in _LEVELS:
        return np.zeros_like(x)
    magnitudes = np.abs(x)
    step = magnitudes.max(axis=-1, keepdims=True) / _MET_BY
    if kv_dtype == "int16":
        step = np.maximum(step, magnitudes.sum(axis=-1, keepdims=True) / _INT16_MOST_SUM)
    return np.broadcast_to(step**2 / 12, x.shape)


def _weight_variance(weights: Wide, kv_dtype: str) -> Wide | float:
    """Of softmax weights [heads, T, keys], 64 of which share a step; the scales of their values are taken as alike."""
    if kv_dtype not in _LEVELS:
        return 0.0
    starts = np.arange(0, weights.shape[-1], 64)
    step = np.maximum.reduceat(weights, starts, axis=-1) / _MET_BY
    if kv_dtype == "int16":
        step = np.maximum(step, np.add.reduceat(weights, starts, axis=-1) / _INT16_MOST_SUM)
    return np.asarray(np.repeat(step**2 / 12, 64, axis=-1)[..., : weights.shape[-1]])


def transform_variance(heads: Array, config: ModelConfig) -> Wide:
    """[T, heads * D] of rotation and norm in fp32: cos and sin are rounded, and so are frequencies, which tells at late
    positions.
    """
    T, D = len(heads), config.head_dim
    pairs = heads.reshape(T, -1, D // 2, 2).astype(np.float64)
    size = np.repeat((pairs**2).sum(axis=-1), 2, axis=-1).reshape(T, -1)
    angle = 4 + np.arange(T)[:, None]
    return np.asarray((angle * FP32) ** 2 * size + D * FP32**2 * size)


def _kv_variance(x: Wide, kv_dtype: str) -> Wide:
    """Of every stored element of x [heads, T, D]."""
    if kv_dtype == "f32":
        return np.zeros_like(x)
    if kv_dtype in _LEVELS:
        stored = _rotated(x) if kv_dtype in _ROTATED else x
        step = np.abs(stored).max(axis=-1, keepdims=True) / _LEVELS[kv_dtype]
        return np.broadcast_to(step**2 / 12, x.shape)
    if kv_dtype == "fp8":
        return np.asarray((_FP8 * x) ** 2 + _FP8_SMALLEST**2 / 12)
    return np.asarray((BF16 * x) ** 2)


def _rotated(x: Wide) -> Wide:
    """x [.., D] after the rotation: its blocks are of the largest power of two that divides D."""
    dim = x.shape[-1]
    size = dim & -dim
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    blocks = x.reshape(*x.shape[:-1], dim // size, size)
    return np.asarray((blocks @ matrix / size**0.5).reshape(x.shape))


def _by_group(x: Array, group: int, of_each: Any, together: Any) -> Wide:
    """[rows, groups]: `of_each` number, reduced over each group of columns; the last group may be short."""
    starts = np.arange(0, x.shape[1], group)
    return np.asarray(together.reduceat(of_each(x).astype(np.float64), starts, axis=1))


__all__ = ["BF16", "FP32", "MatrixRounding", "attention_variance", "transform_variance"]
