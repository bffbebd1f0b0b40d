"""Tiny random Llama 4 checkpoints, written by transformers itself, and the transformers model as an oracle.

Each kind is one corner of the architecture. All weights are bf16 values whatever dtype they are saved in, so that a
bf16 engine holds exactly the numbers the oracle computes with. Trained weights are not this file's business, and these
checkpoints speak token ids only, unless write_byte_tokenizer() gives them letters.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Scout's rope rule (factor 16, no smooth band) with an original length short enough that tiny models use both branches.
SCOUT_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
}
# The general rule: a smooth band between the kept and the divided frequencies.
SMOOTH_ROPE = SCOUT_ROPE | {"factor": 8.0, "high_freq_factor": 4.0}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 500000.0}

BASE: dict[str, Any] = {
    "vocab_size": 331,  # not a multiple of 16
    "hidden_size": 64,
    "intermediate_size": 48,
    "intermediate_size_mlp": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "attention_chunk_size": 16,
    "no_rope_layer_interval": 4,
    "use_qk_norm": True,
    "rope_parameters": PLAIN_ROPE,
    "attn_temperature_tuning": True,
    "attn_scale": 0.1,
    "floor_scale": 8,  # so that the temperature acts within a test's few tokens
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": None,
}
# Vision kinds use the special ids of a tokenizer of 256 single bytes (write_byte_tokenizer): the published ids, with
# 256 in the place of 200,000.
FIRST_SPECIAL = 256
IMAGE_IDS = {
    "boi_token_index": FIRST_SPECIAL + 80,  # <|image_start|>
    "eoi_token_index": FIRST_SPECIAL + 81,
    "image_token_index": FIRST_SPECIAL + 92,  # <|patch|>
}
VISION_TEXT = {"vocab_size": 361, "bos_token_id": FIRST_SPECIAL, "eos_token_id": [257, 264]}
MAX_TILES = 16

VISION: dict[str, Any] = {  # 4 tokens per tile
    "hidden_size": 176,
    "num_attention_heads": 2,  # heads of 88, as the published ones
    "num_hidden_layers": 2,
    "intermediate_size": 704,
    "image_size": 28,
    "patch_size": 7,  # 147 numbers per patch: odd
    "vision_output_dim": 52,
    "projector_input_dim": 52,
    "projector_output_dim": 52,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
# A grid of 6 x 6 and 9 tokens per tile; heads of 20; another theta.
VISION_GRID6 = VISION | {
    "hidden_size": 60,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "intermediate_size": 240,
    "image_size": 84,
    "patch_size": 14,
    "vision_output_dim": 64,
    "projector_input_dim": 64,
    "projector_output_dim": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}
# Every reduction but the patches' is whole groups of 128. One token per tile.
VISION_INT8 = VISION | {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "patch_size": 14,
    "vision_output_dim": 128,
    "projector_input_dim": 128,
    "projector_output_dim": 128,
}
VISION_MICRO = VISION | {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "image_size": 8,
    "patch_size": 2,
    "vision_output_dim": 12,
    "projector_input_dim": 12,
    "projector_output_dim": 12,
}


@dataclass(frozen=True)
class Kind:
    """One corner of the architecture: what differs from BASE, and how the checkpoint is stored."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    dtype: str = "bfloat16"  # of the stored tensors: bfloat16, float16 or float32
    vision: dict[str, Any] | None = None  # Llama4ForConditionalGeneration, with this vision tower
    max_shard_size: str = "5GB"
    logits_gain: float = 2.0  # logits reach about 2.5 times this

    @property
    def chunk(self) -> int:
        """The attention chunk, or a length to test by where there is none."""
        return int((BASE | self.config)["attention_chunk_size"] or 16)

    @property
    def vocab_size(self) -> int:
        return int((BASE | self.config)["vocab_size"])

    @property
    def plain_ids(self) -> int:
        """Ids from here on may be special."""
        return FIRST_SPECIAL if self.vision else self.vocab_size


