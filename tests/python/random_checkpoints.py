"""Random checkpoints with known values, and the values an engine built from one must hold.

Tensors come from benchmarks/models.py's list; every value is a bf16 value that fp16 holds too, so that any stored dtype
means the same numbers. expected_weights() is written apart from llama4rt.convert.names, with plain loops.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_spec = importlib.util.spec_from_file_location(
    "benchmark_models", Path(__file__).resolve().parents[2] / "benchmarks" / "models.py"
)
assert _spec and _spec.loader
models = importlib.util.module_from_spec(_spec)
sys.modules["benchmark_models"] = models
_spec.loader.exec_module(models)

Values = dict[str, NDArray[np.float32]]
Floats = NDArray[np.float32]
Stored = tuple[str, NDArray[Any]]  # safetensors dtype, raw elements

TINY: dict[str, Any] = {key: value for key, value in models.PRESETS["tiny"].items() if key != "vision_config"}
VISION: dict[str, Any] = models.PRESETS["tiny"]["vision_config"] | {"num_hidden_layers": 2, "patch_size": 7}
SMALL: dict[str, Any] = TINY | {
    "vocab_size": 47,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "intermediate_size_mlp": 40,
    "num_local_experts": 3,
}


def bf16_values(values: NDArray[Any]) -> NDArray[np.float32]:
    """Rounded to bf16, and to zero where fp16 would lose bits."""
    values = np.where(np.abs(values) < 2**-14, 0, values).astype(np.float32)
    bits = models.bf16_bits(values).astype(np.uint32) << 16
    return bits.view(np.float32).reshape(values.shape)  # type: ignore[no-any-return]


def stored(values: NDArray[np.float32], dtype: str) -> Stored:
    if dtype == "BF16":
        return dtype, (values.view(np.uint32) >> 16).astype(np.uint16)
    return dtype, values.astype({"F16": np.float16, "F32": np.float32}[dtype])


def random_values(config: Mapping[str, Any], *, vision: bool = False, seed: int = 0) -> Values:
    """Every tensor of the checkpoint by its Hugging Face name."""
    rng = np.random.default_rng(seed)
    specs = list(models.text_tensors(config, "language_model." if vision else ""))
    if vision:
        specs += models.vision_tensors(VISION, config["hidden_size"])
    return {s.name: bf16_values(rng.standard_normal(s.shape) * s.std + s.mean) for s in specs}


def unfuse(values: Values) -> Values:
    """The same model with one linear [out, in] per expert and projection."""
    out: Values = {}
    for name, value in values.items():
        stack = name.rpartition(".")[0]
        if name.endswith("experts.gate_up_proj"):
            width = value.shape[2] // 2
            for e, matrix in enumerate(value):
                out[f"{stack}.{e}.gate_proj.weight"] = np.ascontiguousarray(matrix[:, :width].T)
                out[f"{stack}.{e}.up_proj.weight"] = np.ascontiguousarray(matrix[:, width:].T)
        elif name.endswith("experts.down_proj"):
            for e, matrix in enumerate(value):
                out[f"{stack}.{e}.down_proj.weight"] = np.ascontiguousarray(matrix.T)
        else:
            out[name] = value
    return out


def save_safetensors(path: Path, tensors: Mapping[str, Stored], header_pad: int = 0) -> None:
    """header_pad: spaces after the header, to shift the payload to any alignment."""
    header: dict[str, Any] = {}
    at = 0
    for name, (dtype, array) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode() + b" " * header_pad
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


def write_config(directory: Path, config: Mapping[str, Any], vision: bool = False, **top: Any) -> None:
    if vision:
        whole: dict[str, Any] = {
            "architectures": ["Llama4ForConditionalGeneration"],
            "model_type": "llama4",
            "image_token_index": 5,
            "text_config": dict(config),
            "vision_config": VISION,
        }
    else:
        whole = {"architectures": ["Llama4ForCausalLM"], **config}
    (directory / "config.json").write_text(json.dumps(whole | top))


def write_tensors(directory: Path, tensors: Mapping[str, Stored], shards: int = 1) -> None:
    if shards == 1:
        save_safetensors(directory / "model.safetensors", tensors)
        return
    weight_map = {}
    names = list(tensors)
    for i in range(shards):
        shard = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        save_safetensors(directory / shard, part, header_pad=i)
        weight_map.update(dict.fromkeys(part, shard))
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def write_values(
    directory: Path,
    config: Mapping[str, Any],
    values: Values,
    *,
    dtype: str = "BF16",
    vision: bool = False,
    shards: int = 1,
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    write_config(directory, config, vision)
    write_tensors(directory, {name: stored(value, dtype) for name, value in values.items()}, shards)
    return directory


def gate_up(gate: NDArray[Any], up: NDArray[Any]) -> NDArray[Any]:
    """Rows of gate and up in turns of 16, padded with zero rows."""
    blocks = []
    for at in range(0, len(gate), 16):
        for half in (gate, up):
            block = np.zeros((16, gate.shape[1]), dtype=gate.dtype)
            rows = half[at : at + 16]
            block[: len(rows)] = rows
            blocks.append(block)
    return np.concatenate(blocks)


def expected_weights(config: Mapping[str, Any], values: Values) -> dict[str, list[NDArray[np.float32]]]:
    """Engine tensor -> its matrices (one per expert), from the values of a fused checkpoint."""
    prefix = "language_model." if any(name.startswith("language_model.") for name in values) else ""
    v = {name.removeprefix(prefix): value for name, value in values.items()}
    out = {"embed": [v["model.embed_tokens.weight"]], "norm": [v["model.norm.weight"][None]]}
    out["lm_head"] = [v.get("lm_head.weight", v["model.embed_tokens.weight"])]
    for layer in range(config["num_hidden_layers"]):
        hf, to = f"model.layers.{layer}", f"layers.{layer}"
        out[f"{to}.attn_norm"] = [v[f"{hf}.input_layernorm.weight"][None]]
        out[f"{to}.ffn_norm"] = [v[f"{hf}.post_attention_layernorm.weight"][None]]
        qkv = [v[f"{hf}.self_attn.{name}_proj.weight"] for name in "qkv"]
        out[f"{to}.attn.qkv"] = [np.concatenate(qkv)]
        out[f"{to}.attn.o"] = [v[f"{hf}.self_attn.o_proj.weight"]]
        ffn = f"{hf}.feed_forward"
        if f"{ffn}.router.weight" in v:
            out[f"{to}.moe.router"] = [v[f"{ffn}.router.weight"]]
            places = [(f"{to}.moe.shared", f"{ffn}.shared_expert")]
            stack = v[f"{ffn}.experts.gate_up_proj"]
            half = stack.shape[2] // 2
            out[f"{to}.moe.gate_up"] = [gate_up(m[:, :half].T, m[:, half:].T) for m in stack]
            out[f"{to}.moe.down"] = [m.T for m in v[f"{ffn}.experts.down_proj"]]
        else:
            places = [(f"{to}.mlp", ffn)]
        for name, module in places:
            gate, up = v[f"{module}.gate_proj.weight"], v[f"{module}.up_proj.weight"]
            out[f"{name}.gate_up"] = [gate_up(gate, up)]
            out[f"{name}.down"] = [v[f"{module}.down_proj.weight"]]
    return out


def expected_vision(values: Values) -> dict[str, list[NDArray[np.float32]]]:
    """The same of the vision tower, its adapter and projector; vectors as [1, n]."""
    v = {name.removeprefix("vision_model."): value for name, value in values.items()}
    out = {
        "vision.patch_embedding": [v["patch_embedding.linear.weight"]],
        "vision.class_embedding": [v["class_embedding"][None]],
        "vision.positional_embedding": [v["positional_embedding_vlm"].reshape(1, -1)],
        "vision.adapter.fc1": [v["vision_adapter.mlp.fc1.weight"]],
        "vision.adapter.fc2": [v["vision_adapter.mlp.fc2.weight"]],
        "vision.projector": [v["multi_modal_projector.linear_1.weight"]],
    }
    places = {"vision.pre_norm": "layernorm_pre", "vision.post_norm": "layernorm_post"}
    for layer in range(VISION["num_hidden_layers"]):
        hf, to = f"model.layers.{layer}", f"vision.layers.{layer}"
        places[f"{to}.attn_norm"] = f"{hf}.input_layernorm"
        places[f"{to}.mlp_norm"] = f"{hf}.post_attention_layernorm"
        places[f"{to}.attn.o"] = f"{hf}.self_attn.o_proj"
        places[f"{to}.mlp.fc1"] = f"{hf}.mlp.fc1"
        places[f"{to}.mlp.fc2"] = f"{hf}.mlp.fc2"
        heads = [f"{hf}.self_attn.{name}_proj" for name in "qkv"]
        out[f"{to}.attn.qkv"] = [np.concatenate([v[f"{head}.weight"] for head in heads])]
        out[f"{to}.attn.qkv.bias"] = [np.concatenate([v[f"{head}.bias"] for head in heads])[None]]
    for name, module in places.items():
        weight = v[f"{module}.weight"]
        if weight.ndim == 1:
            out[f"{name}.weight"] = [weight[None]]
        else:
            out[name] = [weight]
        out[f"{name}.bias"] = [v[f"{module}.bias"][None]]
    return out


def engine_weights(path: Path) -> dict[str, list[NDArray[np.float32]]]:
    """Every weight of an engine file as float32 matrices; plain numbers as [1, n]."""
    from llama4rt._core import EngineFile

    file = EngineFile(str(path))
    described = json.loads(file.metadata["weights"])
    out: dict[str, list[NDArray[np.float32]]] = {}
    for name in file.names():
        if name.startswith("files/") or name.endswith(
            (".scales", ".zeros", ".offsets", ".factors", ".offset_factors")
        ):
            continue
        if name in described or name == "embed":
            out[name] = [file.dequantize(name, e) for e in range(file.weight(name)["experts"])]
        else:
            out[name] = [np.array(file.raw(name)).view(np.float32)[None]]
    return out


__all__ = [
    "SMALL",
    "TINY",
    "VISION",
    "Floats",
    "Stored",
    "bf16_values",
    "engine_weights",
    "expected_vision",
    "expected_weights",
    "gate_up",
    "models",
    "random_values",
    "save_safetensors",
    "stored",
    "unfuse",
    "write_config",
    "write_tensors",
    "write_values",
]
