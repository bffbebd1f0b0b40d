"""Step: one step of the engine beside the reference, and whether rounding explains what lies between."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

# A step is explained while its error is at most this many times the expected one; a single output (a row of the
# matrix, a head's dimension) has few samples and its own share of the error, and is given more. Sound files of every
# kind stay below half of both (docs/quality.md); a mistake in a scale or a place is tens of times larger.
MOST = 2.0
MOST_OF_ONE = 8.0


@dataclass(frozen=True)
class Step:
    name: str  # "layers.3.attn.q"
    op: str  # what the engine ran: names of csrc/ops/ops.h
    size: float  # RMS of the reference's result
    error: float  # RMS of the difference over `size`, both from what the engine was given
    explained: float  # the same of the error that rounding explains
    worst: float  # of single outputs: the largest ratio of their error to the explained one
    worst_output: int  # which
    drift: float  # RMS of the difference to the reference's own forward pass, over its size
    note: str = ""

    @property
    def ratio(self) -> float:
        """Of the error to the explained one."""
        if self.error == 0:
            return 0.0
        return self.error / self.explained if self.explained > 0 else math.inf

    @property
    def problem(self) -> str:
        """Why the step is not explained; empty where it is."""
        if not math.isfinite(self.error):
            return "not finite"
        if self.ratio > MOST:
            return f"error is {self.ratio:.3g} times what rounding explains"
        if self.worst > MOST_OF_ONE:
            return f"output {self.worst_output} is {self.worst:.3g} times as far off as rounding explains"
        return self.note if self.note.startswith("!") else ""

    def as_json(self) -> dict[str, Any]:
        def number(x: float) -> float | None:
            return x if math.isfinite(x) else None

        return {
            "step": self.name, "op": self.op, "size": number(self.size), "error": number(self.error),
            "explained": number(self.explained), "ratio": number(self.ratio), "worst_output": self.worst_output,
            "worst_ratio": number(self.worst), "drift": number(self.drift), "note": self.note,
            "problem": self.problem,
        }  # fmt: skip


class StepSums:
    """Sums over a result that comes in slices of outputs."""

    def __init__(self) -> None:
        self._count = 0
        self._size = self._error = self._explained = 0.0
        self._drift = self._own_size = 0.0
        self._worst, self._worst_output, self._outputs = 0.0, 0, 0

    def add(self, engine: Array, expected: Array, variance: Wide | float, own: Array | None = None) -> None:
        """[T, n] each: the engine's, the reference's of the same inputs, the explained variance, and the result of the
        reference's own forward pass.
        """
        if not engine.size:
            return
        wide = expected.astype(np.float64)
        difference = engine.astype(np.float64) - wide
        allowed = np.broadcast_to(variance, engine.shape)
        self._count += engine.size
        self._size += float((wide**2).sum())
        self._error += float((difference**2).sum())
        self._explained += float(allowed.sum())
        per_output, may = (difference**2).sum(axis=0), allowed.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.sqrt(np.where(per_output > 0, per_output / may, 0.0))
        at = int(np.argmax(ratios))
        if ratios[at] > self._worst:
            self._worst, self._worst_output = float(ratios[at]), self._outputs + at
        self._outputs += engine.shape[1]
        if own is not None:
            self._own_size += float((own.astype(np.float64) ** 2).sum())
            self._drift += float(((engine.astype(np.float64) - own) ** 2).sum())

    def step(self, name: str, op: str, note: str = "") -> Step:
        size = math.sqrt(self._size / max(self._count, 1))

        def relative(total: float) -> float:
            rms = math.sqrt(total / max(self._count, 1))
            return rms / size if size > 0 else rms

        drift = math.sqrt(self._drift / self._own_size) if self._own_size > 0 else math.sqrt(self._drift)
        return Step(
            name,
            op,
            size,
            relative(self._error),
            relative(self._explained),
            self._worst,
            self._worst_output,
            drift,
            note,
        )


__all__ = ["MOST", "MOST_OF_ONE", "Step", "StepSums"]
