"""All launches of one step of a model, in order: csrc/model/llama4.cpp on CudaOps."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llama4rt import _core
from llama4rt.errors import ConfigError
from llama4rt.gpu_model import rows as row_ops
from llama4rt.gpu_model.chip import Chip
from llama4rt.gpu_model.launch import Launch
from llama4rt.gpu_model.linears import Matrix, few_rows, many_rows, takes_many_rows


@dataclass
class Model:
    """A model's config, its weights, and the bytes of a cached token and layer."""

    config: dict[str, Any]
    weights: dict[str, Matrix]
    kv_bytes: float

    @classmethod
    def of_config(cls, config: str, options: dict[str, Any], kv_dtype: str = "bf16") -> "Model":
        """config: canonical JSON; options: of _core.list_weights. ConfigError for weights that have no CUDA kernel."""
        decoded = json.loads(config)
        if kv_dtype != "bf16":
            raise ConfigError(f"the speed model knows caches of bf16, not of {kv_dtype!r:.20}")
        group = int(options.get("group_size", 128))
        weights = {}
        for name, kind, (experts, n, k), size in _core.list_weights(config, **options):
            if not name.startswith("vision."):
                weights[name] = Matrix(name.rsplit(".", 1)[-1], kind, group, experts, n, k, size)
        kv_bytes = 2.0 * decoded["num_key_value_heads"] * decoded["head_dim"] * 2
        return cls(decoded, weights, kv_bytes)

    def layer(self, index: int, name: str) -> Matrix | None:
        return self.weights.get(f"layers.{index}.{name}")


def decode_step(chip: Chip, model: Model, sequences: int, depth: int) -> list[Launch]:
    """One token more of each of `sequences`, behind `depth` cached ones."""

    def attention(local: bool) -> Launch:
        chunk = model.config["attention_chunk_size"] if local else 0
        keys = (depth % chunk if chunk else depth) + 1
        role = "attention, chunked layers" if local else "attention, global layers"
        return row_ops.attention_decode(role, sequences, keys, model.config, model.kv_bytes)

    return _step(chip, model, sequences, sequences, attention)


def prefill_step(chip: Chip, model: Model, tokens: int, depth: int) -> list[Launch]:
    """`tokens` tokens of one prompt behind `depth` cached ones."""

    def attention(local: bool) -> Launch:
        chunk = model.config["attention_chunk_size"] if local else 0
        seen = _mean_keys(depth, tokens, chunk)
        role = "attention, chunked layers" if local else "attention, global layers"
        return row_ops.attention_prefill(role, tokens, seen, model.config, model.kv_bytes)

    return _step(chip, model, tokens, 1, attention)


def _mean_keys(depth: int, tokens: int, chunk: int) -> float:
    """Keys that a token of [depth, depth + tokens) sees on average; chunk 0: all before it."""
    positions = range(depth, depth + tokens, max(1, tokens // 4096))
    return sum((p % chunk if chunk else p) + 1 for p in positions) / len(positions)


def _step(
    chip: Chip, model: Model, tokens: int, outputs: int, attention: Callable[[bool], Launch]
) -> list[Launch]:
    config = model.config
    hidden = config["hidden_size"]
    launches = [row_ops.elementwise("embedding", tokens, hidden * 6.0, loads=2.0)]
    layers: dict[tuple[bool, bool], list[int]] = {}
    for index, local in enumerate(config["chunked_layers"]):
        layers.setdefault((bool(local), model.layer(index, "moe.gate_up") is not None), []).append(index)
    for (local, _), indices in layers.items():
        one = _layer(chip, model, indices[0], tokens, attention(local))
        launches += [replace(launch, count=len(indices)) for launch in one]
    launches.append(row_ops.elementwise("last rows", outputs, hidden * 8.0, loads=2.0))
    launches.append(row_ops.rmsnorm("last norm", outputs, hidden))
    launches += _product(chip, replace(model.weights["lm_head"], role="lm_head"), outputs)
    launches.append(row_ops.sample(outputs, config["vocab_size"]))
    return launches


def _layer(chip: Chip, model: Model, index: int, tokens: int, attention: Launch) -> list[Launch]:
    config = model.config
    hidden = config["hidden_size"]

    def weight(name: str) -> Matrix:
        found = model.layer(index, name)
        assert found is not None, (index, name)
        return found

    launches = [row_ops.rmsnorm("attention norm", tokens, hidden)]
    launches += _product(chip, weight("attn.qkv"), tokens)
    launches.append(row_ops.prepare_qkv(tokens, config, model.kv_bytes))
    launches.append(attention)
    launches += _product(chip, weight("attn.o"), tokens)
    launches.append(row_ops.rmsnorm("feed-forward norm", tokens, hidden))
    if model.layer(index, "moe.gate_up") is None:
        return launches + [
            p for name in ("mlp.gate_up", "mlp.down") for p in _product(chip, weight(name), tokens)
        ]
    launches += row_ops.route(tokens, config)
    picks = tokens * config["num_experts_per_tok"]
    for name in ("gate_up", "down"):
        routed, shared = weight(f"moe.{name}"), weight(f"moe.shared.{name}")
        launches += _experts(chip, routed, shared, tokens, picks)
    return launches


def _product(chip: Chip, matrix: Matrix, tokens: int) -> list[Launch]:
    if takes_many_rows(matrix, tokens):
        return many_rows(chip, matrix, tokens)
    return [few_rows(chip, matrix, None, tokens, 0)]


def _experts(chip: Chip, routed: Matrix, shared: Matrix, tokens: int, picks: int) -> list[Launch]:
    """One launch for both where both take few rows and are of one kind."""
    if not takes_many_rows(shared, tokens) and (routed.kind, routed.group) == (shared.kind, shared.group):
        both = few_rows(chip, shared, routed, tokens, picks)
        return [replace(both, role=f"{routed.role} of experts")]
    first = _product(chip, replace(shared, role=f"shared {shared.role}"), tokens)
    routed = replace(routed, role=f"{routed.role} of experts")
    if takes_many_rows(routed, picks):
        return [*first, *many_rows(chip, routed, picks)]
    return [*first, few_rows(chip, None, routed, tokens, picks)]


def limit_seconds(chip: Chip, launches: list[Launch]) -> float:
    """What the data sheet's memory rate and the tensor cores' rate allow: each byte once, each product once."""
    memory = sum(launch.memory_bytes * launch.count for launch in launches if launch.flops > 0)
    flops = sum(launch.flops * launch.count for launch in launches)
    return max(memory / chip.memory_rate.value, flops / chip.peak_flops.value) if launches else math.inf
