"""build(): a checkpoint becomes an engine file, tensor by tensor, without ever being in memory as a whole."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.compressed_tensors import (
    PackedLinear,
    check_packed,
    declared_group_sizes,
    dequantize_rows,
    read_rows,
)
from llama4rt.convert.config import ModelConfig, parse_config
from llama4rt.convert.names import BLOCK_ROWS, VISION_PREFIXES, Piece, Plan, Target, make_plan, raise_problems
from llama4rt.convert.tensors import as_float32
from llama4rt.errors import CheckpointError, ConfigError

WEIGHTS = ("int4", "int8", "bf16")
GROUP_SIZES = (32, 64, 128)
QUANTIZE = ("linear", "experts")
LM_HEADS = ("auto", "bf16", "int8", "int4")
VISION = ("bf16", "int8", "none")
TARGETS = ("auto", "cpu", "cuda")
_LAYOUTS = {"cpu": "cpu16", "cuda": "cuda_tile"}  # csrc/format/layout.h

_QUANTIZED_ROLES = {"linear": {"attention", "dense", "shared", "experts"}, "experts": {"shared", "experts"}}
_SLICE_BYTES = 16 << 20  # of source handed over at once: bounds the memory of imports and the wait for Ctrl-C
_WORST = 5


@dataclass(frozen=True)
class BuildOptions:
    target: str
    weights: str
    group_size: int
    quantize: str
    lm_head: str
    vision: str

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("target", self.target, tuple(_LAYOUTS)),
            ("weights", self.weights, WEIGHTS),
            ("group_size", self.group_size, GROUP_SIZES),
            ("quantize", self.quantize, QUANTIZE),
            ("lm_head", self.lm_head, LM_HEADS),
            ("vision", self.vision, VISION),
        ):
            if value not in allowed:
                raise ConfigError(
                    f"{name} is {value!r:.80}; it must be one of {', '.join(map(str, allowed))}"
                )

    def resolved(self, packed: bool) -> "BuildOptions":
        """With what "auto" means.   packed: the checkpoint brings quantised matrices of its own."""
        if self.lm_head != "auto":
            return self
        return replace(self, lm_head="bf16" if packed else lm_head_kind(self.weights, self.quantize))

    def kind(self, role: str, k: int) -> str:
        """How a matrix of k inputs that the checkpoint does not bring quantised is stored."""
        if role == "lm_head":
            return self.lm_head
        if role == "vision":  # of the published tower, every matrix but the patch embedding (588 inputs)
            return "int8" if self.vision == "int8" and k % self.group_size == 0 else "bf16"
        return self.weights if role in _QUANTIZED_ROLES[self.quantize] else "bf16"


def lm_head_kind(weights: str, quantize: str) -> str:
    """What lm_head="auto" means for a checkpoint of plain numbers: int8 where all other matrices become int4 or int8
    too, since beside them its error does not show (docs/quantization.md).
    """
    return "int8" if weights != "bf16" and quantize == "linear" else "bf16"


@dataclass(frozen=True)
class BuildReport:
    """What build() made. worst: (weight, relative RMS error, maximum error) of the most damaged weights."""

    path: str
    bytes: int
    seconds: float
    worst: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class _Storage:
    """How one target is stored."""

    kind: str  # "plain" (fp32 numbers), "embed", or of a weight: "int4", "int8", "bf16"
    group_size: int = 0
    scale_dtype: str = "BF16"
    zeros: bool = False
    imported: bool = False  # codes come from the checkpoint


def build(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    target: str = "auto",
    weights: str = "int4",
    group_size: int = 128,
    quantize: str = "linear",
    lm_head: str = "auto",
    vision: str = "bf16",
    num_threads: int | None = None,
    rope_scaling: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BuildReport:
    """Builds the engine file `out` from `src`, a checkpoint directory or a hub id.

    target: whose kernels read the file, "cpu" (what "auto" means) or "cuda"; a file serves one of them. weights,
    group_size: of the matrices that are quantised; quantize says which: "linear" (experts, dense MLP and
    attention) or "experts" (routed and shared). Matrices that the checkpoint already has as compressed-tensors
    int4 keep their codes, whatever `weights` says. lm_head: "bf16", "int8", "int4", or "auto": int8 if all other
    matrices are quantised here, and bf16 beside unquantised ones and in checkpoints that come quantised.
    vision: how the vision tower is stored, where there is one; "int8" leaves matrices whose inputs are not
    whole groups in bf16, "none" leaves the tower out and so builds a model of text alone. rope_scaling replaces
    numbers of the config's. progress(done, total) counts source bytes. The same checkpoint and options give the
    same bytes. On any error, Ctrl-C included, nothing is left under the name `out`.
    Raises CheckpointError, ConfigError, or Llama4RTError.
    """
    start = time.perf_counter()
    if target not in TARGETS:
        raise ConfigError(f"target is {target!r:.80}; it must be one of {', '.join(TARGETS)}")
    options = BuildOptions(
        "cpu" if target == "auto" else target, weights, group_size, quantize, lm_head, vision
    )
    if num_threads is not None and num_threads < 0:
        raise ConfigError(f"num_threads is {num_threads}; it must be positive, or 0 for all CPUs")
    path = os.fspath(out)
    if os.path.isdir(path):
        raise ConfigError(f"{path}: is a directory; the output must be a file name, such as model.l4e")
    checkpoint = Checkpoint.open(src)
    if checkpoint.contains(path):
        raise ConfigError(f"{path}: is part of the checkpoint; the output must be another file")
    config = parse_config(
        checkpoint.config,
        checkpoint.generation_config,
        rope_scaling=rope_scaling,
        vision=options.vision != "none",
    )
    plan = make_plan(config, checkpoint.tensors, declared_group_sizes(checkpoint.config))
    packed = any(piece.source.packed for target in plan.targets for piece in target.pieces)
    job = _Build(checkpoint, config, plan, options.resolved(packed), progress or (lambda done, total: None))
    worst = job.run(_core.EngineWriter(path, num_threads or 0, options.target))
    return BuildReport(path, os.path.getsize(path), time.perf_counter() - start, worst)


class _Build:
    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig,
        plan: Plan,
        options: BuildOptions,
        progress: Callable[[int, int], None],
    ) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self.plan = plan
        self.options = options
        self.progress = progress
        self.storage = {target.name: _storage(target, options) for target in plan.targets}
        self.files = checkpoint.kept_files()
        self.total = sum(_source_bytes(piece, target.k) for target in plan.targets for piece in target.pieces)
        self.done = 0
        self.problems: list[str] = []

    def run(self, writer: _core.EngineWriter) -> tuple[tuple[str, float, float], ...]:
        """Writes the whole file; returns the worst errors."""
        try:
            self._check_values()
            self._declare(writer)
            writer.begin()
            self.progress(0, self.total)
            for target in self.plan.targets:
                self._write_target(writer, target)
            raise_problems(self.problems, "tensors cannot be used")
            for name, content in self.files.items():
                writer.write_tensor(f"files/{name}", np.frombuffer(content, dtype=np.uint8))
            writer.finish(self._metadata())
        except BaseException:
            writer.abort()
            raise
        quantized = [name for name, storage in self.storage.items() if storage.kind in ("int4", "int8")]
        reports = sorted(((name, *writer.report(name)) for name in quantized), key=lambda r: (-r[1], r[0]))
        return tuple(reports[:_WORST])

    def _check_values(self) -> None:
        """What shapes cannot tell, before anything large is read."""
        for target in self.plan.targets:
            for piece in target.pieces:
                if piece.source.packed:
                    self.problems += check_packed(piece.source.packed, self.checkpoint)
        head = self.plan.tied_head
        if head is not None and not self._same_bytes(head, head.replace("lm_head", "model.embed_tokens")):
            self.problems.append(
                f"{head}: differs from the embedding, although config.json says tie_word_embeddings"
            )
        raise_problems(self.problems, "tensors cannot be used")

    def _same_bytes(self, name: str, other: str) -> bool:
        a, b = self.checkpoint.array(name).reshape(-1), self.checkpoint.array(other).reshape(-1)
        step = _SLICE_BYTES // a.itemsize
        same = a.dtype == b.dtype and all(
            np.array_equal(a[i : i + step].view(np.uint8), b[i : i + step].view(np.uint8))
            for i in range(0, len(a), step)
        )
        self.checkpoint.release(name)
        self.checkpoint.release(other)
        return same

    def _declare(self, writer: _core.EngineWriter) -> None:
        for target in self.plan.targets:
            storage = self.storage[target.name]
            if target.plain_shape is not None:
                writer.declare_tensor(target.name, "F32", target.plain_shape)
            elif storage.kind == "embed":
                writer.declare_tensor(target.name, "BF16", [target.n, target.k])
            else:
                writer.declare_weight(
                    target.name, storage.kind, target.experts, target.n, target.k, storage.group_size,
                    storage.scale_dtype, storage.zeros,
                )  # fmt: skip
        for name, content in self.files.items():
            writer.declare_tensor(f"files/{name}", "U8", [len(content)])

    def _write_target(self, writer: _core.EngineWriter, target: Target) -> None:
        if target.plain_shape is not None:
            self._write_plain(writer, target)
            return
        for i, piece in enumerate(target.pieces):
            name = piece.source.tensor
            self._write_piece(writer, target, piece)
            if i + 1 == len(target.pieces) or target.pieces[i + 1].source.tensor != name:
                self.checkpoint.release(name)

    def _write_plain(self, writer: _core.EngineWriter, target: Target) -> None:
        """Norms, biases and tables: the largest is a few megabytes."""
        names = [piece.source.tensor for piece in target.pieces]
        parts = [as_float32(self.checkpoint.array(p.source.tensor), p.source.dtype) for p in target.pieces]
        try:
            writer.write_tensor(target.name, np.concatenate([part.reshape(-1) for part in parts]))
        except CheckpointError as error:
            self.problems.append(f"{', '.join(names)}: {error}")
        for piece in target.pieces:
            self.checkpoint.release(piece.source.tensor)
            self._advance(_source_bytes(piece, target.k))

    def _write_piece(self, writer: _core.EngineWriter, target: Target, piece: Piece) -> None:
        storage = self.storage[target.name]
        source = piece.source
        matrix = None if source.packed else self._matrix(piece)
        for first, last in _slices(piece.count, target.k):
            rows = piece.stored_rows(first, last)
            try:
                if source.packed and storage.imported:
                    self._import_rows(writer, target, piece.expert, rows, source.packed, first, last)
                elif source.packed:
                    values = dequantize_rows(source.packed, self.checkpoint, first, last)
                    writer.quantize_rows(target.name, piece.expert, rows, values, "F32", False)
                elif matrix is not None:
                    transposed = source.index is not None
                    part = matrix[:, first:last] if transposed else matrix[first:last]
                    writer.quantize_rows(target.name, piece.expert, rows, part, source.dtype, transposed)
            except CheckpointError as error:  # NaN or Inf: go on, so that one error lists every bad tensor
                self.problems.append(f"{_place(piece, first)}: {error}")
            self._advance(_source_bytes(piece, target.k) * (last - first) // piece.count)

    def _import_rows(
        self,
        writer: _core.EngineWriter,
        target: Target,
        expert: int,
        rows: NDArray[np.int64],
        packed: PackedLinear,
        first: int,
        last: int,
    ) -> None:
        storage = self.storage[target.name]
        codes, scales, zeros = read_rows(
            packed, self.checkpoint, first, last, storage.group_size, with_zeros=storage.zeros
        )
        if storage.scale_dtype != packed.engine_scale_dtype:
            scales = as_float32(scales, packed.engine_scale_dtype)
        writer.import_int4_rows(target.name, expert, rows, codes, scales, storage.scale_dtype, zeros)

    def _matrix(self, piece: Piece) -> NDArray[Any]:
        """The piece's rows: [count, in], or, of a fused stack, the columns [in, count] of its slice."""
        array = self.checkpoint.array(piece.source.tensor)
        if piece.source.index is None:
            return array[piece.first : piece.first + piece.count]
        matrix: NDArray[Any] = array[piece.source.index][:, piece.first : piece.first + piece.count]
        return matrix

    def _advance(self, count: int) -> None:
        self.done += count
        self.progress(self.done, self.total)

    def _metadata(self) -> dict[str, str]:
        options = self.options
        quantization = {
            "weights": options.weights,
            "group_size": options.group_size,
            "quantize": options.quantize,
            "lm_head": options.lm_head,
        }
        if self.config.vision:
            quantization["vision"] = options.vision
        source = {
            "hash": self.checkpoint.source_hash(),
            "name": self.checkpoint.name,
            "skipped": self._skipped(),
        }
        return {
            "format": "llama4rt engine",
            "format_version": "1",
            "llama4rt_version": _core.version(),
            "target": options.target,
            "layout": _LAYOUTS[options.target],
            "config": _json(self.config.canonical()),
            "quantization": _json(quantization),
            "source": _json(source),
            "files": _json(list(self.files)),
            "licenses": _json(self.checkpoint.licenses()),
        }

    def _skipped(self) -> list[dict[str, Any]]:
        """Parts of the checkpoint that this file leaves out, one line each."""
        parts = []
        for prefix in VISION_PREFIXES:
            names = [name for name in self.plan.skipped if name.startswith(prefix)]
            if names:
                size = sum(self.checkpoint.nbytes(name) for name in names)
                parts.append({"part": prefix.rstrip("."), "tensors": len(names), "bytes": size})
        return parts


