"""A layer's experts in the base, as one stack of each kind or as one matrix of each expert; and where the factors of
PEFT's stacked parameters, or of one expert's matrix, go in either.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llama4rt.convert.checkpoint import TensorInfo
from llama4rt.errors import CheckpointError

EXPERT = re.compile(r"(?P<stack>.+\.feed_forward\.experts)\.(?P<expert>\d+)\.(?P<part>gate|up|down)_proj")
PARAMETERS = ("gate_up_proj", "down_proj")
_PARTS = {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}


@dataclass(frozen=True)
class Place:
    """Rows first..first + rows of a tensor, of one expert of a stack or of all; they are outputs from `begin` on of the
    whole parameter.
    """

    tensor: str
    first: int
    rows: int
    begin: int
    expert: int | None  # of what the base has one by one


@dataclass(frozen=True)
class BaseExperts:
    """sizes: parameter -> (in, out) of one expert."""

    module: str  # with no prefix
    experts: int
    sizes: Mapping[str, tuple[int, int]]
    fused: Mapping[str, str]  # parameter -> tensor; empty where each expert has its own
    single: Mapping[tuple[int, str], str]  # (expert, part) -> tensor

    def places(self, parameter: str) -> Iterator[Place]:
        """Of a whole parameter."""
        out = self.sizes[parameter][1]
        if self.fused:
            yield Place(self.fused[parameter], 0, out, 0, None)
            return
        parts = _PARTS[parameter]
        rows = out // len(parts)
        for expert in range(self.experts):
            for i, part in enumerate(parts):
                yield Place(self.single[expert, part], 0, rows, i * rows, expert)

    def place_of(self, expert: int, part: str) -> Place:
        """Of one expert's matrix, in a stack."""
        parameter = "down_proj" if part == "down" else "gate_up_proj"
        if expert >= self.experts or parameter not in self.fused:
            raise CheckpointError(f"the base has {self.experts} experts in {self.module}")
        rows = self.sizes[parameter][1] // len(_PARTS[parameter])
        return Place(self.fused[parameter], rows if part == "up" else 0, rows, 0, expert)

    def described(self) -> str:
        sizes = " and ".join(f"{name} [{out}, {into}]" for name, (into, out) in self.sizes.items())
        return f"{self.experts} experts of {sizes}"


def base_experts(
    module: str, by_name: Mapping[str, str], names: Mapping[str, TensorInfo]
) -> BaseExperts | None:
    """Of one layer. by_name: the base's names without prefixes -> its own. None where there are none."""
    fused = {p: by_name[f"{module}.{p}"] for p in PARAMETERS if f"{module}.{p}" in by_name}
    shapes = {parameter: names[name].shape for parameter, name in fused.items()}
    if shapes and all(len(shape) == 3 for shape in shapes.values()):
        experts = min(shape[0] for shape in shapes.values())
        return BaseExperts(module, experts, {p: (s[1], s[2]) for p, s in shapes.items()}, fused, {})
    single: dict[tuple[int, str], str] = {}
    while all(
        f"{module}.{len(single) // 3}.{part}_proj.weight" in by_name for part in ("gate", "up", "down")
    ):
        expert = len(single) // 3
        single |= {
            (expert, part): by_name[f"{module}.{expert}.{part}_proj.weight"]
            for part in ("gate", "up", "down")
        }
    if not single:
        return None
    gate, down = (names[single[0, part]].shape for part in ("gate", "down"))
    if len(gate) != 2 or len(down) != 2:
        return None
    sizes = {"gate_up_proj": (gate[1], 2 * gate[0]), "down_proj": (down[1], down[0])}
    return BaseExperts(module, len(single) // 3, sizes, {}, single)


__all__ = ["EXPERT", "PARAMETERS", "BaseExperts", "Place", "base_experts"]