KINDS = {
    kind.name: kind
    for kind in [
        Kind("scout", {"rope_parameters": SCOUT_ROPE, "num_hidden_layers": 8}, seed=1),
        Kind(
            "scout_vision",
            VISION_TEXT | {"rope_parameters": SCOUT_ROPE, "num_attention_heads": 5, "num_key_value_heads": 1},
            seed=2,
            vision=VISION,
            max_shard_size="160KB",
        ),
        Kind(
            "maverick_vision",
            VISION_TEXT
            | {
                "interleave_moe_layer_step": 2,
                "use_qk_norm": False,
                "num_local_experts": 16,
                "num_hidden_layers": 4,
            },
            seed=21,
            dtype="float32",
            vision=VISION_GRID6,
        ),
        Kind(
            "maverick",
            {
                "interleave_moe_layer_step": 2,
                "use_qk_norm": False,
                "num_local_experts": 16,
                "num_hidden_layers": 8,
            },
            seed=3,
            dtype="float32",
        ),
        Kind(
            "top2", {"num_experts_per_tok": 2, "num_local_experts": 8, "rope_parameters": SMOOTH_ROPE}, seed=4
        ),
        Kind(
            "odd_heads",  # 3 query heads per kv head, head_dim neither a power of two nor of 16, odd widths
            {
                "num_attention_heads": 6,
                "num_key_value_heads": 2,
                "head_dim": 24,
                "hidden_size": 72,
                "intermediate_size": 40,
                "num_local_experts": 3,
                "vocab_size": 257,
            },
            seed=5,
            dtype="float16",
        ),
        Kind(
            "one_kv_head",  # 5 query heads per kv head, as Scout; head_dim 80
            {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 80, "hidden_size": 80},
            seed=6,
        ),
        Kind("chunk64", {"attention_chunk_size": 64, "rope_parameters": SCOUT_ROPE}, seed=16),
        Kind("no_chunk", {"attention_chunk_size": None, "rope_parameters": SCOUT_ROPE}, seed=7),
        Kind("dense", {"moe_layers": [], "attention_chunk_size": None, "use_qk_norm": False}, seed=8),
        Kind("dense_chunked", {"moe_layers": [], "attention_chunk_size": 32}, seed=9),
        Kind("tied", {"tie_word_embeddings": True, "num_hidden_layers": 4}, seed=10),
        Kind("no_temperature", {"attn_temperature_tuning": False, "num_hidden_layers": 4}, seed=11),
        Kind("all_rope", {"no_rope_layers": [1, 1, 1, 1], "num_hidden_layers": 4}, seed=12),
        Kind(
            "mixed_layers",  # rotation and chunking disagree, so rope must use absolute positions
            {
                "num_hidden_layers": 4,
                "layer_types": [
                    "chunked_attention",
                    "full_attention",
                    "chunked_attention",
                    "chunked_attention",
                ],
            },
            seed=15,
        ),
        Kind(
            "all_nope",
            {"no_rope_layers": [0, 0, 0], "no_rope_layer_interval": 1, "num_hidden_layers": 3},
            seed=13,
        ),
        Kind(
            "real_floor_scale",  # the released models' temperature step, at positions from 8191
            {
                "num_hidden_layers": 2,
                "no_rope_layer_interval": 2,
                "moe_layers": [],
                "hidden_size": 32,
                "num_attention_heads": 2,
                "floor_scale": 8192,
                "max_position_embeddings": 16384,
            },
            seed=17,
        ),
        Kind(
            "micro",  # the smallest that has every part, for tests that try every byte of its engine file
            {
                "vocab_size": 40,
                "hidden_size": 32,
                "intermediate_size": 32,
                "intermediate_size_mlp": 32,
                "num_hidden_layers": 2,
                "no_rope_layer_interval": 2,
                "interleave_moe_layer_step": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "num_local_experts": 2,
            },
            seed=20,
        ),
        Kind(
            "micro_vision",  # 4 tokens per tile
            VISION_TEXT
            | {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "num_local_experts": 2,
            },
            seed=22,
            vision=VISION_MICRO,
        ),
        Kind("one_moe_layer", {"num_hidden_layers": 1, "intermediate_size": 64}, seed=18),
        Kind(
            "int4",  # every reduction is a whole number of groups of 128
            {
                "hidden_size": 128,
                "intermediate_size": 128,
                "intermediate_size_mlp": 256,
                "num_attention_heads": 8,
                "interleave_moe_layer_step": 2,
                "num_hidden_layers": 4,
                "rope_parameters": SCOUT_ROPE,
                "attention_chunk_size": 32,
            },
            seed=14,
        ),
        Kind(
            "int4_vision",
            VISION_TEXT
            | {
                "hidden_size": 128,
                "intermediate_size": 128,
                "num_attention_heads": 8,
                "num_hidden_layers": 2,
            },
            seed=19,
            vision=VISION_INT8,
        ),
    ]
}


def write_checkpoint(kind: Kind, directory: Path) -> Path:
    """Saves the kind's random model under `directory` in Hugging Face's layout and returns the directory."""
    import torch
    from transformers import (
        Llama4Config,
        Llama4ForCausalLM,
        Llama4ForConditionalGeneration,
        Llama4TextConfig,
    )

    text = BASE | kind.config
    model: PreTrainedModel
    if kind.vision:
        config = Llama4Config(text_config=text, vision_config=kind.vision, **IMAGE_IDS)
        model = Llama4ForConditionalGeneration(config)
    else:
        model = Llama4ForCausalLM(Llama4TextConfig(**text))
    randomize(model, kind.seed, kind.logits_gain, tied=bool(text.get("tie_word_embeddings")))
    dtype = getattr(torch, kind.dtype)
    # The tensors are cast, never the model: .to(bfloat16) would also cast its rope tables.
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    if text.get("tie_word_embeddings"):
        del state["lm_head.weight"]
    model.config.dtype = dtype
    model.save_pretrained(directory, state_dict=state, max_shard_size=kind.max_shard_size)
    if kind.vision:
        write_preprocessor_config(directory, kind.vision["image_size"])
    return directory


