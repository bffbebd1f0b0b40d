"""Checkpoints in Meta's own form, written by torch.save from the values of a Hugging Face one.

The rules are written out here in plain loops, apart from llama4rt.convert.formats.meta_names: which tensor each name
is, and how a matrix is cut for several files.
"""

from __future__ import annotations

import io
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from random_checkpoints import TINY, VISION, Values, random_values

# 8 heads and 8 KV heads, and widths that eight files can share. What the rules of the widths give:
# int(2 * int(1.5 * 128) / 3) / 2 = 64, and int(2 * 512 / 3) = 341, rounded up to 352.
CONFIG: dict[str, Any] = TINY | {
    "vocab_size": 368,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 16,
    "intermediate_size": 64,
    "intermediate_size_mlp": 352,
    "num_local_experts": 4,
    "num_hidden_layers": 4,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 16,
    "floor_scale": 8,
    "max_position_embeddings": 1_048_576,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
    "bos_token_id": 256,
    "eos_token_id": [257, 263, 264],
}
PARAMS: dict[str, Any] = {
    "dim": 128,
    "n_layers": 4,
    "n_heads": 8,
    "n_kv_heads": 8,
    "vocab_size": 368,
    "ffn_exp": 1.5,
    "ffn_dim_multiplier": 1.0,
    "multiple_of": 32,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
    "nope_layer_interval": 4,
    "attention_chunk_size": 16,
    "use_qk_norm": True,
    "attn_temperature_tuning": False,
    "attn_scale": 0.1,
    "floor_scale": 8.0,
    "moe_args": {
        "num_experts": 4,
        "top_k": 1,
        "capacity_factor": 1.0,
        "auto_scale_F": True,
        "interleave_moe_layer_step": 2,
    },
}
VISION_ARGS = {
    "image_size": {"height": VISION["image_size"], "width": VISION["image_size"]},
    "patch_size": {"height": VISION["patch_size"], "width": VISION["patch_size"]},
    "dim": VISION["hidden_size"],
    "n_layers": VISION["num_hidden_layers"],
    "n_heads": VISION["num_attention_heads"],
    "mlp_ratio": 4.0,
    "output_dim": VISION["vision_output_dim"],
    "pixel_shuffle_ratio": 0.5,
}

Arrays = dict[str, np.ndarray[Any, Any]]


def meta_values(seed: int = 0, vision: bool = False) -> Values:
    """By Hugging Face's names; text names without a prefix."""
    values = random_values(CONFIG, seed=seed)
    if vision:
        both = random_values(CONFIG, vision=True, seed=seed)
        values |= {name: value for name, value in both.items() if not name.startswith("language_model.")}
    return values


def native(values: Values, fused: bool) -> Arrays:
    """Meta's names of the whole model. fused: as training wrote them (wqkv, fc1); else the names of Meta's code."""
    out: Arrays = {
        "tok_embeddings.weight": values["model.embed_tokens.weight"],
        "output.weight": values["lm_head.weight"],
        "norm.weight": values["model.norm.weight"],
    }
    for layer in range(
        sum(name.startswith("model.layers.") and "input_layernorm" in name for name in values)
    ):
        hf, to = f"model.layers.{layer}.", f"layers.{layer}."
        q, k, v = (values[f"{hf}self_attn.{part}_proj.weight"] for part in "qkv")
        if fused:
            out[f"{to}attention.wqkv.weight"] = np.concatenate([q, k, v])
            out[f"{to}attention.wqkv.layer_norm_weight"] = values[f"{hf}input_layernorm.weight"]
        else:
            for part, value in (("q", q), ("k", k), ("v", v)):
                out[f"{to}attention.w{part}.weight"] = value
            out[f"{to}attention_norm.weight"] = values[f"{hf}input_layernorm.weight"]
        out[f"{to}attention.wo.weight"] = values[f"{hf}self_attn.o_proj.weight"]
        ffn = f"{hf}feed_forward."
        norm = values[f"{hf}post_attention_layernorm.weight"]
        if f"{ffn}router.weight" not in values:
            gate, up, down = (values[f"{ffn}{part}_proj.weight"] for part in ("gate", "up", "down"))
            if fused:
                out[f"{to}feed_forward.mlp.fc1_weight"] = np.concatenate([gate, up])
                out[f"{to}feed_forward.mlp.fc2_weight"] = down
                out[f"{to}feed_forward.mlp.layer_norm_weight"] = norm
            else:
                for i, value in ((1, gate), (3, up), (2, down)):
                    out[f"{to}feed_forward.w{i}.weight"] = value
                out[f"{to}ffn_norm.weight"] = norm
            continue
        out[f"{to}feed_forward.norm.weight"] = norm
        out[f"{to}feed_forward.router_DE"] = values[f"{ffn}router.weight"].T
        for part, name in (
            ("gate", "w_in_shared_FD"),
            ("up", "w_swiglu_FD"),
            ("down", "w_out_shared_DF"),
        ):
            out[f"{to}feed_forward.{name}.weight"] = values[f"{ffn}shared_expert.{part}_proj.weight"]
        both, down = values[f"{ffn}experts.gate_up_proj"], values[f"{ffn}experts.down_proj"]
        experts, width, half = len(both), both.shape[1], both.shape[2] // 2
        at = f"{to}feed_forward.experts."
        out[f"{at}moe_w_in_eD_F"] = both[:, :, :half].reshape(experts * width, half)
        out[f"{at}moe_w_swiglu_eD_F"] = both[:, :, half:].reshape(experts * width, half)
        out[f"{at}moe_w_out_eF_D"] = down.reshape(experts * half, width)
    for name, value in values.items():
        if (meta := vision_name(name)) is not None:
            out[meta] = value
    return out


