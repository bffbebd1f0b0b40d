"""A second oracle: the Llama 4 text decoder in plain numpy, written from the model's definition.

It computes in float64 from either a Hugging Face checkpoint or an engine file's dequantised weights, so int4 engines
have something to be equal to. Clear before fast: no cache, no batching, every expert visited in turn. `Mutation` holds
the mistakes that ports of this model make, so that tests can show that they would be seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LLAMA3_RULE = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@dataclass(frozen=True)
class Mutation:
    """Known wrong readings of the model. All off: the right one."""

    score_on_output: bool = False
    softmax_scores: bool = False
    temperature_of_p: bool = False  # floor(p / floor_scale) in place of floor((p + 1) / floor_scale)
    sliding_window: bool = False  # the last C keys in place of the keys of this chunk
    half_rotate: bool = False  # pairs (i, i + D/2) in place of (2i, 2i + 1)
    norm_all_heads: bool = False  # q and k normalised across heads
    no_rope_inverted: bool = False


@dataclass(frozen=True)
class Config:
    num_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    top_k: int
    rope: tuple[bool, ...]
    chunked: tuple[bool, ...]
    moe: tuple[bool, ...]
    chunk: int
    qk_norm: bool
    eps: float
    theta: float
    rope_scaling: Mapping[str, float] | None
    temperature: bool
    attn_scale: float
    floor_scale: float

    @staticmethod
    def from_hf(text: Mapping[str, Any]) -> Config:
        """From config.json's text part as transformers 5 writes it (every field present)."""
        layers = range(text["num_hidden_layers"])
        rope = text["rope_parameters"]
        chunk = text["attention_chunk_size"] or 0
        chunked = tuple(chunk > 0 and text["layer_types"][i] == "chunked_attention" for i in layers)
        moe = tuple(i in text["moe_layers"] for i in layers)
        return Config(
            num_layers=len(layers),
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head_dim=text["head_dim"],
            top_k=text["num_experts_per_tok"] if any(moe) else 0,
            rope=tuple(bool(text["no_rope_layers"][i]) for i in layers),
            chunked=chunked,
            moe=moe,
            chunk=chunk if any(chunked) else 0,
            qk_norm=text["use_qk_norm"],
            eps=text["rms_norm_eps"],
            theta=rope["rope_theta"],
            rope_scaling={name: rope[name] for name in LLAMA3_RULE}
            if rope["rope_type"] == "llama3"
            else None,
            temperature=text["attn_temperature_tuning"],
            attn_scale=text["attn_scale"],
            floor_scale=text["floor_scale"],
        )

    @staticmethod
    def from_engine(config: Mapping[str, Any]) -> Config:
        """From an engine file's canonical config."""
        return Config(
            num_layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            top_k=config["num_experts_per_tok"],
            rope=tuple(bool(x) for x in config["rope_layers"]),
            chunked=tuple(bool(x) for x in config["chunked_layers"]),
            moe=tuple(bool(x) for x in config["moe_layers"]),
            chunk=config["attention_chunk_size"],
            qk_norm=config["use_qk_norm"],
            eps=config["rms_norm_eps"],
            theta=config["rope_theta"],
            rope_scaling=config["rope_scaling"],
            temperature=config["attn_temperature_tuning"],
            attn_scale=config["attn_scale"],
            floor_scale=config["floor_scale"],
        )


@dataclass
class Mlp:
    gate: Array  # [F, H]
    up: Array  # [F, H]
    down: Array  # [H, F]


@dataclass
class Layer:
    attn_norm: Array  # [H]
    ffn_norm: Array  # [H]
    q: Array  # [Hq * D, H]
    k: Array  # [Hkv * D, H]
    v: Array  # [Hkv * D, H]
    o: Array  # [H, Hq * D]
    mlp: Mlp  # the dense MLP, or the shared expert
    router: Array | None = None  # [E, H]
    experts: Sequence[Mlp] = ()


@dataclass
class Weights:
    embed: Array  # [V, H]
    layers: Sequence[Layer]
    norm: Array  # [H]
    lm_head: Array  # [V, H]


def rope_frequencies(head_dim: int, theta: float, scaling: Mapping[str, Any] | None) -> Array:
    """[D/2] radians per token, with the llama3 rule when `scaling` is given."""
    base = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling is None:
        return base
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    original = scaling["original_max_position_embeddings"]
    out = np.empty_like(base)
    for i, f in enumerate(base):
        wavelength = 2 * np.pi / f
        if wavelength > original / low:
            out[i] = f / factor
        elif wavelength < original / high or high == low:  # no smooth band between equal factors
            out[i] = f
        else:
            s = (original / wavelength - low) / (high - low)
            out[i] = (1 - s) * f / factor + s * f
    return out


