"""The demo model's dimensions, and how it starts: a stock Llama4ForConditionalGeneration.

Every contracted dimension of the text part is a multiple of 128, the group of int4 weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Llama4ForConditionalGeneration

CHUNK = 128  # tokens; a picture of four tiles, a question and its answer fit in one chunk
TILE = 48  # pixels; the side of a tile
MAX_TILES = 4  # of one picture, before the global tile
TOKENS_PER_TILE = 9  # 6 x 6 patches of 8 pixels, shuffled 2 x 2

SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden": 128, "layers": 4, "inner": 256, "vision_out": 128},
    "medium": {"hidden": 256, "layers": 4, "inner": 256, "vision_out": 256},
}


def text_config(size: str, vocab_size: int, special: dict[str, int]) -> dict[str, Any]:
    """config.json's text part; `special` gives the ids of special tokens by name."""
    dims = SIZES[size]
    return {
        "vocab_size": vocab_size,
        "hidden_size": dims["hidden"],
        "intermediate_size": dims["inner"],
        "intermediate_size_mlp": 2 * dims["inner"],
        "num_hidden_layers": dims["layers"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,  # qk-norm bounds a logit by sqrt(head_dim): smaller heads could not attend sharply
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "attention_chunk_size": CHUNK,
        "no_rope_layer_interval": 4,
        "use_qk_norm": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attn_temperature_tuning": True,
        "attn_scale": 0.1,
        "floor_scale": 128,  # so that the temperature acts at the lengths this model is asked about
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 16384,
        "tie_word_embeddings": False,
        "bos_token_id": special["<|begin_of_text|>"],
        "eos_token_id": [special["<|end_of_text|>"], special["<|eom|>"], special["<|eot|>"]],
        "pad_token_id": special["<|finetune_right_pad|>"],
    }


def vision_config(size: str) -> dict[str, Any]:
    """config.json's vision part: a tile of 48 pixels becomes 9 tokens."""
    out = SIZES[size]["vision_out"]
    return {
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 512,  # also the input of the adapter: four times hidden_size
        "image_size": TILE,
        "patch_size": 8,
        "vision_output_dim": out,
        "projector_input_dim": out,
        "projector_output_dim": out,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }


def new_model(
    size: str, vocab_size: int, special: dict[str, int], seed: int
) -> Llama4ForConditionalGeneration:
    """A freshly initialised model in fp32."""
    import torch
    from transformers import Llama4Config, Llama4ForConditionalGeneration

    config = Llama4Config(
        text_config=text_config(size, vocab_size, special),
        vision_config=vision_config(size),
        image_token_index=special["<|patch|>"],
        boi_token_index=special["<|image_start|>"],
        eoi_token_index=special["<|image_end|>"],
    )
    torch.manual_seed(seed)
    model = Llama4ForConditionalGeneration(config)
    initialise(model, seed)
    add_neighbour_heads(model, seed)
    return model.float()


def initialise(model: Llama4ForConditionalGeneration, seed: int) -> None:
    """Normal weights of std 1/sqrt(fan-in); what adds to the residual stream starts smaller."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight") or "layernorm" in name:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            values = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                values.zero_()
            elif "embed_tokens" in name:
                values *= 0.5
            elif "embedding" in name and parameter.dim() < 3 and "patch" not in name:
                values *= 0.3  # class and position embeddings of the tower
            elif "experts." in name:  # stored [expert, in, out]
                values *= parameter.shape[1] ** -0.5
            else:
                values *= parameter.shape[-1] ** -0.5
            if any(part in name for part in ("o_proj", "down_proj", "fc2")) and "adapter" not in name:
                values *= 0.4
            parameter.copy_(values)


def add_neighbour_heads(model: Llama4ForConditionalGeneration, seed: int = 0) -> None:
    """Makes two heads of the first layer look one and two tokens back, whatever the token.

    Embeddings share no direction, so no head can attend by distance alone until training has made one; without such
    heads a model of this size stays for thousands of steps at guessing among the facts of a text. Here every
    embedding gets one common component, which nothing else reads, and the two heads' queries and keys read only it.
    """
    import torch

    language = model.language_model.model
    text = model.config.text_config
    dim, hidden = text.head_dim, text.hidden_size
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(hidden, generator=generator)
    common /= common.norm()
    with torch.no_grad():
        table = language.embed_tokens.weight
        table -= (table @ common)[:, None] * common
        table += 2.0 * common
        for layer in language.layers:
            attention, moe = layer.self_attn, layer.feed_forward
            shared = moe.shared_expert
            linears = [attention.q_proj, attention.k_proj, attention.v_proj, moe.router]
            for linear in [*linears, shared.gate_proj, shared.up_proj]:
                linear.weight -= (linear.weight @ common)[:, None] * common
            gate_up = moe.experts.gate_up_proj  # [expert, in, out]
            gate_up -= common[None, :, None] * torch.einsum("h,eho->eo", common, gate_up)[:, None, :]
        head = model.language_model.lm_head.weight
        head -= (head @ common)[:, None] * common

        # Fast rotations only: they tell neighbours apart.
        share = torch.tensor([0.35, 0.25, 0.2, 0.2]).sqrt()
        angle = text.rope_parameters["rope_theta"] ** (-torch.arange(4.0) * 2 / dim)

        def pattern(back: int) -> torch.Tensor:
            """A vector whose rotated product with pattern(0) peaks where the key is `back` tokens behind."""
            values = torch.zeros(dim)
            values[0:8:2] = share * torch.cos(angle * back)
            values[1:8:2] = -share * torch.sin(angle * back)
            return values

        attention = language.layers[0].self_attn
        for head_index, back in enumerate((1, 2)):
            rows = slice(head_index * dim, (head_index + 1) * dim)
            attention.q_proj.weight[rows] = 4.0 * pattern(back)[:, None] * common
            # As large as a token's own embedding, so that the neighbour can still be read three layers up.
            fresh = torch.randn(hidden, dim, generator=generator) * 0.2
            attention.o_proj.weight[:, rows] = fresh
        attention.k_proj.weight[:dim] = 4.0 * pattern(0)[:, None] * common
        values = torch.randn(dim, hidden, generator=generator) * hidden**-0.5
        attention.v_proj.weight[:dim] = values - (values @ common)[:, None] * common


def keep_neighbour_heads(model: Llama4ForConditionalGeneration) -> None:
    """Lets no gradient reach what add_neighbour_heads made: at a high learning rate noise would blur it."""
    text = model.config.text_config
    attention = model.language_model.model.layers[0].self_attn

    def without(rows: int) -> Any:
        def mask(gradient: Any) -> Any:
            gradient = gradient.clone()
            gradient[:rows] = 0
            return gradient

        return mask

    attention.q_proj.weight.register_hook(without(2 * text.head_dim))
    attention.k_proj.weight.register_hook(without(text.head_dim))
