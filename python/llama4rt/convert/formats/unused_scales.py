"""Scales of activations and of the cache that quantised checkpoints carry along: an engine computes its own, from what
it sees, so they are left out, and said to be.
"""

import math
from collections.abc import Mapping, Sequence

from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.formats.layer import CheckpointLayer
from llama4rt.convert.stored_rows import Codes, Values

_ACTIVATIONS = (
    ".input_scale",
    ".input_global_scale",
    ".input_zero_point",
    ".output_scale",
    ".output_global_scale",
    ".output_zero_point",
    ".activation_scale",  # of fine-grained FP8
    "_proj_input_scale",  # of fused experts
    "_proj_activation_scale",
)
_CACHE = (".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".prob_scale", ".k_zero_point", ".v_zero_point")
_MAX_NUMBERS = 1 << 16


def without_unused_scales(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without them; itself, where there are none."""
    notes = []
    unused: set[str] = set()
    for what, instead, ends in (
        ("scales of activations", "activations are quantised by what they are", _ACTIVATIONS),
        ("scales of the cache", "--kv-cache-dtype chooses how keys and values are kept", _CACHE),
    ):
        names = [name for name, info in checkpoint.names().items() if name.endswith(ends) and _is_small(info)]
        unused.update(names)
        if names:
            notes.append(f"{len(names)} {what} ({names[0]} and so on) are not used: {instead}")
    return WithoutTensors(checkpoint, unused, notes) if unused else checkpoint


def _is_small(info: TensorInfo) -> bool:
    return 0 < math.prod(info.shape) <= _MAX_NUMBERS


class WithoutTensors(CheckpointLayer):
    """A Checkpoint: `base` without some of its tensors."""

    def __init__(self, base: Checkpoint, left_out: set[str], notes: Sequence[str]) -> None:
        super().__init__(base)
        self._names = {name: info for name, info in base.names().items() if name not in left_out}
        self._notes = notes

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def notes(self) -> Sequence[str]:
        return (*self._base.notes(), *self._notes)

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return self._base.problems(name, shape)

    def rows(
        self, name: str, first: int = 0, last: int | None = None, expert: int | None = None
    ) -> Values | Codes:
        return self._base.rows(name, first, last, expert)

    def release(self, name: str) -> None:
        self._base.release(name)

    def nbytes(self, name: str) -> int:
        return self._base.nbytes(name)


__all__ = ["WithoutTensors", "without_unused_scales"]
