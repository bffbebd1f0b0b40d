"""A checkpoint with adapters merged into it: W + sum of weight * scale * B A, in fp32, as rows are read."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.formats.layer import CheckpointLayer
from llama4rt.convert.lora.lora_deltas import Delta, Replacement, merged_rows
from llama4rt.convert.lora.lora_files import LoraFiles
from llama4rt.convert.lora.lora_match import Changes, match
from llama4rt.convert.lora.lora_stacks import EXPERT
from llama4rt.convert.stored_rows import Codes, Values, as_float32
from llama4rt.errors import CheckpointError, ConfigError

# Tensors that share one weight of the engine: where one changes, the codes of the others cannot stay codes either.
_SHARED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"


def with_adapters(checkpoint: Checkpoint, adapters: Sequence[tuple[Path, str, float]]) -> Checkpoint:
    """adapters: (directory, name, weight) each. Raises CheckpointError or ConfigError."""
    if not adapters:
        return checkpoint
    found = []
    names = [name for _, name, _ in adapters]
    for directory, name, weight in adapters:
        if names.count(name) > 1:  # such as two folders checkpoint-500
            name = str(directory)
        if not math.isfinite(weight):
            raise ConfigError(f"the weight of adapter {name} is {weight}; it must be a number")
        found.append((LoraFiles(directory, name), weight))
    return MergedCheckpoint(checkpoint, found)


class MergedCheckpoint(CheckpointLayer):
    """A Checkpoint: `base`, whose changed tensors are plain fp32 numbers."""

    def __init__(self, base: Checkpoint, adapters: Sequence[tuple[LoraFiles, float]]) -> None:
        super().__init__(base)
        self._adapters = adapters
        # numpy lets other threads run while it computes; threads begin with the first product.
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "lora")
        self._changes: Changes = {}
        names = base.names()
        for files, weight in adapters:
            for name, changes in match(files, names, weight).items():
                self._changes.setdefault(name, []).extend(changes)
        self._check_together(base)
        self._plain = {
            name for changed in self._changes for name in _together(changed, names) if name in names
        }
        self._coded = sorted(name for name in self._plain if names[name].codes is not None)
        self._names = {
            name: replace(info, dtype="F32", codes=None, stored=info.stored or (name,))
            if name in self._plain
            else info
            for name, info in names.items()
        }

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return self._base.problems(name, shape)

    def rows(
        self, name: str, first: int = 0, last: int | None = None, expert: int | None = None
    ) -> Values | Codes:
        if name not in self._plain:
            return self._base.rows(name, first, last, expert)
        changes = self._changes.get(name, [])
        whole = next((change for change in changes if isinstance(change, Replacement)), None)
        if whole is not None:
            values = whole.rows(first, last)
        else:
            rows = self._base.rows(name, first, last, expert)
            plain = rows.values() if isinstance(rows, Codes) else rows
            array = plain.array.T if plain.transposed else plain.array
            values = np.array(as_float32(array, plain.dtype), order="C")
        deltas = tuple(change for change in changes if isinstance(change, Delta))
        return Values(merged_rows(values, deltas, first, expert, self._pool.map), "F32")

    def release(self, name: str) -> None:
        self._base.release(name)

    def nbytes(self, name: str) -> int:
        return self._base.nbytes(name)

    def source_hash(self) -> str:
        """sha256 over the base's, and each adapter's own and its weight, in order."""
        digest = hashlib.sha256(self._base.source_hash().encode())
        for files, weight in self._adapters:
            digest.update(f"\n{files.digest()} {float(weight).hex()}".encode())
        return f"sha256:{digest.hexdigest()}"

    def notes(self) -> Sequence[str]:
        lines = list(self._base.notes())
        for files, weight in self._adapters:
            changed = [
                name
                for name, changes in self._changes.items()
                if any(c.adapter == files.name for c in changes)
            ]
            lines.append(f"adapter {files.name} is merged with weight {weight:g} into {len(changed)} tensors")
            if files.has_tokenizer:
                lines.append(
                    f"the tokenizer files beside adapter {files.name} are left out; those of the base count"
                )
        if self._coded:
            lines.append(
                f"{len(self._coded)} tensors that the checkpoint has quantised were turned into numbers, merged with "
                "the adapters and quantised again as this build was told"
            )
        return lines

    def paths(self) -> Sequence[Path]:
        return (*self._base.paths(), *(path for files, _ in self._adapters for path in files.paths()))

    def contains(self, path: str) -> bool:
        return self._base.contains(path) or any(files.contains(path) for files, _ in self._adapters)

    def _check_together(self, base: Checkpoint) -> None:
        """What adapters change together must have one meaning."""
        for name, changes in self._changes.items():
            whole = [change for change in changes if isinstance(change, Replacement)]
            if len(whole) > 1:
                raise CheckpointError(f"{name}: {' and '.join(w.adapter for w in whole)} both replace it")
            if whole and any(change.adapter != whole[0].adapter for change in changes):
                raise CheckpointError(
                    f"{name}: {whole[0].adapter} replaces it, and another adapter changes it"
                )
            dora = [
                change for change in changes if isinstance(change, Delta) and change.magnitude is not None
            ]
            if dora and any(change.adapter != dora[0].adapter for change in changes):
                raise CheckpointError(
                    f"{name}: {dora[0].adapter} is of DoRA, whose lengths of rows leave no room for another adapter"
                )
        text = base.config().get("text_config") or base.config()
        tied = base.config().get("tie_word_embeddings") or text.get("tie_word_embeddings")
        touched = [name for name in self._changes if name.endswith((_EMBEDDING, _HEAD))]
        if tied and touched:
            raise CheckpointError(
                f"{touched[0]}: an adapter changes it, and config.json says tie_word_embeddings, so that embedding and "
                "head would both change; merge it with PEFT, and build what that saves"
            )


def _together(name: str, names: Mapping[str, TensorInfo]) -> list[str]:
    """The tensors that share a weight of the engine with this one, itself among them."""
    expert = EXPERT.fullmatch(name.removesuffix(".weight"))
    if expert is not None:
        parts = ("down",) if expert["part"] == "down" else ("gate", "up")
        ends = tuple(f".{part}_proj.weight" for part in parts)
        return [other for other in names if other.startswith(f"{expert['stack']}.") and other.endswith(ends)]
    for group in _SHARED:
        for part in group:
            if f".{part}." in name:
                return [name.replace(f".{part}.", f".{other}.") for other in group]
    return [name]


__all__ = ["MergedCheckpoint", "with_adapters"]
