"""The kept counts of machine code: what one round of a kernel's loop costs (scripts/machine_code_counts.py)."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from llama4rt.errors import Llama4RTError
from llama4rt.gpu_model.chip import Chip


@dataclass(frozen=True)
class Loop:
    """One round of a kernel's main loop, of one warp: warp instructions by pipe, tensor instructions by shape."""

    kernel: str
    counts: dict[str, float]

    def cycles(self, chip: Chip) -> dict[str, float]:
        """Cycles of a scheduler that each pipe is busy with one round ("load/store" is shared by four)."""
        return {
            "issue": self.counts.get("issue", 0),
            "integer": self.counts.get("alu", 0) * chip.alu_cycles.value,
            "fma": self.counts.get("fma", 0) * chip.fma_cycles.value
            + self.counts.get("imad", 0) * chip.imad_cycles.value,
            "special": self.counts.get("xu", 0) * chip.xu_cycles.value,
            "load/store": self.counts.get("lsu", 0) * 4,
            "tensor": sum(
                self.counts[s] * _tensor_cycles(s, chip) for s in self.counts if "HMMA." in s or "GMMA." in s
            ),
        }

    def products(self) -> float:
        """Multiply-adds of tensor instructions in a round, of one warp."""
        return sum(self.counts[s] * _multiply_adds(s) for s in self.counts if "HMMA." in s or "GMMA." in s)


def _multiply_adds(shape: str) -> float:
    """Of one warp: "HMMA.16816" is m16n8k16; of "HGMMA.64x128x16" a warp does a quarter."""
    if shape == "HMMA.16816":
        return 16 * 8 * 16
    m, n, k = map(int, shape.split(".")[1].split("x"))
    return m * n * k / 4


def _tensor_cycles(shape: str, chip: Chip) -> float:
    rate = chip.wgmma_rate.value * (chip.mma_share.value if shape.startswith("HMMA") else 1.0)
    return _multiply_adds(shape) / rate


@cache
def _kept() -> dict[str, dict[str, dict[str, float]]]:
    text = files("llama4rt.gpu_model").joinpath("machine_code.json").read_text(encoding="utf-8")
    kernels: dict[str, dict[str, dict[str, float]]] = json.loads(text)["kernels"]
    return kernels


def kernel_names() -> list[str]:
    return sorted(_kept())


def loop_of(kernel: str) -> Loop:
    """The main loop of a kernel by its name with template arguments."""
    if kernel not in _kept():
        raise Llama4RTError(
            f"the counts of machine code have no kernel {kernel!r}; scripts/machine_code_counts.py"
        )
    return Loop(kernel, _kept()[kernel]["loop"])
