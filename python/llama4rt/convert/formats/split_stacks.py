"""Quantised stacks of one projection of all experts, `....experts.gate_proj.weight_packed` [E, ...]: every expert's
part of each tensor under the name that it would have alone, so that no format must know of stacks.

compressed-tensors packs stacks matrix by matrix. Left alone are stacks of plain numbers and MLX's, which have readers
of their own (stacked_experts.py, mlx.py), and bitsandbytes' streams, which have no axis of experts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llama4rt.convert.checkpoint import FLOAT_DTYPES, Checkpoint, TensorInfo
from llama4rt.convert.formats.layer import CheckpointLayer
from llama4rt.convert.stored_rows import Codes, Values
from llama4rt.errors import CheckpointError

_MAIN = re.compile(
    r"(?P<module>(?P<experts>.+\.experts)\.(?P<projection>gate|up|down)_proj)\.(?:weight|weight_packed|qweight)"
)
_OTHER_READERS = (*FLOAT_DTYPES, "U32")
_SHAPE = "weight_shape"  # [E, out, in], or of each expert [E, 2]
_MAX_EXPERTS = 65_536


@dataclass(frozen=True)
class _Part:
    """One expert's part of a tensor, or a whole one that all experts share."""

    stack: str
    shape: tuple[int, ...]
    index: int | None  # None: the whole
    skipped: int = 0  # entries at the start of a whole one


def with_split_stacks(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, with such stacks taken apart; itself where there are none. Raises CheckpointError where an expert
    is in a stack and alone.
    """
    names = checkpoint.names()
    stacks = {
        found["module"]: (f"{found['experts']}.", f".{found['projection']}_proj", info.shape[0])
        for name, info in names.items()
        if len(info.shape) == 3
        and info.dtype not in _OTHER_READERS
        and info.shape[0] <= _MAX_EXPERTS
        and (found := _MAIN.fullmatch(name))
    }
    parts: dict[str, _Part] = {}
    for name, info in names.items():
        module, _, part = name.rpartition(".")
        if module in stacks:
            before, after, experts = stacks[module]
            for index in range(experts):
                parts[f"{before}{index}{after}.{part}"] = _part(name, part, info.shape, experts, index)
    doubled = next((name for name in parts if name in names), None)
    if doubled is not None:
        raise CheckpointError(
            f"{names[doubled].stored_name(doubled)}: is there, and {parts[doubled].stack} has it too; only one of the "
            "two can count"
        )
    return SplitStacks(checkpoint, parts) if parts else checkpoint


def _part(name: str, part: str, shape: tuple[int, ...], experts: int, index: int) -> _Part:
    if part == _SHAPE and shape in ((2,), (3,)):
        return _Part(name, (2,), None, shape[0] - 2)
    if shape and shape[0] == experts:
        return _Part(name, shape[1:], index)
    return _Part(name, shape, None)


class SplitStacks(CheckpointLayer):
    """A Checkpoint: `base` with `parts`, by their names, in the place of the stacks they are of."""

    def __init__(self, base: Checkpoint, parts: Mapping[str, _Part]) -> None:
        super().__init__(base)
        self._parts = parts
        stored = base.names()
        stacks = {part.stack for part in parts.values()}
        self._names = {name: info for name, info in stored.items() if name not in stacks}
        for name, part in parts.items():
            info = stored[part.stack]
            place = info.stored_name(part.stack) + ("" if part.index is None else f"[{part.index}]")
            self._names[name] = TensorInfo(info.dtype, part.shape, stored=(place,))

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        if name not in self._parts:
            return self._base.problems(name, shape)
        info = self._names[name]
        return [f"{info.stored_name(name)}: is {info}; expected {TensorInfo('BF16', shape)}"]

    def rows(
        self, name: str, first: int = 0, last: int | None = None, expert: int | None = None
    ) -> Values | Codes:
        part = self._parts.get(name)
        if part is None:
            return self._base.rows(name, first, last, expert)
        if part.index is None:
            last = None if last is None else part.skipped + last
            return self._base.rows(part.stack, part.skipped + first, last)
        stack = self._base.rows(part.stack, part.index, part.index + 1)
        assert isinstance(stack, Values)
        one = stack.array.reshape(part.shape)
        return Values(one[first:last] if part.shape else one, stack.dtype)

    def release(self, name: str) -> None:
        part = self._parts.get(name)
        self._base.release(name if part is None else part.stack)

    def nbytes(self, name: str) -> int:
        part = self._parts.get(name)
        if part is None:
            return self._base.nbytes(name)
        whole = self._base.nbytes(part.stack)
        return whole if part.index is None else whole // self._base.names()[part.stack].shape[0]


__all__ = ["SplitStacks", "with_split_stacks"]