def write_preprocessor_config(directory: Path, tile: int, max_tiles: int = MAX_TILES) -> None:
    """What transformers' Llama4ImageProcessor saves of itself."""
    settings = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Llama4ImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "max_patches": max_tiles,
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "resize_to_max_canvas": False,
        "size": {"height": tile, "width": tile},
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=2))


def write_byte_tokenizer(directory: Path) -> None:
    """A tokenizer.model whose ids 0..255 are the single bytes; the special tokens follow from FIRST_SPECIAL on."""
    ranks = (base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(FIRST_SPECIAL))
    (directory / "tokenizer.model").write_bytes(b"".join(ranks))


def randomize(model: PreTrainedModel, seed: int, logits_gain: float, tied: bool) -> None:
    """Fills the model with seeded bf16 values scaled so that activations stay of order one from layer to layer."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight") or "layernorm" in name:
                values = 1 + 0.1 * values
            elif parameter.dim() < 2:
                values *= 0.1
            elif "embed_tokens" in name:
                values *= logits_gain * parameter.shape[1] ** -0.5 if tied else 1.0
            elif "experts." in name:  # stored [E, in, out]
                values *= parameter.shape[1] ** -0.5
            elif "lm_head" in name:
                values *= logits_gain * parameter.shape[1] ** -0.5
            elif "router" in name:  # wide margins: a rounding error should not change an expert
                values *= 2 * parameter.shape[1] ** -0.5
            else:
                values *= parameter.shape[-1] ** -0.5
            # Below 2^-14 fp16 starts to lose bits of a bf16 value.
            values = torch.where(values.abs() < 2**-14, torch.zeros_like(values), values)
            parameter.copy_(values.to(torch.bfloat16).float())


def load_oracle(
    directory: str | os.PathLike[str], dtype: str = "float32", attention: str = "eager"
) -> PreTrainedModel:
    """The checkpoint in transformers, ready to compute."""
    import torch
    from transformers import AutoConfig, Llama4ForCausalLM, Llama4ForConditionalGeneration

    torch.set_num_threads(1)  # tiny matrices: waking threads costs more than the work
    config = AutoConfig.from_pretrained(directory)
    text = getattr(config, "text_config", config)
    if text.attention_chunk_size is None:
        # transformers cannot build its masks from null; one huge chunk is the same.
        text.attention_chunk_size = 1 << 20
    cls: Any = Llama4ForConditionalGeneration if config.model_type == "llama4" else Llama4ForCausalLM
    model = cls.from_pretrained(
        directory, config=config, dtype=getattr(torch, dtype), attn_implementation=attention
    )
    return model.eval()  # type: ignore[no-any-return]


def oracle_logits(model: PreTrainedModel, ids: Sequence[int], tiles: np.ndarray | None = None) -> np.ndarray:
    """float32 [tokens, vocab]: the whole prompt in one forward pass, batch 1, no padding, no cache.

    tiles: uint8 [n, S, S, 3], whose features take the places of the prompt's patch tokens.
    """
    import torch

    from tools import stock_model

    prompt = torch.tensor([list(ids)])
    with torch.no_grad():
        if hasattr(model, "vision_model"):  # not called as a whole: tools/stock_model.py says why
            pixels = None if tiles is None else torch.from_numpy(normalized(tiles)).to(model.dtype)
            logits = stock_model.logits(model, prompt, pixels)
        else:
            assert tiles is None
            logits = model(input_ids=prompt, use_cache=False).logits
    return np.asarray(logits[0].float())


def oracle_features(model: PreTrainedModel, tiles: np.ndarray) -> np.ndarray:
    """float32 [n * tokens per tile, hidden]: what replaces the embeddings of patch tokens. tiles as above."""
    import torch

    from tools import stock_model

    with torch.no_grad():
        pixels = torch.from_numpy(normalized(tiles)).to(model.dtype)
        return np.asarray(stock_model.image_features(model, pixels).float())


def normalized(tiles: np.ndarray) -> np.ndarray:
    """float32 [n, 3, S, S] of uint8 [n, S, S, 3], rounded to bf16 after each step as the published processor does."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))
    scaled = (pixels * torch.tensor(1 / 255, dtype=torch.float32)).to(torch.bfloat16)
    return np.asarray(((scaled - 0.5).to(torch.bfloat16) * 2).to(torch.bfloat16).float())


