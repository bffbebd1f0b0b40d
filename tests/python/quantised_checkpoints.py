"""Whole tiny checkpoints in every published quantisation, and beside each an ordinary one of the numbers it means."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from quantised_stacks import FUSED, SPLIT
from quantised_writers import WRITERS, Written
from random_checkpoints import Floats, Stored, save_safetensors, stored

_LINEAR = re.compile(r"(.*\.(?:[qkvo]|gate|up|down)_proj)\.weight")
_FUSED = re.compile(r"(.*\.experts\.(?:gate_up|down)_proj)")


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint of some kind is made. Names in it are those of quantised_writers and quantised_stacks."""

    linear: str | None  # of attention, dense MLPs and shared experts; None: bf16
    experts: str = "alone"  # "alone": each by itself, as linears; "fused:NAME"; "split:NAME"
    alone: str | None = None  # the writer of experts that are alone; None: that of linears
    also: tuple[str, ...] = ()  # other matrices in the linears' kind: embed_tokens, lm_head, router
    prefix: str = ""
    exact: bool = True  # whether codes go in; otherwise numbers, stored as the build is told
    extra: dict[str, Stored] = field(default_factory=dict)  # by the end of the name, beside each k_proj
    notes: tuple[str, ...] = ()  # words of what a build says of it


KV = {
    "k_scale": stored(np.asarray(0.5, np.float32), "F32"),
    "v_scale": stored(np.asarray(0.5, np.float32), "F32"),
}
ALL = ("embed_tokens", "lm_head", "router")

_ACTIVATIONS = "scales of activations"
_CACHE = "scales of the cache"
_ROUNDED = "table of 16 fractions"

RECIPES: dict[str, Recipe] = {
    "meta-fp8": Recipe(None, alone="fp8-channel-bf16"),  # the published FP8 Maverick: routed experts only
    "fp8-dynamic": Recipe("fp8-channel"),
    "fp8-block": Recipe("fp8-block"),
    "fbgemm": Recipe("fp8-channel", "fused:fbgemm"),
    "int8": Recipe("int8-channel"),
    "packed-3": Recipe("packed-3"),
    "packed-8-asymmetric": Recipe("packed-8-asymmetric"),
    "nvfp4": Recipe("nvfp4", notes=(_ACTIVATIONS,)),
    "mxfp4": Recipe("mxfp4"),
    "modelopt-fp8": Recipe(
        "fp8-tensor", "fused:modelopt-fp8", prefix="language_model.", extra=KV, notes=(_ACTIVATIONS, _CACHE)
    ),
    "modelopt-nvfp4": Recipe(
        "nvfp4-modelopt", "fused:modelopt-nvfp4", extra=KV, notes=(_ACTIVATIONS, _CACHE)
    ),
    "gptq": Recipe("gptq-4"),
    "gptq-v2-3": Recipe("gptq_v2-3-asymmetric"),
    "gptq-desc-act": Recipe("gptq-desc-act", exact=False, notes=("not runs of inputs",)),
    "awq": Recipe("awq"),
    "nf4": Recipe("nf4-nested", prefix="language_model.", notes=(_ROUNDED,)),
    "nf4-stacked": Recipe("nf4", "split:nf4", notes=(_ROUNDED,)),
    "llm-int8": Recipe("llm-int8"),
    "mlx": Recipe("mlx-4", "split:mlx", also=ALL),
    "mlx-6": Recipe("mlx-6", "split:bf16"),  # a conversion that left the experts alone
    "mlx-mxfp8": Recipe("mlx-mxfp8", "split:mlx-mxfp8"),
}


def write_quantised(recipe: Recipe, source: Path, directory: Path) -> tuple[Path, float]:
    """source: a checkpoint that transformers saved. Writes the quantised one, and `directory`-meant in fp32; returns
    the latter and the bound of the kind's worst writer.
    """
    from safetensors.torch import load_file

    tensors: dict[str, Stored] = {}
    meant: dict[str, Floats] = {}
    config: dict[str, Any] = {}
    bounds = [0.0]

    def keep(name: str, written: Written, between: str = ".") -> Floats:
        tensors.update({f"{name}{between if end else ''}{end}": one for end, one in written.tensors.items()})
        config.update(written.config)
        bounds.append(written.bound)
        return written.meant

    def one(module: str, writer: str | None, value: Floats) -> Floats:
        if writer is not None:
            return keep(module, WRITERS[writer](np.ascontiguousarray(value)))
        tensors[f"{module}.weight"] = stored(np.ascontiguousarray(value), "F32")
        return value

    for shard in sorted(source.glob("*.safetensors")):
        for name, tensor in load_file(shard).items():
            value: Floats = tensor.float().numpy()
            if linear := _LINEAR.fullmatch(name):
                meant[name] = one(linear[1], recipe.linear, value)
            elif fused := _FUSED.fullmatch(name):
                meant[name] = _experts(recipe, fused[1], value, keep, one)
            elif any(part in name for part in recipe.also):
                meant[name] = one(name.removesuffix(".weight"), recipe.linear, value)
            else:
                tensors[name], meant[name] = stored(value, "F32"), value
            if name.endswith("k_proj.weight"):
                attention = name.removesuffix("k_proj.weight")
                tensors |= {f"{attention}{end[0]}_proj.{end}": extra for end, extra in recipe.extra.items()}
    return _write(recipe, source, directory, tensors, meant, config), max(bounds)


Keep = Callable[..., Floats]


def _experts(recipe: Recipe, name: str, value: Floats, keep: Keep, one: Keep) -> Floats:
    """One stack [E, in, out], in the recipe's form; what it means."""
    how, _, kind = recipe.experts.partition(":")
    if how == "fused":
        return keep(name, FUSED[kind](value, 2 if "gate_up" in name else 1), "")
    module = name.rpartition(".")[0]
    halves = np.split(value, 2, axis=2) if "gate_up" in name else [value]
    parts = ("gate_proj", "up_proj") if "gate_up" in name else ("down_proj",)
    found = []
    for part, half in zip(parts, halves, strict=True):
        matrices = np.ascontiguousarray(half.transpose(0, 2, 1))
        if how == "split":
            means = keep(f"{module}.{part}", SPLIT[kind](matrices))
        else:
            writer = recipe.alone or recipe.linear
            means = np.stack([one(f"{module}.{e}.{part}", writer, m) for e, m in enumerate(matrices)])
        found.append(means.transpose(0, 2, 1))
    return np.ascontiguousarray(np.concatenate(found, axis=2))


def _write(
    recipe: Recipe,
    source: Path,
    directory: Path,
    tensors: dict[str, Stored],
    meant: dict[str, Floats],
    quantised: dict[str, Any],
) -> Path:
    config = json.loads((source / "config.json").read_text())
    beside = directory.with_name(f"{directory.name}-meant")
    plain = {name: stored(value, "F32") for name, value in meant.items()}
    prefixed = {f"{recipe.prefix}{name}": one for name, one in tensors.items()}
    for where, written, own in ((directory, prefixed, quantised), (beside, plain, {})):
        where.mkdir(parents=True)
        save_safetensors(where / "model.safetensors", written)
        shutil.copy(source / "generation_config.json", where)
        (where / "config.json").write_text(json.dumps(config | {"dtype": "float32"} | own))
    return beside


__all__ = ["RECIPES", "Recipe", "write_quantised"]