def temperature(positions: NDArray[np.int64], attn_scale: float, floor_scale: float) -> Array:
    """What q of a layer without rope is multiplied by, at 0-based positions."""
    return 1 + attn_scale * np.log1p(np.floor((positions + 1) / floor_scale))


def rms_normalize(x: Array, eps: float) -> Array:
    return np.asarray(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def swiglu(x: Array, w: Mlp) -> Array:
    gate = x @ w.gate.T
    return (gate * sigmoid(gate) * (x @ w.up.T)) @ w.down.T


@dataclass
class NumpyLlama4:
    config: Config
    weights: Weights
    mutation: Mutation = Mutation()

    def __post_init__(self) -> None:
        # Smallest distance seen between the last chosen expert's logit and the first one left out.
        self.router_gap = np.inf

    def logits(self, ids: Sequence[int]) -> Array:
        """float64 [T, V] of one sequence from position 0."""
        c, w = self.config, self.weights
        self.router_gap = np.inf
        positions = np.arange(len(ids))
        x = w.embed[np.asarray(ids)]
        for index, layer in enumerate(w.layers):
            x = x + self._attention(index, layer, rms_normalize(x, c.eps) * layer.attn_norm, positions)
            h = rms_normalize(x, c.eps) * layer.ffn_norm
            y = swiglu(h, layer.mlp)
            if layer.router is not None:
                y = y + self._routed(layer, h)
            x = x + y
        return (rms_normalize(x, c.eps) * w.norm) @ w.lm_head.T

    def _rotate(self, x: Array, positions: NDArray[np.int64]) -> Array:
        """x: [T, heads, D]."""
        c = self.config
        angle = positions[:, None, None] * rope_frequencies(c.head_dim, c.theta, c.rope_scaling)
        cos, sin = np.cos(angle), np.sin(angle)
        out = np.empty_like(x)
        if self.mutation.half_rotate:
            first, second = slice(None, c.head_dim // 2), slice(c.head_dim // 2, None)
        else:
            first, second = slice(0, None, 2), slice(1, None, 2)
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., first] * sin + x[..., second] * cos
        return out

    def _attention(self, index: int, layer: Layer, h: Array, p: NDArray[np.int64]) -> Array:
        c = self.config
        q = (h @ layer.q.T).reshape(len(p), c.heads, c.head_dim)
        k = (h @ layer.k.T).reshape(len(p), c.kv_heads, c.head_dim)
        v = (h @ layer.v.T).reshape(len(p), c.kv_heads, c.head_dim)
        if c.rope[index] != self.mutation.no_rope_inverted:
            q, k = self._rotate(q, p), self._rotate(k, p)
            if c.qk_norm and self.mutation.norm_all_heads:
                q = rms_normalize(q.reshape(len(p), -1), c.eps).reshape(q.shape)
                k = rms_normalize(k.reshape(len(p), -1), c.eps).reshape(k.shape)
            elif c.qk_norm:
                q, k = rms_normalize(q, c.eps), rms_normalize(k, c.eps)
        elif c.temperature:
            shifted = p - 1 if self.mutation.temperature_of_p else p
            q = q * temperature(shifted, c.attn_scale, c.floor_scale)[:, None, None]
        out = np.empty_like(q)
        # Some queries at a time: the scores of 8,000 tokens are half a gigabyte.
        for start in range(0, len(p), 512):
            rows = slice(start, start + 512)
            allowed = p[None, :] <= p[rows, None]
            if c.chunked[index]:
                if self.mutation.sliding_window:
                    allowed &= p[None, :] > p[rows, None] - c.chunk
                else:
                    allowed &= p[None, :] // c.chunk == p[rows, None] // c.chunk
            for head in range(c.heads):
                kv = head // (c.heads // c.kv_heads)
                scores = np.where(allowed, q[rows, head] @ k[:, kv].T / np.sqrt(c.head_dim), -np.inf)
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                out[rows, head] = scores / scores.sum(axis=1, keepdims=True) @ v[:, kv]
        return out.reshape(len(p), -1) @ layer.o.T

    def _routed(self, layer: Layer, h: Array) -> Array:
        c = self.config
        assert layer.router is not None
        g = h @ layer.router.T
        order = np.argsort(-g, axis=1, kind="stable")  # ties: the lowest expert first
        if c.top_k < g.shape[1]:
            ranked = np.take_along_axis(g, order, axis=1)
            self.router_gap = min(self.router_gap, float((ranked[:, c.top_k - 1] - ranked[:, c.top_k]).min()))
        scores = sigmoid(g)
        if self.mutation.softmax_scores:
            scores = np.exp(g - g.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        y = np.zeros_like(h)
        for e, expert in enumerate(layer.experts):
            rows = np.flatnonzero((order[:, : c.top_k] == e).any(axis=1))
            s = scores[rows, e : e + 1]
            if self.mutation.score_on_output:
                y[rows] += s * swiglu(h[rows], expert)
            else:
                y[rows] += swiglu(s * h[rows], expert)
        return y


def from_checkpoint(directory: str | Path, mutation: Mutation = Mutation()) -> NumpyLlama4:
    """Reads a checkpoint that transformers saved (fused experts, any float dtype, sharded or not)."""
    from safetensors.torch import load_file

    directory = Path(directory)
    config = json.loads((directory / "config.json").read_text())
    tensors = {
        name.removeprefix("language_model."): tensor.double().numpy()
        for shard in sorted(directory.glob("*.safetensors"))
        for name, tensor in load_file(shard).items()
    }

    def mlp(prefix: str) -> Mlp:
        return Mlp(*(tensors[f"{prefix}.{part}_proj.weight"] for part in ("gate", "up", "down")))

    c = Config.from_hf(config.get("text_config", config))
    layers = []
    for index in range(c.num_layers):
        at = f"model.layers.{index}"
        layer = Layer(
            attn_norm=tensors[f"{at}.input_layernorm.weight"],
            ffn_norm=tensors[f"{at}.post_attention_layernorm.weight"],
            q=tensors[f"{at}.self_attn.q_proj.weight"],
            k=tensors[f"{at}.self_attn.k_proj.weight"],
            v=tensors[f"{at}.self_attn.v_proj.weight"],
            o=tensors[f"{at}.self_attn.o_proj.weight"],
            mlp=mlp(f"{at}.feed_forward.shared_expert" if c.moe[index] else f"{at}.feed_forward"),
        )
        if c.moe[index]:
            layer.router = tensors[f"{at}.feed_forward.router.weight"]
            gate_up = tensors[f"{at}.feed_forward.experts.gate_up_proj"]  # [E, H, 2F]
            down = tensors[f"{at}.feed_forward.experts.down_proj"]  # [E, F, H]
            width = down.shape[1]
            layer.experts = [
                Mlp(g[:, :width].T, g[:, width:].T, d.T) for g, d in zip(gate_up, down, strict=True)
            ]
        layers.append(layer)
    embed = tensors["model.embed_tokens.weight"]
    weights = Weights(embed, layers, tensors["model.norm.weight"], tensors.get("lm_head.weight", embed))
    return NumpyLlama4(c, weights, mutation)


def from_engine_file(path: str | Path, mutation: Mutation = Mutation()) -> NumpyLlama4:
    """Takes an engine file's values as EngineFile.dequantize() gives them."""
    from llama4rt._core import EngineFile

    file = EngineFile(str(path))
    config = json.loads(file.metadata["config"])
    c = Config.from_engine(config)
    q_dim, kv_dim = c.heads * c.head_dim, c.kv_heads * c.head_dim

    def matrix(name: str, expert: int = 0) -> Array:
        return file.dequantize(name, expert).astype(np.float64)

    def vector(name: str) -> Array:
        return np.asarray(file.raw(name)).view(np.float32).astype(np.float64)

    def mlp(gate_up: str, down: str, expert: int = 0) -> Mlp:
        """Gate and up rows lie interleaved in blocks of 16; each half's last block may be padded with zero rows."""
        both = matrix(gate_up, expert)
        blocks = both.reshape(-1, 2, 16, both.shape[1])
        down_matrix = matrix(down, expert)
        width = down_matrix.shape[1]
        halves = [blocks[:, half].reshape(-1, both.shape[1]) for half in (0, 1)]
        assert all(not half[width:].any() for half in halves), f"{gate_up}: padding rows are not zero"
        return Mlp(halves[0][:width], halves[1][:width], down_matrix)

    layers = []
    for index in range(c.num_layers):
        at = f"layers.{index}"
        qkv = matrix(f"{at}.attn.qkv")
        layer = Layer(
            attn_norm=vector(f"{at}.attn_norm"),
            ffn_norm=vector(f"{at}.ffn_norm"),
            q=qkv[:q_dim],
            k=qkv[q_dim : q_dim + kv_dim],
            v=qkv[q_dim + kv_dim :],
            o=matrix(f"{at}.attn.o"),
            mlp=mlp(f"{at}.moe.shared.gate_up", f"{at}.moe.shared.down")
            if c.moe[index]
            else mlp(f"{at}.mlp.gate_up", f"{at}.mlp.down"),
        )
        if c.moe[index]:
            layer.router = matrix(f"{at}.moe.router")
            count = config["num_local_experts"]
            layer.experts = [mlp(f"{at}.moe.gate_up", f"{at}.moe.down", e) for e in range(count)]
        layers.append(layer)
    embed = np.asarray(file.raw("embed")).view(np.uint16).astype(np.uint32) << 16
    hidden = layers[0].attn_norm.shape[0]
    weights = Weights(
        embed=embed.view(np.float32).reshape(-1, hidden).astype(np.float64),
        layers=layers,
        norm=vector("norm"),
        lm_head=matrix("lm_head"),
    )
    return NumpyLlama4(c, weights, mutation)
