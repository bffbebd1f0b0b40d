"""Random Llama 4 checkpoints in the real Hugging Face format, of any size, without PyTorch.

    python benchmarks/models.py PRESET OUT_DIR [--seed N]

Sharded bf16 safetensors with an index, config.json, generation_config.json and, where the vocabulary is the real one,
the real tokenizer (from the PyPI package llama-models, when that is installed) with a chat template. The weights are
noise of the right scale, so speed and memory are those of a trained model; the text is not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import shutil
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REAL_VOCAB = 202_048
_POOL_VALUES = (1 << 22) + 37  # odd, so that rows of a power of two do not line up with it
_CHUNK_VALUES = 1 << 20
_SCOUT_ROPE = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0}

_BASE: dict[str, Any] = {
    "model_type": "llama4_text",
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_chunk_size": 8192,
    "attn_scale": 0.1,
    "attn_temperature_tuning": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "floor_scale": 8192,
    "head_dim": 128,
    "interleave_moe_layer_step": 1,
    "intermediate_size_mlp": 4096,
    "max_position_embeddings": 1_048_576,
    "no_rope_layers": [],
    "no_rope_layer_interval": 4,
    "num_experts_per_tok": 1,
    "num_local_experts": 16,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {**_SCOUT_ROPE, "original_max_position_embeddings": 8192},
    "rope_theta": 500_000.0,
    "tie_word_embeddings": False,
    "use_qk_norm": True,
}
_REAL_TOKENS = {
    "vocab_size": REAL_VOCAB,
    "bos_token_id": 200_000,
    "eos_token_id": [200_001, 200_007, 200_008],
}
_MID = {
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 2048,
}
_TINY = {
    "vocab_size": 331,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "intermediate_size_mlp": 256,
    "num_local_experts": 4,
    "attention_chunk_size": 16,
    "floor_scale": 8,
    "max_position_embeddings": 4096,
    "rope_scaling": {**_SCOUT_ROPE, "original_max_position_embeddings": 64},
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}
_SMALL_VISION: dict[str, Any] = {
    "model_type": "llama4_vision_model",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": 28,
    "patch_size": 14,
    "pixel_shuffle_ratio": 0.5,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "rope_theta": 10_000,
}
# Text configs. One with a "vision_config" becomes a Llama4ForConditionalGeneration, the others Llama4ForCausalLM.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {**_BASE, **_TINY, "vision_config": _SMALL_VISION},
    "maverick_tiny": {
        **_BASE,
        **_TINY,
        "interleave_moe_layer_step": 2,
        "num_local_experts": 16,
        "rope_scaling": None,
        "use_qk_norm": False,
    },
    "demo": {  # about 58 M parameters, nine tenths of them the real vocabulary
        **_BASE,
        **_REAL_TOKENS,
        "hidden_size": 128,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 256,
        "num_local_experts": 4,
    },
    "mid": {**_BASE, **_MID},  # 1.8 B parameters
    "mid200k": {**_BASE, **_MID, **_REAL_TOKENS},  # 2.1 B
}

# Behaves as the published template does: system text stripped, other texts not; tools in the first user message unless
# tools_in_user_message is false; a tool's answer as JSON.
CHAT_TEMPLATE = """\
{%- if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}
{%- if tools_in_user_message is not defined %}{% set tools_in_user_message = true %}{% endif %}
{%- if tools is not defined %}{% set tools = none %}{% endif %}
{%- macro text_of(content) %}
{%- if content is string %}{{ content }}
{%- else %}
{%- for item in content %}
{%- if item['type'] == 'image' %}{{ '<|image|>' }}{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}
{%- endfor %}
{%- endif %}
{%- endmacro %}
{%- macro describe_tools() %}
{{- 'These functions can be called:\\n\\n' }}
{%- for tool in tools %}{{ tool | tojson(indent=4) }}{{ '\\n\\n' }}{% endfor %}
{{- 'Answer with one call as JSON, {"name": the function, "parameters": its arguments by name}, values spelled out.' }}
{{- '\\n\\n' }}
{%- endmacro %}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- set system = text_of(messages[0]['content']) | trim %}
{%- set messages = messages[1:] %}
{{- '<|header_start|>system<|header_end|>\\n\\n' }}
{%- if tools is not none %}{{ 'Environment: ipython\\n' }}{% endif %}
{%- if tools is not none and not tools_in_user_message %}{{ describe_tools() }}{% endif %}
{{- system }}{{ '<|eot|>' }}
{%- endif %}
{%- if tools is not none and tools_in_user_message %}
{%- if not messages %}{{ raise_exception('tools need a user message to go into') }}{% endif %}
{{- '<|header_start|>user<|header_end|>\\n\\n' }}{{ describe_tools() }}
{{- text_of(messages[0]['content']) | trim }}{{ '<|eot|>' }}
{%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] in ['tool', 'ipython'] %}
{{- '<|header_start|>ipython<|header_end|>\\n\\n' }}{{ message['content'] | tojson }}{{ '<|eot|>' }}
{%- elif 'tool_calls' in message %}
{%- if message['tool_calls'] %}
{{- '<|header_start|>' + message['role'] + '<|header_end|>\\n\\n<|python_start|>' }}
{{- text_of(message['content'] or '') }}{{ '<|python_end|>' }}
{%- for call in message['tool_calls'] %}
{%- if call['function'] is defined %}{% set call = call['function'] %}{% endif %}
{{- '{"name": "' + call['name'] + '", "parameters": ' }}{{ call['arguments'] | tojson }}{{ '}' }}
{%- endfor %}
{{- '<|eot|>' }}
{%- endif %}
{%- else %}
{{- '<|header_start|>' + message['role'] + '<|header_end|>\\n\\n' }}{{ text_of(message['content']) }}{{ '<|eot|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|header_start|>assistant<|header_end|>\\n\\n' }}{% endif %}
"""


@dataclass(frozen=True)
class TensorSpec:
    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0

    @property
    def values(self) -> int:
        return math.prod(self.shape)


def is_moe_layer(config: Mapping[str, Any], layer: int) -> bool:
    if config.get("moe_layers") is not None:
        return layer in config["moe_layers"]
    return bool((layer + 1) % config["interleave_moe_layer_step"] == 0)


def text_tensors(config: Mapping[str, Any], prefix: str = "") -> Iterator[TensorSpec]:
    """Every decoder tensor of a text config, in layer order. prefix: `language_model.` in a multimodal checkpoint."""
    hidden, head = config["hidden_size"], config["head_dim"]
    q_dim, kv_dim = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    experts, width = config["num_local_experts"], config["intermediate_size"]
    residual = (2 * config["num_hidden_layers"]) ** -0.5  # of what is added to the residual stream

    def linear(name: str, out: int, into: int, gain: float = 1.0) -> TensorSpec:
        return TensorSpec(f"{name}.weight", (out, into), gain * into**-0.5)

    def mlp(name: str, f: int) -> Iterator[TensorSpec]:
        yield linear(f"{name}.gate_proj", f, hidden)
        yield linear(f"{name}.up_proj", f, hidden)
        yield linear(f"{name}.down_proj", hidden, f, residual)

    yield TensorSpec(f"{prefix}model.embed_tokens.weight", (config["vocab_size"], hidden), 1.0)
    for layer in range(config["num_hidden_layers"]):
        at = f"{prefix}model.layers.{layer}"
        yield TensorSpec(f"{at}.input_layernorm.weight", (hidden,), 0.1, 1.0)
        yield TensorSpec(f"{at}.post_attention_layernorm.weight", (hidden,), 0.1, 1.0)
        yield linear(f"{at}.self_attn.q_proj", q_dim, hidden)
        yield linear(f"{at}.self_attn.k_proj", kv_dim, hidden)
        yield linear(f"{at}.self_attn.v_proj", kv_dim, hidden)
        yield linear(f"{at}.self_attn.o_proj", hidden, q_dim, residual)
        if not is_moe_layer(config, layer):
            yield from mlp(f"{at}.feed_forward", config["intermediate_size_mlp"])
            continue
        yield linear(f"{at}.feed_forward.router", experts, hidden, 2.0)
        yield from mlp(f"{at}.feed_forward.shared_expert", width)
        stack = f"{at}.feed_forward.experts"
        yield TensorSpec(f"{stack}.gate_up_proj", (experts, hidden, 2 * width), hidden**-0.5)
        yield TensorSpec(f"{stack}.down_proj", (experts, width, hidden), residual * width**-0.5)
    yield TensorSpec(f"{prefix}model.norm.weight", (hidden,), 0.1, 1.0)
    if not config["tie_word_embeddings"]:
        yield linear(f"{prefix}lm_head", config["vocab_size"], hidden, 2.0)


def vision_tensors(config: Mapping[str, Any], text_hidden: int) -> Iterator[TensorSpec]:
    hidden, width = config["hidden_size"], config["intermediate_size"]
    out, into = config["projector_output_dim"], config["projector_input_dim"]
    patches = (config["image_size"] // config["patch_size"]) ** 2

    def norm(name: str) -> Iterator[TensorSpec]:
        yield TensorSpec(f"{name}.weight", (hidden,), 0.1, 1.0)
        yield TensorSpec(f"{name}.bias", (hidden,), 0.1)

    def linear(name: str, n: int, k: int, bias: bool = True) -> Iterator[TensorSpec]:
        yield TensorSpec(f"{name}.weight", (n, k), k**-0.5)
        if bias:
            yield TensorSpec(f"{name}.bias", (n,), 0.1)

    yield TensorSpec("vision_model.class_embedding", (hidden,), 1.0)
    yield TensorSpec("vision_model.positional_embedding_vlm", (patches + 1, hidden), 1.0)
    yield from linear(
        "vision_model.patch_embedding.linear", hidden, 3 * config["patch_size"] ** 2, bias=False
    )
    yield from norm("vision_model.layernorm_pre")
    yield from norm("vision_model.layernorm_post")
    for layer in range(config["num_hidden_layers"]):
        at = f"vision_model.model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield from linear(f"{at}.self_attn.{name}", hidden, hidden)
        yield from linear(f"{at}.mlp.fc1", width, hidden)
        yield from linear(f"{at}.mlp.fc2", hidden, width)
        yield from norm(f"{at}.input_layernorm")
        yield from norm(f"{at}.post_attention_layernorm")
    shuffled = round(hidden / config["pixel_shuffle_ratio"] ** 2)
    yield from linear("vision_model.vision_adapter.mlp.fc1", into, shuffled, bias=False)
    yield from linear("vision_model.vision_adapter.mlp.fc2", out, into, bias=False)
    yield from linear("multi_modal_projector.linear_1", text_hidden, config["vision_output_dim"], bias=False)


class NoisePool:
    """A block of normal noise that every tensor is cut from: bits are made once per scale, then only copied."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = self._rng.standard_normal(_POOL_VALUES, dtype=np.float32)
        self._scaled: dict[tuple[float, float], NDArray[np.uint16]] = {}

    def chunks(self, spec: TensorSpec) -> Iterator[NDArray[np.uint16]]:
        """bf16 bits of a tensor, in pieces from random places of the pool."""
        key = (spec.std, spec.mean)
        if key not in self._scaled:
            self._scaled[key] = bf16_bits(self._noise * np.float32(spec.std) + np.float32(spec.mean))
        pool = self._scaled[key]
        left = spec.values
        while left > 0:
            count = min(left, _CHUNK_VALUES)
            start = int(self._rng.integers(0, len(pool) - count + 1))
            yield pool[start : start + count]
            left -= count


