"""Stacks [E, out, in] of one projection of all experts, `....experts.gate_proj`: each matrix gets the name that it
would have alone, `....experts.N.gate_proj.weight`, so that nothing else must know of stacks.
"""

import re
from collections.abc import Iterator

_STACK = re.compile(r"(.+\.experts)\.(gate|up|down)_proj")
_MAX_EXPERTS = 65_536


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


__all__ = ["matrices_of"]
