"""EngineBuild: writes an engine file from a checkpoint's rows, a few megabytes at a time."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from llama4rt import _core
from llama4rt.convert.build_options import LAYOUTS, BuildOptions, rounding_notes, storage_of
from llama4rt.convert.checkpoint import Checkpoint, notes_of_matrices, raise_problems
from llama4rt.convert.config import ModelConfig
from llama4rt.convert.journal import Journal
from llama4rt.convert.names import VISION_PREFIXES, Piece, Target, TensorMapping
from llama4rt.convert.source_state import files_state
from llama4rt.convert.stored_rows import Codes, Values
from llama4rt.convert.tokenizer_files import with_tokenizer
from llama4rt.errors import CheckpointError

_SLICE_BYTES = 16 << 20  # of rows handed over at once: bounds the memory of a build and the wait for Ctrl-C
_HELD_BYTES = 64 << 20  # of the checkpoint's pages
_WORST = 5


class EngineBuild:
    """One engine file in the making. Knows rows of Values and Codes, and nothing of how a checkpoint stores them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig,
        mapping: TensorMapping,
        options: BuildOptions,
        progress: Callable[[int, int], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._config = config
        self._mapping = mapping
        self._options = options
        self._progress = progress
        self._storage = {target.name: storage_of(target, options) for target in mapping.targets}
        self._files = with_tokenizer(checkpoint.kept_files())
        self._total = sum(
            _source_bytes(piece, target.k) for target in mapping.targets for piece in target.pieces
        )
        self._done = 0
        self._resumed = 0
        self._held = 0  # source bytes that were read since pages were let go
        self._problems: list[str] = []

    @property
    def files(self) -> Mapping[str, bytes]:
        """Name -> content of the checkpoint's files that the engine file holds."""
        return self._files

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of this build: the checkpoint's own, those of the matrices it uses, and what of
        their codes is rounded.
        """
        sources = {p.source.tensor: p.source.info for target in self._mapping.targets for p in target.pieces}
        rounded = rounding_notes(self._mapping.targets, self._options)
        return (*self._checkpoint.notes(), *notes_of_matrices(sources), *rounded)

    def identity(self) -> dict[str, Any]:
        """What decides every byte of the file, for a journal: plain values."""
        storage = {name: asdict(storage) for name, storage in self._storage.items()}
        files = {name: hashlib.sha256(content).hexdigest() for name, content in self._files.items()}
        return {
            "version": _core.version(),
            "checkpoint": self._checkpoint.source_hash(),
            "source files": files_state(self._checkpoint.paths()),
            "options": asdict(self._options),
            "plan": hashlib.sha256(_json([self._config.canonical(), storage, files]).encode()).hexdigest(),
        }

    def write(
        self, writer: _core.EngineWriter, journal: Journal
    ) -> tuple[int, tuple[tuple[str, float, float], ...]]:
        """Writes the whole file; returns its bytes and the worst errors: (weight, relative RMS, maximum)."""
        try:
            self._check_tied_head()
            self._declare(writer)
            there = journal.begin(writer, [target.name for target in self._mapping.targets])
            self._resume(there)
            for target in self._mapping.targets:
                if target.name not in there:
                    self._write_target(writer, target)
                    if not self._problems:
                        journal.done(writer, target.name)
            raise_problems(self._problems, "tensors cannot be used")
            for name, content in self._files.items():
                writer.write_tensor(f"files/{name}", np.frombuffer(content, dtype=np.uint8))
            size = writer.finish(self._metadata())
        except Exception:
            writer.abort()
            journal.close(keep=False)
            raise
        except BaseException:  # Ctrl-C: the next build goes on from here
            if journal.has_lines:
                writer.suspend()
            else:
                writer.abort()
            journal.close(keep=journal.has_lines)
            raise
        journal.close(keep=False)
        quantized = [name for name, storage in self._storage.items() if storage.is_quantized]
        reports = sorted(((name, *writer.report(name)) for name in quantized), key=lambda r: (-r[1], r[0]))
        return size, tuple(reports[:_WORST])

    def _resume(self, there: set[str]) -> None:
        """Counts what an interrupted build has done."""
        sizes = {t.name: sum(_source_bytes(p, t.k) for p in t.pieces) for t in self._mapping.targets}
        self._resumed = self._done = sum(sizes[name] for name in there)
        self._progress(self._done, self._total)

    @property
    def resumed(self) -> tuple[int, int]:
        """(source bytes that an interrupted build had done, all)."""
        return self._resumed, self._total

    def _check_tied_head(self) -> None:
        head = self._mapping.tied_head
        if head is not None and not self._same_rows(head, head.replace("lm_head", "model.embed_tokens")):
            raise_problems(
                [f"{head}: differs from the embedding, although config.json says tie_word_embeddings"],
                "tensors cannot be used",
            )

    def _same_rows(self, name: str, other: str) -> bool:
        """Whether two matrices of one shape are the same to the bit."""
        rows, columns = self._checkpoint.names()[name].shape
        step = max(1, _SLICE_BYTES // (4 * columns))
        same = all(
            _same(self._checkpoint.rows(name, i, i + step), self._checkpoint.rows(other, i, i + step))
            for i in range(0, rows, step)
        )
        self._checkpoint.release(name)
        self._checkpoint.release(other)
        return same

    def _declare(self, writer: _core.EngineWriter) -> None:
        for target in self._mapping.targets:
            storage = self._storage[target.name]
            if target.plain_shape is not None:
                writer.declare_tensor(target.name, "F32", target.plain_shape)
            elif storage.kind == "embed":
                writer.declare_tensor(target.name, "BF16", [target.n, target.k])
            else:
                codes = storage.imported
                writer.declare_weight(
                    target.name, storage.kind, target.experts, target.n, target.k, storage.group_size,
                    storage.scale_dtype, codes is not None and codes.zeros, codes is not None and codes.offsets,
                    None if codes is None else codes.table,
                )  # fmt: skip
        for name, content in self._files.items():
            writer.declare_tensor(f"files/{name}", "U8", [len(content)])

    def _write_target(self, writer: _core.EngineWriter, target: Target) -> None:
        if target.plain_shape is not None:
            self._write_plain(writer, target)
            return
        for i, piece in enumerate(target.pieces):
            name = piece.source.tensor
            self._write_piece(writer, target, piece)
            if i + 1 == len(target.pieces) or target.pieces[i + 1].source.tensor != name:
                self._checkpoint.release(name)

    def _write_plain(self, writer: _core.EngineWriter, target: Target) -> None:
        """Norms, biases and tables: the largest is a few megabytes."""
        try:
            parts = [
                _values(self._checkpoint.rows(piece.source.tensor)).as_float32() for piece in target.pieces
            ]
            writer.write_tensor(target.name, np.concatenate([part.reshape(-1) for part in parts]))
        except CheckpointError as error:
            names = [piece.source.info.stored_name(piece.source.tensor) for piece in target.pieces]
            self._problems.append(f"{', '.join(names)}: {error}")
        for piece in target.pieces:
            self._checkpoint.release(piece.source.tensor)
            self._advance(_source_bytes(piece, target.k))

    def _write_piece(self, writer: _core.EngineWriter, target: Target, piece: Piece) -> None:
        source = piece.source
        for first, last in _slices(piece.count, target.k):
            try:
                rows = self._checkpoint.rows(
                    source.tensor, piece.first + first, piece.first + last, source.expert
                )
                self._write_rows(writer, target, piece, first, last, rows)
            except CheckpointError as error:  # NaN or Inf: go on, so that one error lists every bad tensor
                self._problems.append(f"{_place(piece, first)}: {error}")
            size = _source_bytes(piece, target.k) * (last - first) // piece.count
            self._held += size
            if self._held >= _HELD_BYTES:  # a stack of experts may be larger than the machine's memory
                self._checkpoint.release(source.tensor)
                self._held = 0
            self._advance(size)

    def _write_rows(
        self,
        writer: _core.EngineWriter,
        target: Target,
        piece: Piece,
        first: int,
        last: int,
        rows: Values | Codes,
    ) -> None:
        places = piece.stored_rows(first, last)
        layout = self._storage[target.name].imported
        if layout is not None and isinstance(rows, Codes):
            codes = rows.in_layout(layout)
            writer.import_rows(
                target.name, piece.expert, places, codes.codes, codes.scales, layout.scale_dtype, codes.zeros,
                codes.offsets, codes.factors, codes.offset_factors,
            )  # fmt: skip
            return
        values = _values(rows)
        writer.quantize_rows(target.name, piece.expert, places, values.array, values.dtype, values.transposed)

    def _advance(self, count: int) -> None:
        self._done += count
        self._progress(self._done, self._total)

    def _metadata(self) -> dict[str, str]:
        options = self._options
        quantization = {
            "weights": options.weights,
            "group_size": options.group_size,
            "quantize": options.quantize,
            "lm_head": options.lm_head,
        }
        if self._config.vision:
            quantization["vision"] = options.vision
        source: dict[str, Any] = {
            "hash": self._checkpoint.source_hash(),
            "name": self._checkpoint.name,
            "skipped": self._skipped(),
        }
        if self.notes:
            source["notes"] = list(self.notes)
        if self._checkpoint.revision is not None:
            source["revision"] = self._checkpoint.revision
        return {
            "format": "llama4rt engine",
            "format_version": "1",
            "llama4rt_version": _core.version(),
            "target": options.target,
            "layout": LAYOUTS[options.target],
            "config": _json(self._config.canonical()),
            "quantization": _json(quantization),
            "source": _json(source),
            "files": _json(list(self._files)),
            "licenses": _json(list(self._checkpoint.licenses())),
        }

    def _skipped(self) -> list[dict[str, Any]]:
        """Parts of the checkpoint that this file leaves out, one line each."""
        parts = []
        tensors = self._checkpoint.names()
        for prefix in VISION_PREFIXES:
            names = [name for name in self._mapping.skipped if name.startswith(prefix)]
            if names:
                count = sum(max(1, len(tensors[name].stored)) for name in names)
                size = sum(self._checkpoint.nbytes(name) for name in names)
                parts.append({"part": prefix.rstrip("."), "tensors": count, "bytes": size})
        return parts


def _values(rows: Values | Codes) -> Values:
    return rows.values() if isinstance(rows, Codes) else rows


def _same(a: Values | Codes, b: Values | Codes) -> bool:
    if isinstance(a, Codes) or isinstance(b, Codes):
        return False
    bits, others = (np.ascontiguousarray(rows.array).view(np.uint8) for rows in (a, b))
    return a.dtype == b.dtype and np.array_equal(bits, others)


def _slices(count: int, k: int) -> Iterator[tuple[int, int]]:
    """Row ranges of about _SLICE_BYTES, whole blocks of stored rows where possible."""
    step = max(1, _SLICE_BYTES // (4 * k) // _core.block_rows()) * _core.block_rows()
    for first in range(0, count, step):
        yield first, min(first + step, count)


def _place(piece: Piece, first: int) -> str:
    """The source of a slice, for messages that count rows from its start."""
    source = piece.source
    expert = "" if source.expert is None else f"[{source.expert}]"
    start = piece.first + first
    return f"{source.info.stored_name(source.tensor)}{expert}" + (f", outputs from {start}" if start else "")


def _source_bytes(piece: Piece, k: int) -> int:
    """What a piece counts in the progress."""
    return piece.count * -(-k * piece.source.info.element_bits // 8)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)


__all__ = ["EngineBuild"]