def _storage(target: Target, options: BuildOptions) -> _Storage:
    if target.plain_shape is not None:
        return _Storage("plain")
    if target.role == "embed":
        return _Storage("embed")
    packed = [piece.source.packed for piece in target.pieces]
    found = [linear for linear in packed if linear is not None]
    if found and target.role not in ("router", "vision"):
        if len(found) < len(
            packed
        ):  # pieces of different kinds share one weight: all become what they mean in bf16
            return _Storage("bf16")
        bf16_scales = all(linear.engine_scale_dtype == "BF16" for linear in found)
        return _Storage(
            "int4",
            group_size=min(linear.engine_group for linear in found),
            scale_dtype="BF16" if bf16_scales else "F32",
            zeros=any(linear.zero_points for linear in found),
            imported=True,
        )
    kind = options.kind(target.role, target.k)
    return _Storage(kind, group_size=0 if kind == "bf16" else options.group_size)


def _slices(count: int, k: int) -> Iterator[tuple[int, int]]:
    """Row ranges of about _SLICE_BYTES, whole blocks of stored rows where possible."""
    step = max(1, _SLICE_BYTES // (4 * k) // BLOCK_ROWS) * BLOCK_ROWS
    for first in range(0, count, step):
        yield first, min(first + step, count)


def _place(piece: Piece, first: int) -> str:
    """The source of a slice, for messages that count rows from its start."""
    index = "" if piece.source.index is None else f"[{piece.source.index}]"
    start = piece.first + first
    return f"{piece.source.tensor}{index}" + (f", outputs from {start}" if start else "")


def _source_bytes(piece: Piece, k: int) -> int:
    """What a piece counts in the progress."""
    if piece.source.packed:
        return piece.count * -(-k // 2)
    return piece.count * k * (4 if piece.source.dtype == "F32" else 2)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)


__all__ = ["BuildOptions", "BuildReport", "build"]