def bf16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Finite fp32 values rounded to bf16, nearest even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_shard(path: Path, specs: list[TensorSpec], pool: NoisePool) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for spec in specs:
        end = at + 2 * spec.values
        header[spec.name] = {"dtype": "BF16", "shape": list(spec.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for spec in specs:
            for chunk in pool.chunks(spec):
                file.write(chunk.data)


def write_checkpoint(
    config: Mapping[str, Any], directory: Path, *, seed: int = 0, max_shard_bytes: int = 2 << 30
) -> int:
    """Writes a checkpoint of a text config (see PRESETS) and returns its number of parameters."""
    text = {key: value for key, value in config.items() if key != "vision_config"}
    vision = config.get("vision_config")
    specs = list(text_tensors(text, "language_model." if vision else ""))
    if vision:
        specs += vision_tensors(vision, text["hidden_size"])
    directory.mkdir(parents=True, exist_ok=True)
    _write_weights(specs, directory, NoisePool(seed), max_shard_bytes)

    if vision:
        # 200: of "tiny", which has no tokenizer.
        first_special = 200_000 if text["vocab_size"] == REAL_VOCAB else 200
        top: dict[str, Any] = {
            "architectures": ["Llama4ForConditionalGeneration"],
            "model_type": "llama4",
            "boi_token_index": first_special + 80,
            "eoi_token_index": first_special + 81,
            "image_token_index": first_special + 92,
            "text_config": text,
            "tie_word_embeddings": text["tie_word_embeddings"],
            "vision_config": vision,
        }
    else:
        top = {"architectures": ["Llama4ForCausalLM"], **text}
    _write_json(
        directory / "config.json", top | {"torch_dtype": "bfloat16", "transformers_version": "4.51.0"}
    )
    tokens = {key: text[key] for key in ("bos_token_id", "eos_token_id") if text[key] is not None}
    _write_json(
        directory / "generation_config.json", {**tokens, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    )
    if text["vocab_size"] == REAL_VOCAB:
        write_tokenizer(directory)
    return sum(spec.values for spec in specs)


def _write_weights(specs: list[TensorSpec], directory: Path, pool: NoisePool, max_shard_bytes: int) -> None:
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + 2 * spec.values > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += 2 * spec.values
    if len(shards) == 1:
        write_shard(directory / "model.safetensors", shards[0], pool)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(directory / name, shard, pool)
        weight_map.update({spec.name: name for spec in shard})
    total = sum(2 * spec.values for spec in specs)
    _write_json(
        directory / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def find_tokenizer_model() -> Path | None:
    """Llama 4's tokenizer.model inside the installed llama-models package, which is not imported for it."""
    spec = importlib.util.find_spec("llama_models")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / "llama4" / "tokenizer.model"
        if path.is_file():
            return path
    return None


def write_tokenizer(directory: Path) -> bool:
    """Adds tokenizer.model and the chat template; False where the package that carries the former is missing."""
    model = find_tokenizer_model()
    if model is None:
        return False
    shutil.copyfile(model, directory / "tokenizer.model")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    _write_json(
        directory / "tokenizer_config.json",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot|>", "pad_token": "<|finetune_right_pad|>"},
    )
    return True


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a random Llama 4 checkpoint in Hugging Face format.")
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    parameters = write_checkpoint(PRESETS[args.preset], args.out_dir, seed=args.seed)
    seconds = time.perf_counter() - start
    print(f"{args.out_dir}: {args.preset}, {parameters / 1e6:,.1f} M parameters, {seconds:.1f} s")
    if PRESETS[args.preset]["vocab_size"] == REAL_VOCAB and not (args.out_dir / "tokenizer.model").is_file():
        print("no tokenizer: pip install llama-models to have the real one written too", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
