"""Checkpoint: what the converter asks of a checkpoint, whatever its container and its quantisation.

Tensors have the names of Hugging Face's Llama 4 and shapes in numbers, not in stored words: a linear that is packed
into several tensors is one tensor `....weight` [out, in] here. formats/ holds the implementations; everything else in
convert/ knows only this protocol.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llama4rt.convert.stored_rows import CodeLayout, Codes, Values
from llama4rt.errors import CheckpointError

# Element types that are read as plain numbers.
FLOAT_DTYPES = ("BF16", "F16", "F32")
_MAX_PROBLEMS = 60  # listed one by one; of more, one of each kind
_MAX_KINDS = 20


@dataclass(frozen=True)
class TensorInfo:
    """What a tensor is, before any of it is read."""

    dtype: str  # as safetensors names it; of a quantised matrix the kind of its codes: "int4"
    shape: tuple[int, ...]
    codes: CodeLayout | None = None  # how rows() gives it, when it gives codes
    stored: tuple[str, ...] = ()  # names of the tensors it is made of, the main one first; empty: its own
    note: str = ""  # where its numbers do not go in exactly: why, in words that follow the name of a matrix

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"

    def stored_name(self, name: str) -> str:
        """How messages call the tensor `name`: by a name that the checkpoint's files have."""
        return self.stored[0] if self.stored else name

    @property
    def element_bits(self) -> int:
        """Of one number as it is stored."""
        if self.codes is not None:
            return self.codes.bits
        return 32 if self.dtype == "F32" else 16


class TensorNames(Protocol):
    """Which tensors there are: enough to map names to the engine's."""

    def names(self) -> Mapping[str, TensorInfo]:
        """All tensors."""

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        """What keeps tensor `name` from being read as numbers of this shape, one line each. Reads no large tensor."""


class Checkpoint(TensorNames, Protocol):
    """An opened checkpoint. Nothing large is read before rows() asks for it."""

    @property
    def name(self) -> str:
        """For people: a hub id, or a directory's or file's name."""

    @property
    def revision(self) -> str | None:
        """The hub's commit that a download came from; None for anything else."""

    def config(self) -> Mapping[str, Any]:
        """config.json, or what a container without one says in its words."""

    def generation_config(self) -> Mapping[str, Any]:
        """generation_config.json; empty where there is none."""

    def rows(
        self, name: str, first: int = 0, last: int | None = None, expert: int | None = None
    ) -> Values | Codes:
        """Rows first..last (None: to the end) of a tensor of one or two axes, whose rows are outputs.

        expert: of a stack [E, in, out] the matrix to read; first and last then count its outputs. Values may be a view
        of the mapped file, valid until release().
        """

    def release(self, name: str) -> None:
        """The pages of this tensor are not needed any more."""

    def nbytes(self, name: str) -> int:
        """Bytes in the checkpoint, of all tensors it is made of."""

    def kept_files(self) -> Mapping[str, bytes]:
        """Name -> content of the files that go into the engine, sorted by name."""

    def licenses(self) -> Sequence[str]:
        """Names of those that are licences, notices and policies, sorted."""

    def source_hash(self) -> str:
        """Names the checkpoint without reading its weights: "sha256:..."."""

    def notes(self) -> Sequence[str]:
        """What a person who builds from it should know, a sentence each: parts left unused, facts assumed."""

    def paths(self) -> Sequence[Path]:
        """The files of weights, and of what else it reads."""

    def contains(self, path: str) -> bool:
        """Whether an existing file is one of the checkpoint's, under whatever name."""


def notes_of_matrices(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """A line for each note that matrices have, with the first of them by its stored name."""
    named: dict[str, list[str]] = {}
    for name, info in tensors.items():
        if info.note:
            named.setdefault(info.note, []).append(info.stored_name(name))
    lines = []
    for note, names in named.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{names[0]}{others}: {note}")
    return lines


def plain_problems(name: str, info: TensorInfo, shape: tuple[int, ...]) -> list[str]:
    """TensorNames.problems of a tensor that is stored as plain numbers."""
    if info.shape == shape and info.dtype in FLOAT_DTYPES:
        return []
    wanted = TensorInfo(", ".join(FLOAT_DTYPES[:-1]) + f" or {FLOAT_DTYPES[-1]}", shape)
    return [f"{name}: is {info}; expected {wanted}"]


def raise_problems(problems: Sequence[str], what: str) -> None:
    """One CheckpointError that lists them, up to a few dozen in full; nothing when there are none."""
    if not problems:
        return
    lines = problems if len(problems) <= _MAX_PROBLEMS else _kinds(problems)
    raise CheckpointError("\n  ".join([f"{len(problems)} {what}:", *lines]))


def _kinds(problems: Sequence[str]) -> list[str]:
    """One problem of each kind: those of a kind differ in numbers alone (layers, experts)."""
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(re.sub(r"\d+", "0", problem), []).append(problem)
    lines = [
        kind[0] + (f" (and {len(kind) - 1} more like it)" if len(kind) > 1 else "")
        for kind in list(kinds.values())[:_MAX_KINDS]
    ]
    if len(kinds) > _MAX_KINDS:
        lines.append(f"and {len(kinds) - _MAX_KINDS} more kinds of problems")
    return lines


__all__ = [
    "FLOAT_DTYPES",
    "Checkpoint",
    "TensorInfo",
    "TensorNames",
    "notes_of_matrices",
    "plain_problems",
    "raise_problems",
]
