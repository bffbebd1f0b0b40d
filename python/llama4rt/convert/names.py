"""Which checkpoint tensor becomes which rows of which engine tensor: a pure function of the config and the names found.

The engine's tensors, their sizes, and where the rows of a fused matrix lie are the native list (csrc/model/shape.h);
here each of them finds its sources under Hugging Face's names. No bytes are read, so that the table can be tested
without a checkpoint. Everything that is missing, left over or of the wrong shape is listed in one error.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.convert.checkpoint import TensorInfo, TensorNames, raise_problems
from llama4rt.convert.config import ModelConfig
from llama4rt.errors import CheckpointError

VISION_PREFIXES = ("vision_model.", "multi_modal_projector.")
_ONE_BY_ONE = re.compile(r"(.*)feed_forward\.experts\.(\d+)\.(gate|up|down)_proj\.")
_COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$")  # tables that some exports store; the engine computes them
_MAX_PROBLEMS = 100_000

# Engine name -> checkpoint name. {part} is a fused matrix's: q, k, v, gate, up.
_TEXT = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "lm_head": "lm_head.weight",
}
_TEXT_LAYER = {
    "attn_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "attn.qkv": "self_attn.{part}_proj.weight",
    "attn.o": "self_attn.o_proj.weight",
    "mlp.gate_up": "feed_forward.{part}_proj.weight",
    "mlp.down": "feed_forward.down_proj.weight",
    "moe.router": "feed_forward.router.weight",
    "moe.shared.gate_up": "feed_forward.shared_expert.{part}_proj.weight",
    "moe.shared.down": "feed_forward.shared_expert.down_proj.weight",
}
# Stacks [E, in, out] of all experts, transposed against everything else; or one matrix per expert.
_FUSED_EXPERTS = {
    "moe.gate_up": "feed_forward.experts.gate_up_proj",
    "moe.down": "feed_forward.experts.down_proj",
}
_EXPERT = {
    "moe.gate_up": "feed_forward.experts.{expert}.{part}_proj.weight",
    "moe.down": "feed_forward.experts.{expert}.down_proj.weight",
}
# No name of the tower, its adapter or the projector has a prefix.
_VISION = {
    "patch_embedding": "vision_model.patch_embedding.linear.weight",
    "class_embedding": "vision_model.class_embedding",
    "positional_embedding": "vision_model.positional_embedding_vlm",
    "pre_norm.weight": "vision_model.layernorm_pre.weight",
    "pre_norm.bias": "vision_model.layernorm_pre.bias",
    "post_norm.weight": "vision_model.layernorm_post.weight",
    "post_norm.bias": "vision_model.layernorm_post.bias",
    "adapter.fc1": "vision_model.vision_adapter.mlp.fc1.weight",
    "adapter.fc2": "vision_model.vision_adapter.mlp.fc2.weight",
    "projector": "multi_modal_projector.linear_1.weight",
}
_VISION_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_norm.bias": "input_layernorm.bias",
    "attn.qkv": "self_attn.{part}_proj.weight",
    "attn.qkv.bias": "self_attn.{part}_proj.bias",
    "attn.o": "self_attn.o_proj.weight",
    "attn.o.bias": "self_attn.o_proj.bias",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp_norm.bias": "post_attention_layernorm.bias",
    "mlp.fc1": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
}


@dataclass(frozen=True)
class Source:
    """Where a matrix [out, in] lies: a tensor of its own, or one matrix of a fused stack of experts."""

    tensor: str
    info: TensorInfo
    expert: int | None = None  # of a stack [E, in, out]


@dataclass(frozen=True)
class Piece:
    """Rows first..first+count of a source matrix, stored as a part of expert `expert` of a target."""

    source: Source
    first: int
    count: int
    expert: int
    spec: _core.TensorSpec  # of the target
    part: int  # index into spec.parts

    def stored_rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Stored row of each of the piece's rows start..stop."""
        return self.spec.stored_rows(self.part, start, stop)


