"""What a GGUF file says of its decoder, common to both architectures, in the words of a config.json.

Every key of the architecture is known here or refused: a setting that is not computed would be another model.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llama4rt.convert.formats.gguf.header import StoredTensor
from llama4rt.convert.formats.gguf.metadata import Metadata
from llama4rt.convert.formats.gguf.rope_factors import llama3_rule
from llama4rt.convert.stored_rows import Values
from llama4rt.errors import CheckpointError

_MAX = 1 << 40
_MAX_LAYERS = 1024  # of an engine file
_DEFAULT_THETA = 10_000.0  # what a missing rope.freq_base means
ROPE_FREQS = "rope_freqs.weight"
# Keys that common_config() and its callers read.
_READ = frozenset(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "vocab_size",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
        "rope.dimension_count",
        "rope.freq_base",
    }
)
# Keys that change nothing at these values, and what they would change at others.
_NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "attention.causal": ((True,), "attention here is causal"),
    "attention.clamp_kqv": ((0.0,), "no query, key or value is clamped"),
    "attention.max_alibi_bias": ((0.0,), "attention has no bias by distance"),
    "attention.scale": ((0.0,), "scores are scaled by the square root of the head's width"),
    "embedding_scale": ((1.0,), "embeddings are not scaled"),
    "logit_scale": ((1.0,), "logits are not scaled"),
    "residual_scale": ((1.0,), "residuals are not scaled"),
    "use_parallel_residual": ((False,), "attention and MLP follow each other"),
    "rope.scaling.type": (("none",), "of the scalings of RoPE only llama3's, rope_freqs.weight, is computed"),
    "rope.scaling.factor": (
        (1.0, 0.0),
        "of the scalings of RoPE only llama3's, rope_freqs.weight, is computed",
    ),
    "rope.scaling.attn_factor": ((1.0,), "RoPE does not scale attention"),
    "rope.scaling.finetuned": ((True, False), ""),
    "rope.scale_linear": ((1.0,), "of the scalings of RoPE only llama3's, rope_freqs.weight, is computed"),
    "expert_weights_scale": ((0.0, 1.0), "scores of experts are not scaled"),
    "expert_weights_norm": ((False,), "scores of experts are not normalised"),
    "expert_group_count": ((0, 1), "experts have no groups"),
    "expert_group_used_count": ((0, 1), "experts have no groups"),
}
_IGNORED = frozenset({"tensor_data_layout"})  # where the file came from
# Tensors of models that are not Llama 4's algebra, by their names in a layer or outside.
_STRANGERS = (
    (re.compile(r".*\.bias"), "is a bias; Llama 4's decoder has none, and llama4rt computes none"),
    (
        re.compile(r"blk\.\d+\.attn_(q|k)_norm\.weight"),
        "is a norm with weights on queries or keys; Llama 4's has none",
    ),
    (
        re.compile(
            r"blk\.\d+\.(attn_sub|ffn_sub|post_attention|post_ffw|attn_output|layer_output)_norm\.weight"
        ),
        "is a norm that Llama 4's layers do not have",
    ),
    (
        re.compile(r"rope_factors_(long|short)\.weight"),
        "is of longrope, which llama4rt does not compute",
    ),
)


@dataclass(frozen=True)
class Decoder:
    """What a GGUF file is of: its metadata, and its tensors."""

    metadata: Metadata
    tensors: Mapping[str, StoredTensor]
    values: Callable[[str], Values]  # all numbers of a small tensor

    @property
    def architecture(self) -> str:
        return self.metadata.string("general.architecture")

    def key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def error(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.metadata.source}: {problem}")

    def integer(self, name: str, default: int | None = None) -> int:
        return self.metadata.integer(self.key(name), 0, _MAX, default)

    def width(self, name: str, default: int | None = None) -> int:
        """As integer(). Of an array, one number for each layer, the one that is not 0."""
        return self.metadata.integer(self.key(name), 0, _MAX, default, zeros_aside=True)

    def real(self, name: str, default: float | None = None) -> float:
        return self.metadata.real(self.key(name), default)

    @property
    def layers(self) -> int:
        return self.metadata.integer(self.key("block_count"), 1, _MAX_LAYERS)

    def has(self, name: str) -> bool:
        return self.key(name) in self.metadata

    def check_known(self, read: frozenset[str]) -> None:
        """Refuses by name what would change the numbers. read: keys that the caller reads itself."""
        prefix = f"{self.architecture}."
        for key in self.metadata:
            name = key.removeprefix(prefix)
            if not key.startswith(prefix) or name in _READ or name in read or name in _IGNORED:
                continue
            if name not in _NEUTRAL:
                raise self.error(
                    f"{key} is {self.metadata.shown(key)}; llama4rt does not know this setting, and it could "
                    "change what the model computes"
                )
            allowed, reason = _NEUTRAL[name]
            if not self.metadata.is_one_of(key, allowed):
                raise self.error(
                    f"{key} is {self.metadata.shown(key)}, which llama4rt does not compute: {reason}"
                )
        for tensor in self.tensors:
            for pattern, what in _STRANGERS:
                if pattern.fullmatch(tensor):
                    raise self.error(f"{tensor} {what}")

    def common_config(self) -> dict[str, Any]:
        """Of both architectures, as config.json says it."""
        hidden, heads = self.integer("embedding_length"), self.integer("attention.head_count")
        head = self.integer("attention.key_length", default=hidden // heads if heads else 0)
        for name in ("attention.value_length", "rope.dimension_count"):
            other = self.integer(name, default=head)
            if other != head:
                raise self.error(
                    f"{self.key(name)} is {other}, but heads are {head} wide; in Llama 4 keys and values are of one "
                    "width, and all of it rotates"
                )
        if not self.has("attention.layer_norm_rms_epsilon"):
            raise self.error(
                f"{self.key('attention.layer_norm_rms_epsilon')} is missing; Llama 4 normalises by the root mean square"
            )
        theta = self.real("rope.freq_base", default=_DEFAULT_THETA)
        return {
            "vocab_size": self._vocabulary(),
            "hidden_size": hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self.integer("attention.head_count_kv", default=heads),
            "head_dim": head,
            "rms_norm_eps": self.real("attention.layer_norm_rms_epsilon"),
            "rope_theta": theta,
            "rope_scaling": self._rope_scaling(theta, head),
            "max_position_embeddings": self.integer("context_length"),
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "attention_bias": False,
            "hidden_act": "silu",
        }

    def _vocabulary(self) -> int:
        """Rows of the embedding, which the metadata may only confirm."""
        embedding = self.tensors.get("token_embd.weight")
        if embedding is None:
            raise self.error("token_embd.weight is missing; expected the embedding")
        rows = embedding.shape[0]
        said = self.integer("vocab_size", default=rows)
        if said != rows:
            raise self.error(f"{self.key('vocab_size')} is {said}, but token_embd.weight is {embedding}")
        return rows

    def _rope_scaling(self, theta: float, head: int) -> dict[str, Any] | None:
        tensor = self.tensors.get(ROPE_FREQS)
        if tensor is None:
            return None
        if tensor.shape != (head // 2,) or tensor.kind.name != "F32":
            raise self.error(f"{ROPE_FREQS} is {tensor}; expected F32 [{head // 2}]")
        rule = llama3_rule(theta, self.values(ROPE_FREQS).as_float32())
        if rule is None:
            raise self.error(
                f"{ROPE_FREQS} divides RoPE's frequencies in a way that is not llama3's with any known numbers; "
                "llama4rt computes that rule alone"
            )
        return {"rope_type": "llama3", **rule} if rule else None


__all__ = ["ROPE_FREQS", "Decoder"]