def vision_name(name: str) -> str | None:
    if name == "multi_modal_projector.linear_1.weight":
        return "vision_projection.weight"
    if not name.startswith("vision_model."):
        return None
    name = name.removeprefix("vision_model.")
    if name.startswith("vision_adapter."):
        return "vision_embeddings." + name.replace("fc1", "c_fc").replace("fc2", "c_proj")
    for old, new in (
        ("patch_embedding.linear", "conv1._linear"),
        ("layernorm_", "ln_"),
        ("input_layernorm", "ln_1"),
        ("post_attention_layernorm", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    ):
        name = name.replace(old, new)
    name = re.sub(r"self_attn\.(.)_proj", r"attn.w\1", name)
    name = re.sub(r"model\.layers\.(\d+)", r"transformer.resblocks.\1", name)
    return f"vision_embeddings.vision_encoder.{name}"


# Of each name's end: the axis that the files share. Names of none are whole in each file.
SHARED_AXIS = [
    (r"(tok_embeddings|output|vision_projection)\.weight", 0),
    (r"attention\.w[qkv]\.weight|attn\.w[qkv]\.(weight|bias)", 0),
    (r"(attention|attn)\.wo\.weight", 1),
    (r"w_in_shared_FD\.weight|w_swiglu_FD\.weight|feed_forward\.w[13]\.weight", 0),
    (r"w_out_shared_DF\.weight|feed_forward\.w2\.weight|fc2_weight", 1),
    (r"moe_w_in_eD_F|moe_w_swiglu_eD_F", 1),
    (r"conv1\._linear\.weight|c_fc\.(weight|bias)", 0),
    (r"c_proj\.weight", 1),
]


def shard(whole: Arrays, rank: int, count: int) -> Arrays:
    """What file `rank` of `count` has."""
    out: Arrays = {}
    for name, value in whole.items():
        if name.endswith("wqkv.weight"):
            q = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
            kv = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
            parts = np.split(value, [q, q + kv])
            out[name] = np.concatenate([np.split(part, count)[rank] for part in parts])
        elif name.endswith("fc1_weight"):
            out[name] = np.concatenate([np.split(part, count)[rank] for part in np.split(value, 2)])
        elif name.endswith("moe_w_out_eF_D"):
            experts = CONFIG["num_local_experts"]
            stack = value.reshape(experts, -1, value.shape[1])
            part = np.split(stack, count, axis=1)[rank]
            out[name] = part.reshape(-1, value.shape[1])
        else:
            axis = next((axis for end, axis in SHARED_AXIS if re.search(f"(?:{end})$", name)), None)
            out[name] = value if axis is None else np.split(value, count, axis=axis)[rank]
    return out


def save_pth(path: Path, arrays: Arrays, extra: Mapping[str, Any] | None = None) -> None:
    """As bf16 tensors, with what else Meta's files hold."""
    import torch

    tensors: OrderedDict[str, Any] = OrderedDict(
        (name, torch.from_numpy(np.ascontiguousarray(value)).to(torch.bfloat16))
        for name, value in arrays.items()
    )
    tensors["rope.freqs"] = torch.ones(8)
    for name in [name for name in tensors if name.endswith("wo.weight")]:
        state = io.BytesIO()
        torch.save({"recipe": None}, state)  # Transformer Engine's: a torch file inside
        tensors[name.replace("weight", "_extra_state")] = state
    for name in [name for name in tensors if name.endswith("router_DE")]:
        at = name.removesuffix("router_DE")
        tensors[f"{at}running_gate_stats_3E"] = torch.zeros(3, 4)
        tensors[f"{at}global_gate_stats_3E"] = torch.zeros(3, 4, dtype=torch.float64)
        tensors[f"{at}experts.expert_activation_DE"] = torch.zeros(2, 4)
    if any(name.startswith("vision_embeddings.") for name in tensors):
        tensors["vision_embeddings.vision_encoder.conv1._linear.bias"] = torch.zeros(0)
    tensors.update(extra or {})
    torch.save(tensors, path)


def write_meta(
    directory: Path,
    values: Values,
    count: int,
    *,
    fused: bool = True,
    params: Mapping[str, Any] | None = None,
    nested: bool = False,
) -> Path:
    """A directory with `count` files (1: consolidated.pth), params.json and a tokenizer.model of single bytes."""
    vision = any(name.startswith("vision_model.") for name in values)
    all_params = {**PARAMS, **({"vision_args": VISION_ARGS} if vision else {}), **(params or {})}
    write_beside(directory, {"model": all_params} if nested else all_params)
    whole = native(values, fused)
    for rank in range(count):
        save_pth(directory / shard_name(rank, count), shard(whole, rank, count))
    return directory


def shard_name(rank: int, count: int) -> str:
    return f"consolidated.{rank:02d}.pth" if count > 1 else "consolidated.pth"


def write_beside(directory: Path, params: Mapping[str, Any]) -> None:
    """What lies beside the files of tensors."""
    from tiny_checkpoints import write_byte_tokenizer

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "params.json").write_text(json.dumps(params))
    (directory / "checklist.chk").write_text("d41d8cd98f00b204e9800998ecf8427e  consolidated.00.pth\n")
    write_byte_tokenizer(directory)


__all__ = [
    "CONFIG",
    "PARAMS",
    "VISION_ARGS",
    "meta_values",
    "native",
    "save_pth",
    "shard",
    "shard_name",
    "write_beside",
    "write_meta",
]
