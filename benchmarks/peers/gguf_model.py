"""A random Llama 4 checkpoint (benchmarks/models.py) as GGUF, for llama.cpp.

    python benchmarks/peers/gguf_model.py CHECKPOINT OUT.gguf

The tensors keep their bf16 values, so a quantised peer starts from the weights that our engine file starts from.
Written with the `gguf` package; llama.cpp's own converter gives the same tensors but asks for a tokenizer, which random
models do not have. No vocabulary is written: peers are driven by token ids.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

BF16 = gguf.GGMLQuantizationType.BF16


def write_gguf(checkpoint: Path, out: Path) -> None:
    """Converts a text-only checkpoint of benchmarks/models.py. Raises KeyError for a tensor that is not there."""
    config = json.loads((checkpoint / "config.json").read_text())
    config = config.get("text_config", config)
    source = Checkpoint(checkpoint)
    writer = gguf.GGUFWriter(out, "llama4", use_temp_file=False)
    _describe(writer, config)
    for name, values, raw in _tensors(source, config):
        writer.add_tensor(name, values, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Checkpoint:
    """bf16 tensors of a sharded safetensors checkpoint, mapped."""

    def __init__(self, directory: Path) -> None:
        self.tensors: dict[str, tuple[Path, int, int, list[int]]] = {}
        for shard in sorted(directory.glob("*.safetensors")):
            with shard.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            for name, about in header.items():
                if name != "__metadata__":
                    start, end = about["data_offsets"]
                    self.tensors[name] = (shard, 8 + length + start, end - start, about["shape"])

    def bits(self, name: str) -> NDArray[np.uint16]:
        path, offset, size, shape = self.tensors[name]
        return np.memmap(path, np.uint16, "r", offset, (size // 2,)).reshape(shape)


def _describe(writer: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    writer.add_name("random llama 4")
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size_mlp"])
    writer.add_expert_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c["rope_theta"])
    writer.add_rope_dimension_count(c["head_dim"])
    writer.add_expert_count(c["num_local_experts"])
    writer.add_expert_used_count(c["num_experts_per_tok"])
    writer.add_interleave_moe_layer_step(c["interleave_moe_layer_step"])
    writer.add_vocab_size(c["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def _tensors(source: Checkpoint, c: dict[str, Any]) -> Iterator[tuple[str, NDArray[Any], Any]]:
    """(GGUF name, data, type): matrices as bf16 bytes, vectors and router as fp32."""

    def matrix(name: str, bits: NDArray[np.uint16]) -> tuple[str, NDArray[Any], Any]:
        return name, np.ascontiguousarray(bits).view(np.uint8), BF16

    def vector(name: str, bits: NDArray[np.uint16]) -> tuple[str, NDArray[Any], Any]:
        return name, _to_f32(bits), None

    yield matrix("token_embd.weight", source.bits("model.embed_tokens.weight"))
    yield vector("output_norm.weight", source.bits("model.norm.weight"))
    yield matrix("output.weight", source.bits("lm_head.weight"))
    scaling = c.get("rope_scaling")
    if scaling:
        yield "rope_freqs.weight", rope_factors(c["head_dim"], c["rope_theta"], scaling), None
    for layer in range(c["num_hidden_layers"]):
        at, to = f"model.layers.{layer}", f"blk.{layer}"
        yield vector(f"{to}.attn_norm.weight", source.bits(f"{at}.input_layernorm.weight"))
        yield vector(f"{to}.ffn_norm.weight", source.bits(f"{at}.post_attention_layernorm.weight"))
        for theirs, ours in (
            ("attn_q", "q_proj"),
            ("attn_k", "k_proj"),
            ("attn_v", "v_proj"),
            ("attn_output", "o_proj"),
        ):
            yield matrix(f"{to}.{theirs}.weight", source.bits(f"{at}.self_attn.{ours}.weight"))
        ffn = f"{at}.feed_forward"
        if f"{ffn}.router.weight" not in source.tensors:
            for part in ("gate", "up", "down"):
                yield matrix(f"{to}.ffn_{part}.weight", source.bits(f"{ffn}.{part}_proj.weight"))
            continue
        yield vector(f"{to}.ffn_gate_inp.weight", source.bits(f"{ffn}.router.weight"))
        for part in ("gate", "up", "down"):
            bits = source.bits(f"{ffn}.shared_expert.{part}_proj.weight")
            yield matrix(f"{to}.ffn_{part}_shexp.weight", bits)
        # Stored [experts, in, out], gate and up side by side; GGUF wants [experts, out, in].
        gate_up = source.bits(f"{ffn}.experts.gate_up_proj").transpose(0, 2, 1)
        width = gate_up.shape[1] // 2
        yield matrix(f"{to}.ffn_gate_exps.weight", gate_up[:, :width])
        yield matrix(f"{to}.ffn_up_exps.weight", gate_up[:, width:])
        yield matrix(f"{to}.ffn_down_exps.weight", source.bits(f"{ffn}.experts.down_proj").transpose(0, 2, 1))


def rope_factors(head_dim: int, theta: float, scaling: dict[str, Any]) -> NDArray[np.float32]:
    """What llama.cpp divides each frequency by, [head_dim / 2]: the "llama3" scaling of the published model."""
    low = scaling["original_max_position_embeddings"] / scaling["low_freq_factor"]
    high = scaling["original_max_position_embeddings"] / scaling["high_freq_factor"]
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(scaling["factor"])
        else:
            span = scaling["high_freq_factor"] - scaling["low_freq_factor"]
            original = scaling["original_max_position_embeddings"]
            smooth = (original / wavelength - scaling["low_freq_factor"]) / span
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, np.float32)


def _to_f32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