def random_tiles(kind: Kind, count: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, S, S, 3] of noise."""
    assert kind.vision
    side = kind.vision["image_size"]
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def patch_ids(kind: Kind, count: int) -> list[int]:
    """The patch tokens of `count` tiles."""
    assert kind.vision
    return [IMAGE_IDS["image_token_index"]] * (
        count * (kind.vision["image_size"] // kind.vision["patch_size"]) ** 2 // 4
    )


def oracle_greedy(model: PreTrainedModel, ids: Sequence[int], max_tokens: int) -> list[int]:
    """What transformers' own generate() continues with; end tokens are not special."""
    import torch

    prompt = torch.tensor([list(ids)])
    # Not a whole model with a tower: tools/stock_model.py says why.
    decoder: Any = getattr(model, "language_model", model)
    with torch.no_grad():
        out = decoder.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=max_tokens,
            min_new_tokens=max_tokens,
            eos_token_id=None,
            pad_token_id=0,
        )
    return [int(t) for t in out[0, len(ids) :]]


def random_ids(kind: Kind, length: int, seed: int = 0) -> list[int]:
    """Seeded token ids that avoid the special ones."""
    return np.random.default_rng(seed).integers(8, kind.plain_ids, length).tolist()  # type: ignore[no-any-return]


def interesting_lengths(kind: Kind) -> list[int]:
    c = kind.chunk
    return [1, c - 1, c, c + 1, 3 * c + 5]


def write_compressed(
    source: Path,
    directory: Path,
    *,
    symmetric: bool,
    group_size: int,
    skip: Sequence[str] = ("router", "lm_head", "embed_tokens"),
) -> Path:
    """Rewrites a tiny checkpoint as compressed-tensors `pack-quantized` int4, quantised and packed by that package.

    Experts become ordinary [out, in] linears, one per expert, as published checkpoints have them. Tensors whose name
    holds a word of `skip` stay as they are. Beside it, in `directory`-meant, goes an ordinary fp32 checkpoint of the
    values those codes stand for, (q - zero) * scale without a further rounding: what an engine must compute with.
    """
    import torch
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams
    from safetensors.torch import load_file, save_file

    args = QuantizationArgs(
        num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=group_size
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    packed: dict[str, torch.Tensor] = {}
    meant: dict[str, torch.Tensor] = {}

    def compress(module: str, weight: torch.Tensor) -> torch.Tensor:
        """Adds one linear [out, in] to `packed` and returns the values it means."""
        groups = weight.float().unflatten(1, (-1, group_size))
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
        scale = scale.to(torch.bfloat16)
        local = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
        compressed = PackedQuantizationCompressor.compress(local, scheme)
        packed.update({f"{module}.{name}": tensor.contiguous() for name, tensor in compressed.items()})
        codes = unpack_from_int32(compressed["weight_packed"], 4, weight.shape).float()
        offset = torch.zeros_like(scale).float() if symmetric else zero.float()
        values = (codes.unflatten(1, (-1, group_size)) - offset[..., None]) * scale.float()[..., None]
        return values.flatten(1)

    for shard in sorted(source.glob("*.safetensors")):
        for name, tensor in load_file(shard).items():
            if (
                tensor.dim() < 2
                or "vision" in name
                or "projector" in name
                or any(word in name for word in skip)
            ):
                packed[name], meant[name] = tensor, tensor.float()
            elif name.endswith("experts.gate_up_proj"):  # [E, H, 2F]
                prefix = name.removesuffix(".gate_up_proj")
                halves = [
                    [
                        compress(f"{prefix}.{e}.{part}_proj", half.T.contiguous())
                        for e, half in enumerate(stack)
                    ]
                    for part, stack in zip(("gate", "up"), tensor.chunk(2, dim=2), strict=True)
                ]
                meant[name] = torch.cat(
                    [torch.stack(half).transpose(1, 2) for half in halves], dim=2
                ).contiguous()
            elif name.endswith("experts.down_proj"):  # [E, F, H]
                prefix = name.removesuffix(".down_proj")
                each = [compress(f"{prefix}.{e}.down_proj", m.T.contiguous()) for e, m in enumerate(tensor)]
                meant[name] = torch.stack(each).transpose(1, 2).contiguous()
            else:
                meant[name] = compress(name.removesuffix(".weight"), tensor)

    config = json.loads((source / "config.json").read_text())
    beside = directory.with_name(f"{directory.name}-meant")
    for where, tensors in ((directory, packed), (beside, meant)):
        where.mkdir(parents=True)
        save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})
        shutil.copy(source / "generation_config.json", where)
        (where / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 4,
                    "type": "int",
                    "symmetric": symmetric,
                    "strategy": "group",
                    "group_size": group_size,
                },
            }
        },
        "ignore": ["lm_head", "re:.*router", "re:.*vision_model.*", "re:.*multi_modal_projector.*"],
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory
