"""LoRA adapters of attention for the tiny checkpoints, as PEFT writes them, and the model that each makes."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
Factors = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


def sizes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """module -> (outputs, inputs). config: an engine's."""
    hidden, head = config["hidden_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    return {"q_proj": (q, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, q)}


def bf16(values: NDArray[Any]) -> NDArray[np.float32]:
    """Cut to numbers that bf16 has: factors lose nothing on their way."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)  # type: ignore[no-any-return]


def write_adapter(
    directory: Path,
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    rank: int = 4,
    modules: Sequence[str] = MODULES,
    layers: Sequence[int] | None = None,
    **settings: Any,
) -> Factors:
    """Returns layers.N.self_attn.X_proj -> (A, B), with the scale in B."""
    from random_checkpoints import save_safetensors, stored

    rng = np.random.default_rng(seed)
    written: dict[str, Any] = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, **settings}
    scale = written["lora_alpha"] / (math.sqrt(rank) if written.get("use_rslora") else rank)
    tensors, factors = {}, {}
    for layer in range(config["num_hidden_layers"]) if layers is None else layers:
        for module in modules:
            out, into = sizes(config)[module]
            a = bf16(rng.standard_normal((rank, into)) / math.sqrt(into))
            b = bf16(rng.standard_normal((out, rank)) / (2 * math.sqrt(rank)))
            path = f"layers.{layer}.self_attn.{module}"
            tensors[f"base_model.model.model.{path}.lora_A.weight"] = stored(a, "F32")
            tensors[f"base_model.model.model.{path}.lora_B.weight"] = stored(b, "F32")
            factors[path] = (a, b * np.float32(scale))
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(json.dumps(written))
    save_safetensors(directory / "adapter_model.safetensors", tensors)
    return factors


def merged(model: Any, factors: Factors) -> Any:
    """transformers' model with these added, in fp32."""
    import torch

    model = copy.deepcopy(model)
    modules = {name.removeprefix("model."): module for name, module in model.named_modules()}
    with torch.no_grad():
        for path, (a, b) in factors.items():
            modules[path].weight += torch.from_numpy(b) @ torch.from_numpy(a)
    return model


__all__ = ["MODULES", "Factors", "bf16", "merged", "sizes", "write_adapter"]
