"""A training forward that shares the stock module's parameters and computes the same function, 3-4 times faster.

Three things make it fast: only the chosen expert of a token is computed; a chunk layer is causal attention over a
reshaped batch, so no mask is ever built; and the output head runs at supervised positions only. Sequences must all
be whole chunks long.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class FastModel:
    """Computes with the parameters of a Llama4ForConditionalGeneration; holds none of its own."""

    def __init__(self, model: Any, max_length: int = 8192) -> None:
        text = model.config.text_config
        self.model = model
        self.text = text
        self.heads, self.kv_heads, self.head_dim = (
            text.num_attention_heads,
            text.num_key_value_heads,
            text.head_dim,
        )
        theta = text.rope_parameters["rope_theta"]
        frequency = 1.0 / theta ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        angle = torch.arange(max_length).float()[:, None] * frequency
        self.cos, self.sin = angle.cos(), angle.sin()
        steps = torch.floor((torch.arange(max_length).float() + 1) / text.floor_scale)
        self.temperature = 1 + text.attn_scale * torch.log1p(steps)
        self.bf16 = False  # large products from bf16 operands, twice as fast where the CPU has them
        self.loads: list[Tensor] = []  # per layer, the share of tokens each expert got in the last forward

    def hidden(self, ids: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Final hidden states [B, T, hidden] and the balance term, a scalar near 1 when experts share evenly.

        ids [B, T] int64; features [patch tokens in reading order over the batch, hidden] or None.
        """
        language = self.model.language_model.model
        x = language.embed_tokens(ids)
        if features is not None:
            where = ids == self.model.config.image_token_id
            x = x.masked_scatter(where[..., None], features.to(x.dtype))
        balance = x.new_zeros(())
        self.loads = []
        for index, layer in enumerate(language.layers):
            x = x + self._attention(layer.self_attn, self._norm(layer.input_layernorm, x), index)
            y, term = self._moe(layer.feed_forward, self._norm(layer.post_attention_layernorm, x))
            x = x + y
            balance = balance + term
        return self._norm(language.norm, x), balance / len(language.layers)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._linear(hidden, self.model.language_model.lm_head.weight)

    def tile_features(self, pixels: Tensor) -> Tensor:
        """[tiles, 3, side, side] to [tiles, tokens, hidden of the text part]."""
        return self.model.multi_modal_projector(self.model.vision_model(pixels).last_hidden_state)

    def _norm(self, norm: Any, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)

    def _linear(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.bf16:
            return F.linear(x, weight)
        shape = x.shape
        return _Bf16Linear.apply(x.reshape(-1, shape[-1]), weight).view(*shape[:-1], -1)

    def _attention(self, attention: Any, x: Tensor, index: int) -> Tensor:
        batch, length, _ = x.shape
        qkv = self._linear(
            x, torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        ).view(batch, length, self.heads + 2 * self.kv_heads, self.head_dim)
        qk, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], dim=2)
        if attention.use_rope:
            # Rotation keeps the norm, so norm first and rotate after is the same function.
            qk = F.rms_norm(qk, (self.head_dim,), None, self.text.rms_norm_eps)
            cos, sin = self.cos[:length, None], self.sin[:length, None]
            even, odd = qk[..., 0::2], qk[..., 1::2]
            qk = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(3)
        q, k = qk.split([self.heads, self.kv_heads], dim=2)
        if not attention.use_rope:
            q = q * self.temperature[:length, None, None]
        chunk = self.text.attention_chunk_size
        if self.text.layer_types[index] == "chunked_attention" and length > chunk:
            q, k, v = (t.reshape(-1, chunk, t.shape[2], self.head_dim) for t in (q, k, v))
        groups = self.heads // self.kv_heads
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim)
        return self._linear(y, attention.o_proj.weight)

    def _moe(self, moe: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        scores = F.linear(x, moe.router.weight)
        value, expert = scores.max(-1)
        order = torch.argsort(expert)
        counts = torch.bincount(expert, minlength=scores.shape[-1])
        routed = x[order] * torch.sigmoid(value[order])[:, None]
        parts = []
        for e, rows in enumerate(routed.split(counts.tolist())):
            if len(rows):
                gate, up = self._linear(rows, moe.experts.gate_up_proj[e].t()).chunk(2, dim=-1)
                parts.append(self._linear(up * F.silu(gate), moe.experts.down_proj[e].t()))
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        shared = moe.shared_expert
        gate, up = self._linear(x, torch.cat([shared.gate_proj.weight, shared.up_proj.weight])).chunk(
            2, dim=-1
        )
        y = self._linear(F.silu(gate) * up, shared.down_proj.weight) + torch.cat(parts)[back]
        share = counts.float() / len(order)
        self.loads.append(share)
        balance = scores.shape[-1] * (share * scores.softmax(-1).mean(0)).sum()
        return y.view(shape), balance


class _Bf16Linear(torch.autograd.Function):
    """x [n, in] fp32 times weight [out, in] fp32: both rounded to bf16, sums in fp32, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x16, w16 = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(x16, w16)
        return (x16 @ w16.t()).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x16, w16 = ctx.saved_tensors
        g16 = gradient.bfloat16()
        return (g16 @ w16).float(), (g16.t() @ x16).float()
