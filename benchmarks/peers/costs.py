"""What a decode step of llama.cpp must at least read, counted from the GGUF file as bench_cost counts ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf


@dataclass
class GgufCost:
    """Bytes of a file's model, by how often a step reads them."""

    always: int  # read by every step
    experts: int  # stacks of experts
    share: float  # of the experts, by one token
    kv_bytes: int  # of one token in one layer, f16
    chunks: list[int]  # of each layer; 0: global

    def decode_bytes(self, batch: int, context: int) -> float:
        """One step of `batch` sequences behind `context` tokens, experts chosen evenly."""
        touched = 1.0 - (1.0 - self.share) ** batch
        cached = sum(context % chunk if chunk else context for chunk in self.chunks)
        return self.always + self.experts * touched + batch * cached * self.kv_bytes


def gguf_cost(path: Path, config: dict[str, Any]) -> GgufCost:
    """config: the checkpoint's text config."""
    config = config.get("text_config", config)
    always = experts = 0
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name.endswith("_exps.weight"):
            experts += int(tensor.n_bytes)
        elif tensor.name != "token_embd.weight":  # one row per token
            always += int(tensor.n_bytes)
    interval = config["no_rope_layer_interval"]
    chunk = config["attention_chunk_size"]
    return GgufCost(
        always,
        experts,
        config["num_experts_per_tok"] / config["num_local_experts"],
        2 * 2 * config["num_key_value_heads"] * config["head_dim"],
        [0 if (layer + 1) % interval == 0 else chunk for layer in range(config["num_hidden_layers"])],
    )
