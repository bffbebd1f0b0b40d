"""The steps of a Llama 4 text decoder in fp32 and numpy: each as the published model defines it, on whole arrays.

Clear before fast: one sequence from position 0. Letters: T tokens, H hidden, Hq and Hkv heads, D head dim.
"""

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.config import ModelConfig

Array = NDArray[np.float32]
Wide = NDArray[np.float64]


def rmsnorm(x: Array, gain: Array, eps: float) -> Array:
    """x, result: [T, H]; gain: [H]. Mean and root in double: the one sum that all of a row depends on."""
    mean = np.mean(x.astype(np.float64) ** 2, axis=1, keepdims=True)
    return np.asarray(x / np.sqrt(mean + eps) * gain, dtype=np.float32)


def rope_angles(config: ModelConfig, positions: int) -> Wide:
    """[T, D/2] radians. Llama 3's rule keeps short wavelengths, divides the frequency of long ones by `factor`, and
    blends between.
    """
    frequency = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    if (s := config.rope_scaling) is not None:
        wavelength = 2 * np.pi / frequency
        divided = frequency / s.factor
        low = s.original_max_position_embeddings / s.low_freq_factor
        high = s.original_max_position_embeddings / s.high_freq_factor
        if s.low_freq_factor == s.high_freq_factor:
            scaled = np.where(wavelength > low, divided, frequency)
        else:
            kept = (s.original_max_position_embeddings / wavelength - s.low_freq_factor) / (
                s.high_freq_factor - s.low_freq_factor
            )
            blended = (1 - kept) * divided + kept * frequency
            scaled = np.where(wavelength > low, divided, np.where(wavelength < high, frequency, blended))
        frequency = scaled
    return np.arange(positions)[:, None] * frequency


def transform_heads(x: Array, config: ModelConfig, layer: int, query: bool) -> Array:
    """q or k [T, heads * D] as attention takes them: rotated in adjacent pairs and brought to unit RMS where the layer
    uses RoPE; else queries are scaled by a temperature that grows with the position.
    """
    T, D = len(x), config.head_dim
    heads = x.reshape(T, -1, D).astype(np.float64)
    if config.rope_layers[layer]:
        angles = rope_angles(config, T)[:, None, :]
        even, odd = heads[..., 0::2], heads[..., 1::2]
        turned = np.empty_like(heads)
        turned[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
        turned[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
        heads = turned
        if config.use_qk_norm:
            heads = heads / np.sqrt(np.mean(heads**2, axis=-1, keepdims=True) + config.rms_norm_eps)
    elif query and config.attn_temperature_tuning:
        positions = np.arange(T) + 1
        temperature = 1 + config.attn_scale * np.log1p(np.floor(positions / config.floor_scale))
        heads = heads * temperature[:, None, None]
    return heads.reshape(T, -1).astype(np.float32)


def softmax_weights(q: Array, k: Array, config: ModelConfig) -> Wide:
    """[Hq, T, T]: how much the query of row t takes of the key of column j <= t."""
    T, D, per_kv = len(q), config.head_dim, config.num_attention_heads // config.num_key_value_heads
    queries = q.reshape(T, -1, D).transpose(1, 0, 2).astype(np.float64)
    keys = k.reshape(T, -1, D).transpose(1, 2, 0).astype(np.float64)
    scores = queries @ np.repeat(keys, per_kv, axis=0) / np.sqrt(D)
    scores[:, np.triu(np.ones((T, T), dtype=bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def attention(q: Array, k: Array, v: Array, config: ModelConfig) -> Array:
    """[T, Hq * D] of transformed q and k."""
    T, per_kv = len(q), config.num_attention_heads // config.num_key_value_heads
    values = v.reshape(T, -1, config.head_dim).transpose(1, 0, 2).astype(np.float64)
    out = softmax_weights(q, k, config) @ np.repeat(values, per_kv, axis=0)
    return np.asarray(out.transpose(1, 0, 2).reshape(T, -1), dtype=np.float32)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def swiglu(gate: Array, up: Array) -> Array:
    with np.errstate(over="ignore"):  # e^-gate of a very negative gate: the result is 0
        return np.asarray(gate * sigmoid(gate) * up, dtype=np.float32)


def swiglu_slopes(gate: Array, up: Array) -> tuple[Array, Array]:
    """Derivatives of swiglu by gate and by up."""
    with np.errstate(over="ignore"):
        s = sigmoid(gate)
    return np.asarray(up * s * (1 + gate * (1 - s))), np.asarray(gate * s)


def route(logits: Array, count: int) -> tuple[NDArray[np.int64], Array]:
    """(experts [T, count], best first, ties to the lowest; their scores, sigmoids of the logits)."""
    order = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    return order, np.asarray(sigmoid(np.take_along_axis(logits, order, 1)), dtype=np.float32)


__all__ = [
    "attention",
    "rmsnorm",
    "rope_angles",
    "route",
    "sigmoid",
    "softmax_weights",
    "swiglu",
    "swiglu_slopes",
    "transform_heads",
]
