"""Which checkpoint tensor becomes which rows of which engine tensor: a pure function of the config and the names found.

The engine fuses what one kernel call computes: q, k and v; gate and up (interleaved in blocks of 16 rows); the experts
of a layer (a stack). No bytes are read here, so that the table can be tested without a checkpoint. Everything that is
missing, left over or of the wrong shape is listed in one error.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import TensorInfo, TensorNames, raise_problems
from llama4rt.convert.config import ModelConfig
from llama4rt.convert.vision_config import VisionConfig

BLOCK_ROWS = 16  # of csrc/format/layout.h
VISION_PREFIXES = ("vision_model.", "multi_modal_projector.")
_COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$")  # tables that some exports store; the engine computes them
_MAX_PROBLEMS = 100_000


@dataclass(frozen=True)
class Source:
    """Where a matrix [out, in] lies: a tensor of its own, or one matrix of a fused stack of experts."""

    tensor: str
    info: TensorInfo
    expert: int | None = None  # of a stack [E, in, out]


@dataclass(frozen=True)
class Piece:
    """Rows first..first+count of a source matrix, stored as rows of expert `expert` of a target."""

    source: Source
    first: int
    count: int
    expert: int
    base: int  # stored row of the first one; with `half`, of a plain matrix
    half: str = ""  # "gate" or "up": rows go to the interleaved places of gate_up

    def stored_rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Stored row of each of the piece's rows start..stop."""
        rows = np.arange(start, stop, dtype=np.int64)
        if not self.half:
            return rows + self.base
        interleaved = rows // BLOCK_ROWS * (2 * BLOCK_ROWS) + rows % BLOCK_ROWS
        return interleaved + (BLOCK_ROWS if self.half == "up" else 0)


@dataclass(frozen=True)
class Target:
    """One tensor of the engine file."""

    name: str
    # "embed", "router", "lm_head", "attention", "dense", "shared", "experts" or "vision": a matrix;
    # "norm" [k], "vector" [n] or "table" [n, k]: plain fp32 numbers
    role: str
    experts: int
    n: int  # stored rows; norms: 1
    k: int  # vectors: 1
    pieces: tuple[Piece, ...]

    @property
    def plain_shape(self) -> list[int] | None:
        """Of what is stored as plain fp32; None for a matrix."""
        return {"norm": [self.k], "vector": [self.n], "table": [self.n, self.k]}.get(self.role)


@dataclass(frozen=True)
class TensorMapping:
    """All of the engine file's weights, in its order."""

    targets: tuple[Target, ...]
    skipped: tuple[str, ...]  # vision tensors, recognised and left out: the config has no vision tower
    tied_head: str | None  # an lm_head stored although config.json says it is the embedding


