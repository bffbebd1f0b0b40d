"""Which group of scales an input belongs to, where a checkpoint lists it (g_idx): runs of inputs, as an engine's groups
are, or an order of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.formats.parts import Parts
from llama4rt.convert.stored_rows import GROUP_SIZES

GROUPS_OF_THEIR_OWN = (
    "its groups are not runs of inputs (desc_act, or actorder group), as an engine's are, so its numbers were taken "
    "and stored as the build's options say; --weights int8 or bf16 keeps them closer than int4"
)


@dataclass(frozen=True)
class InputGroups:
    """size: the largest of an engine's group sizes whose runs share a group; None: not even those of 16 do."""

    of_input: NDArray[np.int64]  # [in]
    size: int | None
    is_listed: bool = False  # by a tensor of the checkpoint
    problems: tuple[str, ...] = ()

    @property
    def of_group(self) -> NDArray[np.int64]:
        """The checkpoint's group of each of the engine's."""
        assert self.size is not None
        return self.of_input[:: self.size]


def groups_of_inputs(
    base: Checkpoint, parts: Parts, part: str, into: int, groups: int, declared: Iterable[int]
) -> InputGroups | None:
    """Of a matrix of `into` inputs and `groups` groups; None where so many groups do not make up the inputs.

    part: the list, where there is one. All -1 means the same as none, and -1 alone the last group, as writers read it.
    declared: group sizes that the config names; they decide where the last group may be short.
    """
    sizes = [size for size in declared if -(-into // size) == groups]
    if not sizes and into % groups == 0:
        sizes = [into // groups]
    info = parts.info(part)
    if info.shape == (into,) and info.dtype in ("I32", "I64"):
        listed = parts.array(base, part).astype(np.int64)
        if not bool((listed == -1).all()):
            listed = np.where(listed < 0, listed + groups, listed)
            if bool(((listed < 0) | (listed >= groups)).any()):
                problem = f"{parts.said(part)}: names a group outside 0..{groups - 1}"
                return InputGroups(np.zeros_like(listed), GROUP_SIZES[0], True, (problem,))
            return InputGroups(listed, _run(listed), True)
    if not sizes:
        return None
    plain = np.arange(into, dtype=np.int64) // sizes[0]
    return InputGroups(plain, _run(plain))


def _run(of_input: NDArray[np.int64]) -> int | None:
    changes = np.flatnonzero(of_input[1:] != of_input[:-1]) + 1
    return next((size for size in GROUP_SIZES if not bool((changes % size).any())), None)


__all__ = ["GROUPS_OF_THEIR_OWN", "InputGroups", "groups_of_inputs"]
