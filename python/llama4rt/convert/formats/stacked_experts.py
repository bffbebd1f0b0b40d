"""Stacks [E, out, in] of one projection of all experts, `....experts.gate_proj`: each matrix gets the name that it
would have alone, `....experts.N.gate_proj.weight`, so that nothing else must know of stacks.

MLX writes them, quantised or not, and some programs that fine-tune.
"""

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from llama4rt.convert.checkpoint import FLOAT_DTYPES, Checkpoint, TensorInfo, plain_problems
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.stored_rows import Values

_STACK = re.compile(r"(.+\.experts)\.(gate|up|down)_proj")
_MAX_EXPERTS = 65_536
_WEIGHT = ".weight"


def matrices_of(module: str, experts: int | None) -> Iterator[tuple[str, int]]:
    """(name, index) of each matrix of a module, whose name comes without `.weight`. experts: None of a module that is
    one matrix, with the index 0. A stack in another place than experts has no matrices.
    """
    if experts is None:
        yield f"{module}.weight", 0
        return
    stack = _STACK.fullmatch(module)
    if stack is not None and experts <= _MAX_EXPERTS:
        for expert in range(experts):
            yield f"{stack[1]}.{expert}.{stack[2]}_proj.weight", expert


class PlainStacks:
    """The Format of stacks of plain numbers."""

    title: ClassVar[str] = "experts stacked by projection"
    quant_methods: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        found: dict[str, StoredMatrix] = {}
        for name, info in checkpoint.names().items():
            if name.endswith(_WEIGHT) and len(info.shape) == 3 and info.dtype in FLOAT_DTYPES:
                matrices = matrices_of(name.removesuffix(_WEIGHT), info.shape[0])
                found |= {matrix: PlainSlice(name, info, index) for matrix, index in matrices}
        return found


class PlainSlice:
    """One matrix of a stack."""

    def __init__(self, stack: str, info: TensorInfo, index: int) -> None:
        self._stack = stack
        self._index = index
        self.info = TensorInfo(info.dtype, info.shape[1:], None, (stack,))

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        return plain_problems(f"{self._stack}[{self._index}]", self.info, shape)

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Values:
        assert expert is None
        stack = base.rows(self._stack, self._index, self._index + 1)
        assert isinstance(stack, Values)
        return Values(stack.array[0][first:last], stack.dtype)


__all__ = ["PlainSlice", "PlainStacks", "matrices_of"]
