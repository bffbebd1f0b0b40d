"""The shipped engine file back to a Hugging Face checkpoint: `python -m tools.demo_model.unpack DIR`.

The bf16 checkpoint is too large for this repository, the engine file is not. Its int4 matrices become
compressed-tensors linears with the same codes and scales, everything else stays bf16, so `llama4rt build DIR` makes
the same weights again, bit for bit; with --dequantize all becomes bf16, which stock transformers loads and training
can go on from.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from llama4rt._core import EngineFile
from llama4rt.demo import engine_path

# Config, tokenizer and templates; the weights come from the engine.
HERE = Path(__file__).parent / "checkpoint"
BLOCK_ROWS = 16  # rows that lie together in a stored matrix
CODES_PER_WORD = 8


class Unpacker:
    """Reads matrices of one engine file under the names of the checkpoint."""

    def __init__(self, file: EngineFile, dequantize: bool) -> None:
        self.file = file
        self.config: dict[str, Any] = json.loads(file.metadata["config"])
        self.dequantize = dequantize

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array): int32 codes, int64 shapes, and float32 for what is to be stored as bf16."""
        c, text = self.config, "language_model.model"
        yield f"{text}.embed_tokens.weight", self._bf16("embed")
        yield f"{text}.norm.weight", self._float("norm")
        yield "language_model.lm_head.weight", self.file.dequantize("lm_head")
        q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
        for layer in range(c["num_hidden_layers"]):
            at, to = f"layers.{layer}", f"{text}.layers.{layer}"
            yield f"{to}.input_layernorm.weight", self._float(f"{at}.attn_norm")
            yield f"{to}.post_attention_layernorm.weight", self._float(f"{at}.ffn_norm")
            rows = np.split(np.arange(q + 2 * kv), [q, q + kv])
            for name, own in zip("qkv", rows, strict=True):
                yield from self._linear(f"{to}.self_attn.{name}_proj", f"{at}.attn.qkv", own)
            yield from self._linear(f"{to}.self_attn.o_proj", f"{at}.attn.o")
            ffn = f"{to}.feed_forward"
            if not c["moe_layers"][layer]:
                yield from self._mlp(ffn, f"{at}.mlp", c["intermediate_size_mlp"])
                continue
            yield f"{ffn}.router.weight", self.file.dequantize(f"{at}.moe.router")
            yield from self._mlp(f"{ffn}.shared_expert", f"{at}.moe.shared", c["intermediate_size"])
            yield from self._experts(f"{ffn}.experts", f"{at}.moe")
        yield from self._vision()

    def _mlp(self, to: str, at: str, width: int, expert: int = 0) -> Iterator[tuple[str, np.ndarray]]:
        gate = np.arange(width) // BLOCK_ROWS * (2 * BLOCK_ROWS) + np.arange(width) % BLOCK_ROWS
        yield from self._linear(f"{to}.gate_proj", f"{at}.gate_up", gate, expert)
        yield from self._linear(f"{to}.up_proj", f"{at}.gate_up", gate + BLOCK_ROWS, expert)
        yield from self._linear(f"{to}.down_proj", f"{at}.down", None, expert)

    def _experts(self, to: str, at: str) -> Iterator[tuple[str, np.ndarray]]:
        width, count = self.config["intermediate_size"], self.config["num_local_experts"]
        each = [list(self._mlp(f"{to}.{e}", at, width, e)) for e in range(count)]
        if not self.dequantize:
            for tensors in each:
                yield from tensors
            return
        # Stock transformers stacks them, [expert, in, out], gate beside up.
        gate, up, down = (np.stack([tensors[i][1].T for tensors in each]) for i in range(3))
        yield f"{to}.gate_up_proj", np.concatenate([gate, up], axis=2)
        yield f"{to}.down_proj", down

    def _linear(
        self, to: str, name: str, rows: np.ndarray | None = None, expert: int = 0
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Stored rows `rows` of a matrix (all of them: None), packed as they were unless bf16 is wanted."""
        weight = self.file.weight(name)
        values = self.file.dequantize(name, expert)
        keep = np.arange(len(values)) if rows is None else rows
        if self.dequantize or weight["kind"] != "int4":
            yield f"{to}.weight", values[keep]
            return
        assert not weight["has_zeros"] and weight["scale_dtype"] == "BF16", name
        size = weight["group_size"]
        scales = self._scales(name, expert, len(values), -(-weight["k"] // size))[keep]
        values = values[keep]
        spread = np.repeat(scales, size, axis=1)[:, : weight["k"]]
        quotient = np.divide(values, spread, out=np.zeros_like(values), where=spread != 0)
        codes = (np.rint(quotient) + 8).astype(np.uint32)
        words = codes.reshape(len(codes), -1, CODES_PER_WORD) << (
            4 * np.arange(CODES_PER_WORD, dtype=np.uint32)
        )
        yield f"{to}.weight_packed", np.bitwise_or.reduce(words, axis=2).view(np.int32)
        yield f"{to}.weight_scale", scales
        yield f"{to}.weight_shape", np.array(values.shape, np.int64)

    def _scales(self, name: str, expert: int, rows: int, groups: int) -> np.ndarray:
        """float32 [rows, groups]; stored as bf16, [row blocks, groups, 16]."""
        bits = self.file.raw(f"{name}.scales").view(np.uint16)
        blocks = -(-rows // BLOCK_ROWS)
        own = bits.reshape(-1, blocks, groups, BLOCK_ROWS)[expert]
        return _from_bf16(own.swapaxes(1, 2).reshape(blocks * BLOCK_ROWS, groups)[:rows])

    def _vision(self) -> Iterator[tuple[str, np.ndarray]]:
        v, tower = self.config["vision"], "vision_model"
        matrix = self.file.dequantize
        yield f"{tower}.patch_embedding.linear.weight", matrix("vision.patch_embedding")
        yield f"{tower}.class_embedding", self._float("vision.class_embedding")
        yield f"{tower}.positional_embedding_vlm", self._float("vision.positional_embedding")
        yield "multi_modal_projector.linear_1.weight", matrix("vision.projector")
        for fc in ("fc1", "fc2"):
            yield f"{tower}.vision_adapter.mlp.{fc}.weight", matrix(f"vision.adapter.{fc}")
        norms = {"vision.pre_norm": f"{tower}.layernorm_pre", "vision.post_norm": f"{tower}.layernorm_post"}
        for layer in range(v["num_hidden_layers"]):
            at, to = f"vision.layers.{layer}", f"{tower}.model.layers.{layer}"
            norms[f"{at}.attn_norm"] = f"{to}.input_layernorm"
            norms[f"{at}.mlp_norm"] = f"{to}.post_attention_layernorm"
            linears = {
                "attn.qkv": [f"self_attn.{name}_proj" for name in "qkv"],
                "attn.o": ["self_attn.o_proj"],
                "mlp.fc1": ["mlp.fc1"],
                "mlp.fc2": ["mlp.fc2"],
            }
            for name, modules in linears.items():
                weights = np.split(matrix(f"{at}.{name}"), len(modules))
                biases = np.split(self._float(f"{at}.{name}.bias"), len(modules))
                for module, weight, bias in zip(modules, weights, biases, strict=True):
                    yield f"{to}.{module}.weight", weight
                    yield f"{to}.{module}.bias", bias
        for name, module in norms.items():
            for part in ("weight", "bias"):
                yield f"{module}.{part}", self._float(f"{name}.{part}")

    def _float(self, name: str) -> np.ndarray:
        return self.file.raw(name).view(np.float32).reshape(self.file.info(name)[1])

    def _bf16(self, name: str) -> np.ndarray:
        return _from_bf16(self.file.raw(name).view(np.uint16).reshape(self.file.info(name)[1]))


def _from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def unpack(engine: Path, directory: Path, dequantize: bool = False) -> None:
    """Writes the checkpoint. Needs torch and safetensors."""
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, array in Unpacker(EngineFile(str(engine)), dequantize).tensors():
        tensor = torch.from_numpy(np.array(array, order="C"))  # a copy: views of the file are read-only
        tensors[name] = tensor.to(torch.bfloat16) if tensor.dtype == torch.float32 else tensor
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    for path in HERE.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, directory / path.name)
    if not dequantize:
        config = json.loads((directory / "config.json").read_text())
        weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
            "ignore": ["re:.*lm_head", "re:.*router", "re:.*vision_model.*", "re:.*multi_modal_projector.*"],
        }
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--engine", type=Path, help="default: the one that ships with llama4rt")
    parser.add_argument("--dequantize", action="store_true", help="bf16 everywhere")
    args = parser.parse_args()
    unpack(args.engine or engine_path(), args.directory, args.dequantize)


if __name__ == "__main__":
    main()
