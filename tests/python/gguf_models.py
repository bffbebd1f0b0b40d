"""GGUF files for tests, by the gguf package's own writer: what llama.cpp's converter makes of the tiny checkpoints.

The rules of the converter (names, dims, which keys are written) are written down here again, apart from the reader.
small_gguf() is a writer of its own, a few lines of struct, that can also write what the package would refuse.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TypeOf = Callable[[str], str]  # name of a tensor -> name of its ggml type


def checkpoint_tensors(directory: Path) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a Hugging Face checkpoint in fp32."""
    from safetensors.torch import load_file

    found: dict[str, NDArray[np.float32]] = {}
    for shard in sorted(directory.glob("*.safetensors")):
        found |= {name: np.asarray(tensor.float()) for name, tensor in load_file(shard).items()}
    return found


_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "feed_forward.gate_proj.weight": "ffn_gate.weight",
    "feed_forward.up_proj.weight": "ffn_up.weight",
    "feed_forward.down_proj.weight": "ffn_down.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",  # transformers' Llama
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "feed_forward.router.weight": "ffn_gate_inp.weight",
    "feed_forward.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "feed_forward.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "feed_forward.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
}
_VISION = {
    "vision_model.patch_embedding.linear.weight": "v.patch_embd.weight",
    "vision_model.class_embedding": "v.class_embd",
    "vision_model.positional_embedding_vlm": "v.position_embd.weight",
    "vision_model.layernorm_pre": "v.pre_ln",
    "vision_model.layernorm_post": "v.post_ln",
    "vision_model.vision_adapter.mlp.fc1.weight": "mm.model.mlp.1.weight",
    "vision_model.vision_adapter.mlp.fc2.weight": "mm.model.mlp.2.weight",
    "multi_modal_projector.linear_1.weight": "mm.model.fc.weight",
}
_IN_VISION_LAYER = {
    "input_layernorm": "ln1",
    "post_attention_layernorm": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


def gguf_tensors(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Of a decoder, by GGUF's names and in its shapes, the slowest axis first."""
    out: dict[str, Array] = {}
    for name, value in tensors.items():
        name = name.removeprefix("language_model.")
        if name.startswith(("vision_model.", "multi_modal_projector.")):
            continue
        if name in _TOP:
            out[_TOP[name]] = value
            continue
        _, _, layer, rest = name.split(".", 3)
        block = f"blk.{layer}."
        if rest.endswith("experts.gate_up_proj"):  # [E, in, 2 out]
            gate, up = np.split(value, 2, axis=2)
            out[f"{block}ffn_gate_exps.weight"] = np.ascontiguousarray(gate.transpose(0, 2, 1))
            out[f"{block}ffn_up_exps.weight"] = np.ascontiguousarray(up.transpose(0, 2, 1))
        elif rest.endswith("experts.down_proj"):
            out[f"{block}ffn_down_exps.weight"] = np.ascontiguousarray(value.transpose(0, 2, 1))
        else:
            out[block + _IN_LAYER[rest]] = value
    return out


def vision_tensors(tensors: Mapping[str, Array]) -> dict[str, Array]:
    out: dict[str, Array] = {}
    for name, value in tensors.items():
        module, _, kind = name.rpartition(".")
        if name in _VISION:
            out[_VISION[name]] = value
        elif module in _VISION:
            out[f"{_VISION[module]}.{kind}"] = value
        elif name.startswith("vision_model.model.layers."):
            layer, rest = module.removeprefix("vision_model.model.layers.").split(".", 1)
            out[f"v.blk.{layer}.{_IN_VISION_LAYER[rest]}.{kind}"] = value
    return out


def rope_divisors(theta: float, head: int, scaling: Mapping[str, float]) -> NDArray[np.float32]:
    """`rope_freqs.weight`, frequency by frequency, in fp32 as the converter computes it."""
    out = []
    for i in range(0, head, 2):
        wavelength = 2 * math.pi / float(np.float32(1 / np.float32(theta) ** np.float32(i / head)))
        length, low, high = (
            scaling[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
        )
        if wavelength < length / high:
            out.append(1.0)
        elif wavelength > length / low:
            out.append(scaling["factor"])
        else:
            smooth = (length / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(out, dtype=np.float32)


def add_tensors(writer: Any, tensors: Mapping[str, Array], type_of: TypeOf) -> dict[str, Array]:
    """Returns what the stored numbers mean, in fp32."""
    import gguf

    meant: dict[str, Array] = {}
    for name, value in tensors.items():
        kind = gguf.GGMLQuantizationType[type_of(name) if value.ndim > 1 else "F32"]
        data = gguf.quants.quantize(np.ascontiguousarray(value, dtype=np.float32), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        meant[name] = gguf.quants.dequantize(data, kind).reshape(value.shape)
    return meant


def finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_sizes(writer: Any, text: Mapping[str, Any]) -> None:
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    rope = text.get("rope_parameters") or {"rope_theta": text.get("rope_theta")}
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(text["vocab_size"])
    writer.add_key_length(head)
    writer.add_value_length(head)


def write_llama4(
    source: Path,
    file: Path,
    type_of: TypeOf,
    *,
    tensors: Mapping[str, Array] | None = None,
    keys: Mapping[str, Any] | None = None,
    **writer_options: Any,
) -> dict[str, Array]:
    """A tiny Llama 4 as GGUF. tensors: in the place of the checkpoint's; keys: further integers, strings and arrays of
    the metadata. Returns what its tensors mean, by GGUF's names.
    """
    import gguf

    config = json.loads((source / "config.json").read_text())
    text = config.get("text_config", config)
    writer = gguf.GGUFWriter(file, "llama4", **writer_options)
    add_sizes(writer, text)
    writer.add_feed_forward_length(text["intermediate_size_mlp"])
    writer.add_expert_feed_forward_length(text["intermediate_size"])
    moe = text["moe_layers"]
    writer.add_expert_count(text["num_local_experts"] if moe else 0)
    writer.add_expert_used_count(text["num_experts_per_tok"])
    writer.add_interleave_moe_layer_step(text["interleave_moe_layer_step"] if moe else 0)
    rope = text["rope_parameters"]
    stored = dict(tensors) if tensors is not None else gguf_tensors(checkpoint_tensors(source))
    if rope["rope_type"] == "llama3":
        stored["rope_freqs.weight"] = rope_divisors(rope["rope_theta"], text["head_dim"], rope)
    for key, value in (keys or {}).items():
        add_key(writer, key, value)
    meant = add_tensors(writer, stored, type_of)
    finish(writer)
    return meant


def add_key(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_string(key, value)


def byte_tokenizer() -> dict[str, Any]:
    """keys of write_llama4: a tokenizer of single bytes and Llama 4's control tokens, as write_byte_tokenizer's, but
    for the last token, which is a merged one: the package does not write an empty list of merges.
    """
    from llama4rt.text.byte_level_bpe import BYTE_OF
    from llama4rt.text.tokenizer import llama4_special_tokens

    letters = {byte: char for char, byte in BYTE_OF.items()}
    special = llama4_special_tokens(256)
    names = [name for name, i in special.items() if i < 361]  # the vocabulary of the tiny models ends there
    tokens = [letters[byte] for byte in range(256)] + names[:-1] + ["ab"]
    return {
        "keys": {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "llama4",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * 256 + [3] * (len(names) - 1) + [1],
            "tokenizer.ggml.merges": ["a b"],
            "tokenizer.ggml.bos_token_id": 256,
            "tokenizer.ggml.eos_token_id": 264,
        }
    }


def write_mmproj(source: Path, file: Path, type_of: TypeOf) -> dict[str, Array]:
    """The vision tower of a tiny Llama 4."""
    import gguf

    config = json.loads((source / "config.json").read_text())
    vision = config["vision_config"]
    writer = gguf.GGUFWriter(file, "clip")
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("llama4")
    writer.add_vision_image_size(vision["image_size"])
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_block_count(vision["num_hidden_layers"])
    writer.add_vision_head_count(vision["num_attention_heads"])
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_projection_dim(config["text_config"]["hidden_size"])
    writer.add_vision_projector_scale_factor(2)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(True)
    meant = add_tensors(writer, vision_tensors(checkpoint_tensors(source)), type_of)
    finish(writer)
    return meant


def adjacent_pairs(weight: Array, heads: int) -> Array:
    """Rows of q or k from transformers' order, halves of a head rotating together, to pairs side by side."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


# --- a writer of its own


def packed_string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def packed_value(value: Any) -> bytes:
    """Value type and value. (code, number): a scalar of this struct code; else what suits Python's type."""
    codes = {"B": 0, "b": 1, "H": 2, "h": 3, "I": 4, "i": 5, "f": 6, "Q": 10, "q": 11, "d": 12}
    if isinstance(value, tuple):
        return struct.pack("<I", codes[value[0]]) + struct.pack(f"<{value[0]}", value[1])
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, (str, bytes)):
        return struct.pack("<I", 8) + packed_string(value)
    kind = (
        8 if value and isinstance(value[0], (str, bytes)) else 5 if all(type(v) is int for v in value) else 6
    )
    items = b"".join(
        packed_string(v) if kind == 8 else struct.pack("<i" if kind == 5 else "<f", v) for v in value
    )
    return struct.pack("<IIQ", 9, kind, len(value)) + items


def small_gguf(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[Sequence[int], int, bytes]],
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """tensors: name -> (shape, slowest axis first; number of the ggml type; bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(packed_string(key) + packed_value(value) for key, value in metadata.items())
    data = b""
    for name, (shape, kind, content) in tensors.items():
        dims = tuple(reversed(shape))
        head += packed_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += content + bytes(-len(content) % alignment)
    return head + bytes(-len(head) % alignment) + data


__all__ = [
    "add_key",
    "add_sizes",
    "add_tensors",
    "adjacent_pairs",
    "byte_tokenizer",
    "checkpoint_tensors",
    "finish",
    "gguf_tensors",
    "packed_string",
    "packed_value",
    "rope_divisors",
    "small_gguf",
    "write_llama4",
    "write_mmproj",
]