def gate_up_rows(width: int) -> int:
    """Stored rows of a gate_up weight: both halves padded to whole blocks."""
    return 2 * -(-width // BLOCK_ROWS) * BLOCK_ROWS


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
        # Experts stored one by one, by the layer's module name.
        self.unfused = {
            name[: at + len(".experts")]
            for name in self.tensors
            if (at := name.find(".experts.")) >= 0 and name[at + len(".experts.")].isdigit()
        }

    def mapping(self) -> TensorMapping:
        targets = tuple(self._targets())
        seen = [name for name in self.tensors if name.startswith(VISION_PREFIXES)]
        skipped: tuple[str, ...] = ()
        if self.config.vision is None:
            skipped = tuple(sorted(seen))
        elif seen:
            targets += tuple(self._vision(self.config.vision))
        else:
            self.problems.append(
                f"{' and '.join(VISION_PREFIXES)}: no such tensor is there, although config.json describes a vision "
                "tower; --vision none builds the text part alone"
            )
        tied_head = None
        if self.config.tie_word_embeddings and f"{self.prefix}lm_head.weight" in self.tensors:
            tied_head = f"{self.prefix}lm_head.weight"
            self._matrix(f"{self.prefix}lm_head", self.config.vocab_size, self.config.hidden_size)
        left = sorted(set(self.tensors) - self.used - set(skipped))
        self.problems += [
            f"{self.tensors[name].stored_name(name)}: is {self.tensors[name]}; no such tensor belongs to this model"
            for name in left
            if not _COMPUTED.search(name)
        ]
        # A tied embedding is asked for twice, and complains twice.
        raise_problems(list(dict.fromkeys(self.problems)), "tensors do not match config.json")
        return TensorMapping(targets, skipped, tied_head)

    def _targets(self) -> Iterator[Target]:
        c = self.config
        hidden = c.hidden_size
        embedding = f"{self.prefix}model.embed_tokens"
        yield self._linear("embed", "embed", [embedding], [c.vocab_size], hidden)
        for layer, is_moe in enumerate(c.moe_layers):
            at, to = f"{self.prefix}model.layers.{layer}", f"layers.{layer}"
            attention = f"{at}.self_attn"
            yield self._norm(f"{to}.attn_norm", f"{at}.input_layernorm")
            yield self._norm(f"{to}.ffn_norm", f"{at}.post_attention_layernorm")
            qkv = [f"{attention}.{name}_proj" for name in "qkv"]
            yield self._linear(f"{to}.attn.qkv", "attention", qkv, [c.q_dim, c.kv_dim, c.kv_dim], hidden)
            yield self._linear(f"{to}.attn.o", "attention", [f"{attention}.o_proj"], [hidden], c.q_dim)
            ffn = f"{at}.feed_forward"
            if not is_moe:
                yield from self._mlp(f"{to}.mlp", "dense", ffn, c.intermediate_size_mlp)
                continue
            router = [f"{ffn}.router"]
            yield self._linear(f"{to}.moe.router", "router", router, [c.num_local_experts], hidden)
            yield from self._mlp(f"{to}.moe.shared", "shared", f"{ffn}.shared_expert", c.intermediate_size)
            yield from self._experts(f"{to}.moe", f"{ffn}.experts")
        yield self._norm("norm", f"{self.prefix}model.norm")
        head = embedding if c.tie_word_embeddings else f"{self.prefix}lm_head"
        yield self._linear("lm_head", "lm_head", [head], [c.vocab_size], hidden)

    def _vision(self, v: VisionConfig) -> Iterator[Target]:
        """The vision tower's own tensors, its adapter's and the projector's. None of these names has a prefix."""
        tower, hidden = "vision_model", v.hidden_size
        patches = [f"{tower}.patch_embedding.linear"]
        yield self._linear("vision.patch_embedding", "vision", patches, [hidden], v.patch_dim)
        yield self._vector("vision.class_embedding", [f"{tower}.class_embedding"], hidden)
        places = self._find(f"{tower}.positional_embedding_vlm", (v.num_patches + 1, hidden))
        pieces = (Piece(places, 0, v.num_patches + 1, 0, 0),) if places else ()
        yield Target("vision.positional_embedding", "table", 1, v.num_patches + 1, hidden, pieces)
        yield from self._layernorm("vision.pre_norm", f"{tower}.layernorm_pre", hidden)
        for layer in range(v.num_hidden_layers):
            if len(self.problems) > _MAX_PROBLEMS:
                break
            at, to = f"{tower}.model.layers.{layer}", f"vision.layers.{layer}"
            qkv = [f"{at}.self_attn.{name}_proj" for name in "qkv"]
            yield from self._layernorm(f"{to}.attn_norm", f"{at}.input_layernorm", hidden)
            yield from self._biased(f"{to}.attn.qkv", qkv, hidden, hidden)
            yield from self._biased(f"{to}.attn.o", [f"{at}.self_attn.o_proj"], hidden, hidden)
            yield from self._layernorm(f"{to}.mlp_norm", f"{at}.post_attention_layernorm", hidden)
            yield from self._biased(f"{to}.mlp.fc1", [f"{at}.mlp.fc1"], v.intermediate_size, hidden)
            yield from self._biased(f"{to}.mlp.fc2", [f"{at}.mlp.fc2"], hidden, v.intermediate_size)
        yield from self._layernorm("vision.post_norm", f"{tower}.layernorm_post", hidden)
        adapter, width = f"{tower}.vision_adapter.mlp", v.adapter_hidden_size
        yield self._linear("vision.adapter.fc1", "vision", [f"{adapter}.fc1"], [width], v.intermediate_size)
        yield self._linear("vision.adapter.fc2", "vision", [f"{adapter}.fc2"], [v.output_dim], width)
        projector = ["multi_modal_projector.linear_1"]
        yield self._linear("vision.projector", "vision", projector, [self.config.hidden_size], v.output_dim)

    def _biased(self, name: str, modules: Sequence[str], out: int, into: int) -> Iterator[Target]:
        """Linears [out, in] with biases that share their input, one below the other."""
        yield self._linear(name, "vision", modules, [out] * len(modules), into)
        yield self._vector(f"{name}.bias", [f"{module}.bias" for module in modules], out)

    def _layernorm(self, name: str, module: str, width: int) -> Iterator[Target]:
        for part in ("weight", "bias"):
            yield self._vector(f"{name}.{part}", [f"{module}.{part}"], width)

    def _vector(self, name: str, tensors: Sequence[str], length: int) -> Target:
        """Vectors of one length, one after the other."""
        found = [self._find(tensor, (length,)) for tensor in tensors]
        pieces = [Piece(source, 0, length, 0, i * length) for i, source in enumerate(found) if source]
        return Target(name, "vector", 1, length * len(tensors), 1, tuple(pieces))

    def _norm(self, name: str, module: str) -> Target:
        hidden = self.config.hidden_size
        found = self._find(f"{module}.weight", (hidden,))
        pieces = (Piece(found, 0, 1, 0, 0),) if found else ()
        return Target(name, "norm", 1, 1, hidden, pieces)

    def _linear(self, name: str, role: str, modules: Sequence[str], outs: Sequence[int], into: int) -> Target:
        """Linears [out, in] that share their input, one below the other."""
        pieces: list[Piece] = []
        base = 0
        for module, out in zip(modules, outs, strict=True):
            source = self._matrix(module, out, into)
            if source:
                pieces.append(Piece(source, 0, out, 0, base))
            base += out
        return Target(name, role, 1, base, into, tuple(pieces))

    def _mlp(self, name: str, role: str, module: str, width: int) -> Iterator[Target]:
        hidden = self.config.hidden_size
        pieces = tuple(self._gate_up_pieces(module, width, 0))
        yield Target(f"{name}.gate_up", role, 1, gate_up_rows(width), hidden, pieces)
        yield self._linear(f"{name}.down", role, [f"{module}.down_proj"], [hidden], width)

    def _gate_up_pieces(self, module: str, width: int, expert: int) -> Iterator[Piece]:
        for half in ("gate", "up"):
            source = self._matrix(f"{module}.{half}_proj", width, self.config.hidden_size)
            if source:
                yield Piece(source, 0, width, expert, 0, half)

    def _experts(self, name: str, module: str) -> Iterator[Target]:
        c = self.config
        experts, hidden, width = c.num_local_experts, c.hidden_size, c.intermediate_size
        gate_up: list[Piece] = []
        down: list[Piece] = []
        if module in self.unfused:
            for e in range(experts):
                if len(self.problems) > _MAX_PROBLEMS:  # a config that has nothing to do with the files
                    break
                gate_up += self._gate_up_pieces(f"{module}.{e}", width, e)
                source = self._matrix(f"{module}.{e}.down_proj", hidden, width)
                if source:
                    down.append(Piece(source, 0, hidden, e, 0))
        else:
            fused = self._find(f"{module}.gate_up_proj", (experts, hidden, 2 * width))
            if fused:
                for e in range(experts):
                    source = Source(fused.tensor, fused.info, expert=e)
                    gate_up.append(Piece(source, 0, width, e, 0, "gate"))
                    gate_up.append(Piece(source, width, width, e, 0, "up"))
            fused = self._find(f"{module}.down_proj", (experts, width, hidden))
            if fused:
                down += [
                    Piece(Source(fused.tensor, fused.info, expert=e), 0, hidden, e, 0) for e in range(experts)
                ]
        yield Target(f"{name}.gate_up", "experts", experts, gate_up_rows(width), hidden, tuple(gate_up))
        yield Target(f"{name}.down", "experts", experts, hidden, width, tuple(down))

    def _matrix(self, module: str, out: int, into: int) -> Source | None:
        return self._find(f"{module}.weight", (out, into))

    def _find(self, name: str, shape: tuple[int, ...]) -> Source | None:
        """None, with the problems noted, when the tensor is not there as it should be."""
        found = self.tensors.get(name)
        if found is None:
            self.problems.append(f"{name}: is missing; expected {TensorInfo('BF16', shape)}")
            return None
        self.used.add(name)
        problems = self.checkpoint.problems(name, shape)
        self.problems += problems
        return None if problems else Source(name, found)


__all__ = ["BLOCK_ROWS", "Piece", "Source", "Target", "TensorMapping", "gate_up_rows", "map_tensors"]
