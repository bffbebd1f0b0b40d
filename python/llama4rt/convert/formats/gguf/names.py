"""GGUF's names of tensors -> Hugging Face's, and which rows of a stored tensor each is.

Nothing is permuted: writers of both architectures put the rows of q and k in the order of adjacent pairs, Llama 4's.
Names that are not known stay as they are, so that the mapping lists them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from llama4rt.convert.formats.gguf.header import StoredTensor

_TEXT = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_TEXT_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "feed_forward.gate_proj.weight",
    "ffn_up.weight": "feed_forward.up_proj.weight",
    "ffn_down.weight": "feed_forward.down_proj.weight",
    "ffn_gate_inp.weight": "feed_forward.router.weight",
    "ffn_gate_shexp.weight": "feed_forward.shared_expert.gate_proj.weight",
    "ffn_up_shexp.weight": "feed_forward.shared_expert.up_proj.weight",
    "ffn_down_shexp.weight": "feed_forward.shared_expert.down_proj.weight",
}
# Stacks [E, out, in] of all experts.
_TEXT_STACK = {
    "ffn_gate_exps.weight": "feed_forward.experts.{expert}.gate_proj.weight",
    "ffn_up_exps.weight": "feed_forward.experts.{expert}.up_proj.weight",
    "ffn_down_exps.weight": "feed_forward.experts.{expert}.down_proj.weight",
}
_QKV = "attn_qkv.weight"  # the rows of q, of k and of v, in newer files
_VISION = {
    "v.patch_embd.weight": "vision_model.patch_embedding.linear.weight",
    "v.class_embd": "vision_model.class_embedding",
    "v.position_embd.weight": "vision_model.positional_embedding_vlm",
    "v.pre_ln.weight": "vision_model.layernorm_pre.weight",
    "v.pre_ln.bias": "vision_model.layernorm_pre.bias",
    "v.post_ln.weight": "vision_model.layernorm_post.weight",
    "v.post_ln.bias": "vision_model.layernorm_post.bias",
    "mm.model.mlp.1.weight": "vision_model.vision_adapter.mlp.fc1.weight",
    "mm.model.mlp.2.weight": "vision_model.vision_adapter.mlp.fc2.weight",
    "mm.model.fc.weight": "multi_modal_projector.linear_1.weight",
}
_VISION_LAYER = {
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
_WEIGHT, _SCALE, INPUT_SCALE = ".weight", ".scale", ".input_scale"
_MAX_EXPERTS = 4096  # of an engine file
_BLOCK = re.compile(r"(v\.)?blk\.(0|[1-9]\d{0,5})\.(.+)")


@dataclass(frozen=True)
class Slice:
    """Rows of a stored tensor that are a tensor of their own."""

    stored: str  # the name in the file
    first: int  # row, counted along all axes but the last
    shape: tuple[int, ...]  # of the tensor of its own; all axes but the last are rows
    expert: int | None = None  # of a stack
    scale: str | None = None  # the name of a tensor with one factor more, or one for each expert

    @property
    def rows(self) -> int:
        count = 1
        for size in self.shape[:-1]:
            count *= size
        return count

    @property
    def place(self) -> str:
        """For messages."""
        return self.stored if self.expert is None else f"{self.stored}[{self.expert}]"


def text_names(tensors: Mapping[str, StoredTensor], q_rows: int, kv_rows: int) -> dict[str, Slice]:
    """q_rows, kv_rows: outputs of q, and of k and v each. Expects the tensors of one model's decoder."""
    factors = {name for name in tensors if _factors_fit(name, tensors)}
    unused = {name for name in tensors if name.endswith(INPUT_SCALE)}
    names: dict[str, Slice] = {}
    for stored, tensor in tensors.items():
        if stored in factors or stored in unused:
            continue
        scale = stored.removesuffix(_WEIGHT) + _SCALE
        for name, piece in _text_slices(stored, tensor, q_rows, kv_rows):
            names[name] = replace(piece, scale=scale) if scale in factors else piece
    return names


def _factors_fit(name: str, tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether a tensor is the factors of a matrix or stack beside it."""
    of = tensors.get(name.removesuffix(_SCALE) + _WEIGHT)
    if not name.endswith(_SCALE) or of is None or of.kind.block is None:
        return False
    experts = of.shape[0] if len(of.shape) == 3 else 1
    return tensors[name].shape == (experts,) and tensors[name].kind.name == "F32"


def _text_slices(stored: str, tensor: StoredTensor, q_rows: int, kv_rows: int) -> Iterator[tuple[str, Slice]]:
    block = _BLOCK.fullmatch(stored)
    layer, rest = (f"model.layers.{block[2]}.", block[3]) if block and not block[1] else ("", "")
    shape = tensor.shape
    if rest in _TEXT_STACK and len(shape) == 3 and shape[0] <= _MAX_EXPERTS:
        for expert in range(shape[0]):
            name = layer + _TEXT_STACK[rest].format(expert=expert)
            yield name, Slice(stored, expert * shape[1], shape[1:], expert)
    elif rest == _QKV and len(shape) == 2 and shape[0] == q_rows + 2 * kv_rows:
        first = 0
        for part, count in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            yield f"{layer}self_attn.{part}_proj.weight", Slice(stored, first, (count, shape[1]))
            first += count
    else:
        name = layer + _TEXT_LAYER[rest] if rest in _TEXT_LAYER else _TEXT.get(stored, stored)
        yield name, Slice(stored, 0, shape)


def vision_names(tensors: Mapping[str, StoredTensor]) -> dict[str, Slice]:
    """Of the tensors of a vision file."""
    names: dict[str, Slice] = {}
    for stored, tensor in tensors.items():
        shape = tensor.shape
        block = _BLOCK.fullmatch(stored)
        part, _, kind = block[3].rpartition(".") if block and block[1] else ("", "", "")
        if block and part in _VISION_LAYER and kind in ("weight", "bias"):
            name = f"vision_model.model.layers.{block[2]}.{_VISION_LAYER[part]}.{kind}"
        else:
            name = _VISION.get(stored, stored)
        names[name] = Slice(stored, 0, shape)
    return names


__all__ = ["INPUT_SCALE", "Slice", "text_names", "vision_names"]
