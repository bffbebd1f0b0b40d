"""Which checkpoint tensor becomes which rows of which engine tensor: a pure function of the config and the names found.

The engine fuses what one kernel call computes: q, k and v; gate and up (interleaved in blocks of 16 rows); the experts
of a layer (a stack). No bytes are read here, so that the table can be tested without a checkpoint. Everything that is
missing, left over or of the wrong shape is listed in one error.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.compressed_tensors import PackedLinear, find_packed, packed_names
from llama4rt.convert.config import ModelConfig
from llama4rt.convert.tensors import FLOAT_DTYPES, TensorInfo
from llama4rt.errors import CheckpointError

BLOCK_ROWS = 16  # of csrc/format/layout.h
VISION_PREFIXES = ("vision_model.", "multi_modal_projector.")
_COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$")  # tables that some exports store; the engine computes them
_MAX_LISTED = 200
_MAX_PROBLEMS = 100_000


@dataclass(frozen=True)
class Source:
    """Where a matrix [out, in] lies: a plain tensor, one slice of a fused expert stack, or a packed int4 linear."""

    tensor: str  # for progress and messages; `packed` names the others
    dtype: str
    packed: PackedLinear | None = None
    index: int | None = None  # slice of a stack [E, in, out], which is transposed


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
    role: str  # "norm", "embed", "router", "lm_head", "attention", "dense", "shared" or "experts"
    experts: int
    n: int  # stored rows; norms: 1
    k: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Plan:
    targets: tuple[Target, ...]
    skipped: tuple[str, ...]  # vision tensors, recognised and left out
    tied_head: str | None  # an lm_head stored although config.json says it is the embedding


def gate_up_rows(width: int) -> int:
    """Stored rows of a gate_up weight: both halves padded to whole blocks."""
    return 2 * -(-width // BLOCK_ROWS) * BLOCK_ROWS


def make_plan(
    config: ModelConfig, tensors: Mapping[str, TensorInfo], declared_groups: Sequence[int] = ()
) -> Plan:
    """Finds every tensor the model needs among `tensors`. Raises one CheckpointError that lists all problems."""
    return _Planner(config, tensors, declared_groups).plan()


@dataclass
class _Planner:
    config: ModelConfig
    tensors: Mapping[str, TensorInfo]
    declared_groups: Sequence[int]
    problems: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        # Llama4ForConditionalGeneration keeps the decoder under a name of its own.
        self.prefix = "language_model." if any(n.startswith("language_model.") for n in self.tensors) else ""
        # Experts stored one by one, by the layer's module name.
        self.unfused = {
            name[: at + len(".experts")]
            for name in self.tensors
            if (at := name.find(".experts.")) >= 0 and name[at + len(".experts.")].isdigit()
        }

    def plan(self) -> Plan:
        targets = tuple(self._targets())
        skipped = tuple(sorted(name for name in self.tensors if name.startswith(VISION_PREFIXES)))
        tied_head = None
        if self.config.tie_word_embeddings and f"{self.prefix}lm_head.weight" in self.tensors:
            tied_head = f"{self.prefix}lm_head.weight"
            self._matrix("lm_head", self.config.vocab_size, self.config.hidden_size)
        left = sorted(set(self.tensors) - self.used - set(skipped))
        self.problems += [
            f"{name}: is {self.tensors[name]}; no such tensor belongs to this model"
            for name in left
            if not _COMPUTED.search(name)
        ]
        # A tied embedding is asked for twice, and complains twice.
        raise_problems(list(dict.fromkeys(self.problems)), "tensors do not match config.json")
        return Plan(targets, skipped, tied_head)

    def _targets(self) -> Iterator[Target]:
        c = self.config
        hidden = c.hidden_size
        yield self._linear("embed", "embed", ["model.embed_tokens"], [c.vocab_size], hidden)
        for layer, is_moe in enumerate(c.moe_layers):
            at, to = f"model.layers.{layer}", f"layers.{layer}"
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
        yield self._norm("norm", "model.norm")
        head = "model.embed_tokens" if c.tie_word_embeddings else "lm_head"
        yield self._linear("lm_head", "lm_head", [head], [c.vocab_size], hidden)

    def _norm(self, name: str, module: str) -> Target:
        hidden = self.config.hidden_size
        found = self._find(f"{self.prefix}{module}.weight", (hidden,))
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
        if f"{self.prefix}{module}" in self.unfused:
            for e in range(experts):
                if len(self.problems) > _MAX_PROBLEMS:  # a config that has nothing to do with the files
                    break
                gate_up += self._gate_up_pieces(f"{module}.{e}", width, e)
                source = self._matrix(f"{module}.{e}.down_proj", hidden, width)
                if source:
                    down.append(Piece(source, 0, hidden, e, 0))
        else:
            stack = f"{self.prefix}{module}"
            fused = self._find(f"{stack}.gate_up_proj", (experts, hidden, 2 * width))
            if fused:
                for e in range(experts):
                    source = Source(fused.tensor, fused.dtype, index=e)
                    gate_up.append(Piece(source, 0, width, e, 0, "gate"))
                    gate_up.append(Piece(source, width, width, e, 0, "up"))
            fused = self._find(f"{stack}.down_proj", (experts, width, hidden))
            if fused:
                down += [
                    Piece(Source(fused.tensor, fused.dtype, index=e), 0, hidden, e, 0) for e in range(experts)
                ]
        yield Target(f"{name}.gate_up", "experts", experts, gate_up_rows(width), hidden, tuple(gate_up))
        yield Target(f"{name}.down", "experts", experts, hidden, width, tuple(down))

    def _matrix(self, module: str, out: int, into: int) -> Source | None:
        """A linear, packed or not; None, with the problem noted, when it is not there as it should be."""
        full = f"{self.prefix}{module}"
        packed_name = f"{full}.weight_packed"
        if packed_name not in self.tensors:
            return self._find(f"{full}.weight", (out, into))
        packed, problems = find_packed(full, out, into, self.tensors, self.declared_groups)
        self.problems += problems
        self.used.update(packed_names(full))
        return Source(packed_name, "", packed=packed) if packed else None

    def _find(self, name: str, shape: tuple[int, ...]) -> Source | None:
        found = self.tensors.get(name)
        if found is None:
            self.problems.append(f"{name}: is missing; expected {TensorInfo('BF16', shape)}")
            return None
        self.used.add(name)
        if found.shape != shape or found.dtype not in FLOAT_DTYPES:
            wanted = TensorInfo(", ".join(FLOAT_DTYPES[:-1]) + f" or {FLOAT_DTYPES[-1]}", shape)
            self.problems.append(f"{name}: is {found}; expected {wanted}")
            return None
        return Source(name, found.dtype)


def raise_problems(problems: Sequence[str], what: str) -> None:
    """One CheckpointError that lists them all (the first few hundred); nothing when there are none."""
    if not problems:
        return
    lines = list(problems[:_MAX_LISTED])
    if len(problems) > _MAX_LISTED:
        lines.append(f"and {len(problems) - _MAX_LISTED} more")
    raise CheckpointError("\n  ".join([f"{len(problems)} {what}:", *lines]))


__all__ = ["BLOCK_ROWS", "Piece", "Plan", "Source", "Target", "gate_up_rows", "make_plan", "raise_problems"]
