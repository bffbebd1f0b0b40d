"""LoRA adapters of random numbers, as PEFT writes them, and what each rule says the merged model is.

All numbers are small multiples of powers of two, so that every sum and product is exact in fp32 and merged weights are
exact in bf16: what a test compares, it compares to the bit. The rules are written out here in plain loops over whole
matrices in double precision, apart from llama4rt.convert.lora.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from random_checkpoints import SMALL, Values, random_values, save_safetensors

ROOT = "base_model.model."
CONFIG: dict[str, Any] = SMALL | {
    "num_hidden_layers": 2,
    "interleave_moe_layer_step": 2,
}  # one dense layer, one MoE
Doubles = NDArray[np.float64]


def grid(rng: np.random.Generator, shape: tuple[int, ...], step: float, most: int) -> NDArray[np.float32]:
    return (rng.integers(-most, most + 1, shape) * step).astype(np.float32)


def base_values(seed: int = 0, vision: bool = False, config: Mapping[str, Any] = CONFIG) -> Values:
    """Multiples of 1/16 up to 1/2: products of factors of 1/8 and 1/2 keep merged weights within the 8 bits of bf16."""
    rng = np.random.default_rng(seed)
    return {
        name: grid(rng, value.shape, 1 / 16, 8)
        for name, value in random_values(config, vision=vision).items()
    }


class Adapter:
    """Tensors and settings in the making."""

    def __init__(self, seed: int = 1, **config: Any) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors: dict[str, NDArray[np.float32]] = {}
        self.config: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}

    def factor(self, *shape: int) -> NDArray[np.float32]:
        return grid(self.rng, shape, 1 / 8, 1)

    def linear(self, path: str, out: int, into: int, rank: int = 2) -> tuple[Doubles, Doubles]:
        """(A, B)."""
        a, b = self.factor(rank, into), self.factor(out, rank) * 4
        self.tensors[f"{ROOT}{path}.lora_A.weight"] = a
        self.tensors[f"{ROOT}{path}.lora_B.weight"] = b
        return a.astype(np.float64), b.astype(np.float64)

    def stack(self, path: str, experts: int, out: int, into: int, rank: int = 2) -> tuple[Doubles, Doubles]:
        """(A, B) of a parameter [experts, ...]."""
        return self.linear(path, out, into, rank * experts)

    def write(self, directory: Path, torch_file: bool = False, dtype: str = "F32") -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "adapter_config.json").write_text(json.dumps(self.config))
        if torch_file:
            import torch

            tensors = {name: torch.from_numpy(value) for name, value in self.tensors.items()}
            torch.save(tensors, directory / "adapter_model.bin")
        else:
            from random_checkpoints import stored

            tensors = {name: stored(value, dtype) for name, value in self.tensors.items()}
            save_safetensors(directory / "adapter_model.safetensors", tensors)
        return directory


def added(values: Values, name: str, delta: Doubles) -> None:
    """Exactly, as the grids promise."""
    total = values[name].astype(np.float64) + delta
    assert np.array_equal(total, total.astype(np.float32))
    values[name] = total.astype(np.float32)


def stack_delta(a: Doubles, b: Doubles, experts: int, scale: float, swapped: bool) -> Doubles:
    """[experts, in, out]: A is expert after expert, B has the experts of a rank side by side."""
    rank = len(a) // experts
    out = []
    for e in range(experts):
        product = sum(np.outer(b[:, r * experts + e], a[e * rank + r]) for r in range(rank)) * scale
        out.append(product if swapped else product.T)
    return np.stack(out)


__all__ = ["CONFIG", "ROOT", "Adapter", "added", "base_values", "grid", "stack_delta"]