@dataclass(frozen=True)
class Target:
    """One tensor of the engine file, and what it is made of."""

    spec: _core.TensorSpec
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def role(self) -> str:
        """ "embed", "router", "lm_head", "attention", "dense", "shared", "experts" or "vision": a matrix; "norm" [n],
        "vector" [n] or "table" [n, k]: plain fp32 numbers.
        """
        return self.spec.role

    @property
    def experts(self) -> int:
        return self.spec.experts

    @property
    def n(self) -> int:
        """Stored rows, padding included."""
        return self.spec.n

    @property
    def k(self) -> int:
        """Columns; 1 of vectors."""
        return self.spec.k

    @property
    def plain_shape(self) -> list[int] | None:
        """Of what is stored as plain fp32; None for a matrix."""
        return self.spec.plain_shape


@dataclass(frozen=True)
class TensorMapping:
    """All of the engine file's weights, in its order."""

    targets: tuple[Target, ...]
    skipped: tuple[str, ...]  # vision tensors, recognised and left out: the config has no vision tower
    tied_head: str | None  # an lm_head stored although config.json says it is the embedding


def tensors_of(config: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every matrix and vector that a checkpoint of this config has, experts in stacks. config:
    canonical (JSON). Without the prefix of multimodal classes.
    """
    for spec in _core.list_tensors(config):
        plain = spec.plain_shape
        if spec.role == "experts":
            _, layer, rest = spec.name.split(".", 2)
            width = sum(rows for _, rows in spec.parts)
            yield f"model.layers.{layer}.{_FUSED_EXPERTS[rest]}", (spec.experts, spec.k, width)
            continue
        pattern = _name_with("", spec.name)
        for part, rows in spec.parts:
            shape = (rows,) if plain is not None and len(plain) == 1 else (rows, spec.k)
            yield pattern.format(part=part), shape


def _layer_with(prefix: str, layer: str) -> str:
    return f"{prefix}model.layers.{layer}."


def _name_with(prefix: str, name: str) -> str:
    """The checkpoint's name of an engine tensor that is no stack, with {part} where it is fused. prefix: of the text
    model's names.
    """
    if name.startswith("vision.layers."):
        _, _, layer, rest = name.split(".", 3)
        return f"vision_model.model.layers.{layer}.{_VISION_LAYER[rest]}"
    if name.startswith("vision."):
        return _VISION[name.removeprefix("vision.")]
    if name.startswith("layers."):
        _, layer, rest = name.split(".", 2)
        return f"{_layer_with(prefix, layer)}{_TEXT_LAYER[rest]}"
    return f"{prefix}{_TEXT[name]}"


def map_tensors(config: ModelConfig, checkpoint: TensorNames) -> TensorMapping:
    """Finds every tensor that the model needs. Raises one CheckpointError that lists all problems."""
    return _Mapper(config, checkpoint).mapping()


@dataclass
class _Mapper:
    config: ModelConfig
    checkpoint: TensorNames
    problems: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.tensors = self.checkpoint.names()
        # Llama4ForConditionalGeneration keeps the decoder under a name of its own.
        self.prefix = "language_model." if any(n.startswith("language_model.") for n in self.tensors) else ""
        # (layer, whether down) of experts that are stored one by one.
        self.unfused = {
            (match[1], match[3] == "down") for name in self.tensors if (match := _ONE_BY_ONE.match(name))
        }

    def mapping(self) -> TensorMapping:
        seen = [name for name in self.tensors if name.startswith(VISION_PREFIXES)]
        skipped: tuple[str, ...] = ()
        specs = _core.list_tensors(json.dumps(self.config.canonical()))
        if self.config.vision is None:
            skipped = tuple(sorted(seen))
        elif not seen:
            specs = [spec for spec in specs if not spec.name.startswith("vision.")]
            self.problems.append(
                f"{' and '.join(VISION_PREFIXES)}: no such tensor is there, although config.json describes a vision "
                "tower; --vision none builds the text part alone"
            )
        targets = tuple(self._target(spec) for spec in specs)
        tied_head = None
        if self.config.tie_word_embeddings and f"{self.prefix}lm_head.weight" in self.tensors:
            tied_head = f"{self.prefix}lm_head.weight"
            self._find(tied_head, (self.config.vocab_size, self.config.hidden_size))
        left = sorted(set(self.tensors) - self.used - set(skipped))
        self.problems += [
            f"{self.tensors[name].stored_name(name)}: is {self.tensors[name]}; no such tensor belongs to this model"
            for name in left
            if not _COMPUTED.search(name)
        ]
        if self.tensors and not self.used:
            raise CheckpointError(self._strange_names())
        # A tied embedding is asked for twice, and complains twice.
        raise_problems(list(dict.fromkeys(self.problems)), "tensors do not match config.json")
        return TensorMapping(targets, skipped, tied_head)

    def _strange_names(self) -> str:
        """Not one tensor has a name that is looked for: say so once, not once for each."""
        wanted = f"{self._layer('0')}{_TEXT_LAYER['attn_norm']}"
        pattern = re.compile(r"(.+?)(?:model\.)?layers\.\d+\." + re.escape(_TEXT_LAYER["attn_norm"]))
        known = next((match for name in sorted(self.tensors) if (match := pattern.fullmatch(name))), None)
        first = min(self.tensors)
        advice = (
            f"; they begin with {known[1]!r:.80}, which llama4rt does not know: save the model without it"
            if known
            else ""
        )
        return (
            f"none of the checkpoint's {len(self.tensors)} tensors has a name of Llama 4 in Hugging Face's layout, "
            f"such as {wanted}; the first is {self.tensors[first].stored_name(first)}{advice}"
        )

    def _target(self, spec: _core.TensorSpec) -> Target:
        if len(self.problems) > _MAX_PROBLEMS:  # a config that has nothing to do with the files
            return Target(spec, ())
        if spec.role == "experts":
            return Target(spec, tuple(self._experts(spec)))
        pattern = self._checkpoint_name(spec.name)
        return Target(spec, tuple(self._parts(spec, pattern, 0)))

    def _checkpoint_name(self, name: str) -> str:
        """The checkpoint's name of an engine tensor, with {part} where it is fused."""
        if name == "lm_head" and self.config.tie_word_embeddings:
            name = "embed"
        return _name_with(self.prefix, name)

    def _layer(self, layer: str) -> str:
        return _layer_with(self.prefix, layer)

    def _parts(self, spec: _core.TensorSpec, pattern: str, expert: int) -> Iterator[Piece]:
        """A matrix [out, in], or a vector, of its own for each part."""
        plain = spec.plain_shape
        for part, (name, rows) in enumerate(spec.parts):
            shape = (rows,) if plain is not None and len(plain) == 1 else (rows, spec.k)
            source = self._find(pattern.format(part=name, expert=expert), shape)
            if source:
                yield Piece(source, 0, rows, expert, spec, part)

    def _experts(self, spec: _core.TensorSpec) -> Iterator[Piece]:
        _, layer, rest = spec.name.split(".", 2)
        at = self._layer(layer)
        stack = at + _FUSED_EXPERTS[rest]
        if (at, rest == "moe.down") in self.unfused:
            if stack in self.tensors:
                self.used.add(stack)
                self.problems.append(
                    f"{stack}: is there, and single experts are too; only one of the two can count"
                )
            for expert in range(spec.experts):
                yield from self._parts(spec, at + _EXPERT[rest], expert)
            return
        width = sum(rows for _, rows in spec.parts)
        fused = self._find(stack, (spec.experts, spec.k, width))
        if not fused:
            return
        for expert in range(spec.experts):
            first = 0
            for part, (_, rows) in enumerate(spec.parts):
                yield Piece(Source(fused.tensor, fused.info, expert), first, rows, expert, spec, part)
                first += rows

    def _find(self, name: str, shape: tuple[int, ...]) -> Source | None:
        """None, with the problems noted, when the tensor is not there as it should be."""
        found = self.tensors.get(name)
        if found is None:
            words = f"{name}: is missing; expected {TensorInfo('BF16', shape)}"
            if name.endswith("lm_head.weight") and f"{self.prefix}{_TEXT['embed']}" in self.tensors:
                words += (
                    '; a model whose head is its embedding says "tie_word_embeddings": true in config.json'
                )
            self.problems.append(words)
            return None
        self.used.add(name)
        problems = self.checkpoint.problems(name, shape)
        self.problems += problems
        return None if problems else Source(name, found)


__all__ = ["VISION_PREFIXES", "Piece", "Source", "Target", "TensorMapping", "map_tensors", "tensors_of"]
