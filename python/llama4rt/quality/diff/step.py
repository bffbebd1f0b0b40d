"""Step: one step of the engine beside the reference, and whether rounding explains what lies between.

A step with a matrix is asked two things. Are the file's weights as near to the checkpoint's as the file says? And is
what the engine computes from them what they give, but for the rounding of activations and sums?
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

# What a step may be off, in errors expected of rounding, each number by its own: the root mean square of all, and of a
# single output (a row of a matrix, a dimension of a head), which has few samples. Sound files stay below two thirds of
# both (docs/quality.md).
MOST = 2.0
MOST_OF_ONE = 6.0
# What weights may be off, in errors that the file reports: in all where all were looked at, in all of a part of them
# (some experts), and in one row.
MOST_WEIGHTS = 1.01
MOST_OF_SOME_WEIGHTS = 1.5
MOST_OF_ONE_ROW = 8.0
# Rounding is as often up as down. How much larger or smaller it may make a row, or a matrix of a stack: in standard
# errors of a mean over its weights, and in squares of the error, by which a search for scales shrinks what it stores.
MOST_GROWTH, MOST_SHRINKING = 8.0, 2.0
_EXACT = 1e-6  # relative: below it lies the rounding of fp32


@dataclass(frozen=True)
class WeightError:
    """Of the weights behind a step, relative RMS to the checkpoint's."""

    error: float
    reported: float  # by the file
    whole: bool  # all of the file's tensor was looked at
    worst_row: float
    worst_row_name: str
    scaled: str = ""  # what is larger or smaller than the checkpoint's, in words

    @property
    def problem(self) -> str:
        if self.scaled:
            return self.scaled
        most = MOST_WEIGHTS if self.whole else MOST_OF_SOME_WEIGHTS
        if not self.error <= most * self.reported + _EXACT:
            return f"the weights are {self.error:.2%} off, and the file says {self.reported:.2%}"
        if not self.worst_row <= MOST_OF_ONE_ROW * self.reported + _EXACT:
            return (
                f"{self.worst_row_name} of the weights is {self.worst_row:.2%} off, and the file says "
                f"{self.reported:.2%} of all"
            )
        return ""


class WeightSums:
    """Sums over a weight that comes in slices of rows. reported: the error that the file gives of all of it."""

    def __init__(self, reported: float) -> None:
        self._reported = reported
        self._size = self._error = self._worst = 0.0
        self._worst_row = "row 0"
        self._rows: tuple[float, str] = (1.0, "")  # the furthest beyond what rounding does, and its words
        self._matrices: dict[str, list[float]] = {}  # sums of squares, products, squared errors; weights

    def add(self, file: Array, checkpoint: Array, first_row: int, of: str = "") -> None:
        """of: which matrix of a stack the rows belong to."""
        exact, columns = checkpoint.astype(np.float64), checkpoint.shape[1]
        error, size = ((file - exact) ** 2).sum(axis=1), (exact**2).sum(axis=1)
        products = (file * exact).sum(axis=1)
        self._error += float(error.sum())
        self._size += float(size.sum())
        # A row that is nearly nothing is measured by its neighbours.
        rows = np.sqrt(error / np.maximum(size, 1e-6 * size.mean() + 1e-300))
        at = int(np.argmax(rows))
        if rows[at] > self._worst or math.isnan(rows[at]):
            self._worst, self._worst_row = float(rows[at]), f"row {first_row + at}{of}"
        beyond, growth = self._beyond(size, products, error, columns)
        at = int(np.argmax(beyond))
        if beyond[at] > self._rows[0]:
            self._rows = (
                float(beyond[at]),
                f"row {first_row + at}{of} of the weights is {growth[at]:.4g} times",
            )
        sums = self._matrices.setdefault(of, [0.0] * 4)
        for i, part in enumerate((size, products, error)):
            sums[i] += float(part.sum())
        sums[3] += exact.size

    def found(self, whole: bool) -> WeightError:
        error = math.sqrt(self._error / self._size) if self._size > 0 else math.sqrt(self._error)
        return WeightError(error, self._reported, whole, self._worst, self._worst_row, self._scaled())

    def _scaled(self) -> str:
        words = self._rows[1]
        worst = 1.0
        for of, (size, products, error, count) in self._matrices.items():
            beyond, growth = self._beyond(np.array([size]), np.array([products]), np.array([error]), count)
            if beyond[0] > worst:
                worst = float(beyond[0])
                words = f"the weights{of} are {growth[0]:.4g} times"
        return f"{words} as large as the checkpoint's, beyond what rounding does" if words else ""

    def _beyond(self, size: Wide, products: Wide, error: Wide, count: float) -> tuple[Wide, Wide]:
        """(how far a scale is from one, in what rounding explains; the scale), of each."""
        with np.errstate(divide="ignore", invalid="ignore"):
            growth = np.where(size > 0, products / size, 1.0)
            own = np.sqrt(np.where(size > 0, error / size, 0.0))
        typical = np.minimum(own, 2 * self._reported)
        explained = MOST_SHRINKING * typical**2 + MOST_GROWTH * typical / math.sqrt(count) + _EXACT
        return np.abs(growth - 1) / explained, growth


@dataclass(frozen=True)
class Step:
    name: str  # "layers.3.attn.q"
    op: str  # what the engine ran: names of csrc/ops/ops.h
    size: float  # RMS of the reference's result
    error: float  # RMS of the difference to it, over `size`; both from what the engine was given
    of_weights: float  # the part of it that the file's weights make, over `size`
    rest: float  # RMS of the difference to what the file's weights give, over `size`
    explained: float  # of the rest: what rounding explains
    ratio: float  # of the rest to what rounding explains, RMS over all numbers
    worst: float  # the same of the output that is furthest off
    worst_output: int
    drift: float  # RMS of the difference to the reference's own forward pass, over its size
    weights: WeightError | None = None
    note: str = ""
    fault: str = ""  # what is wrong beside numbers

    @property
    def problem(self) -> str:
        """Why the step is not explained; empty where it is."""
        if self.fault:
            return self.fault
        if not math.isfinite(self.error):
            return "the result is not finite"
        if self.weights is not None and self.weights.problem:
            return self.weights.problem
        if not self.ratio <= MOST:
            return f"the result is {self.ratio:.3g} times as far off as rounding explains"
        if not self.worst <= MOST_OF_ONE:
            return f"output {self.worst_output} is {self.worst:.3g} times as far off as rounding explains"
        return ""

    def as_json(self) -> dict[str, Any]:
        def number(x: float) -> float | None:
            return x if math.isfinite(x) else None

        names = ("size", "error", "of_weights", "rest", "explained", "ratio", "worst", "drift")
        out: dict[str, Any] = {"step": self.name, "op": self.op}
        out |= {name: number(getattr(self, name)) for name in names}
        out["worst_output"] = self.worst_output
        if (w := self.weights) is not None:
            out["weights"] = {
                "error": number(w.error),
                "reported": w.reported,
                "worst_row": number(w.worst_row),
                "worst_row_name": w.worst_row_name,
            }
        return out | {"note": self.note, "problem": self.problem}


class StepSums:
    """Sums over a result that comes in slices of outputs."""

    def __init__(self) -> None:
        self._count = 0
        self._size = self._error = self._of_weights = self._rest = self._explained = 0.0
        self._ratios = self._drift = self._own_size = 0.0
        self._worst, self._worst_output, self._outputs = 0.0, 0, 0

    def add(
        self,
        engine: Array,
        expected: Array,
        variance: Wide | float,
        own: Array | None = None,
        from_file: Array | None = None,
    ) -> None:
        """[T, n] each: the engine's; the reference's of the same inputs; what rounding explains of the difference to
        `from_file`, which is what the file's weights give (None: there are no weights); the result of the reference's
        own forward pass.
        """
        if not engine.size:
            return
        wide, exact = engine.astype(np.float64), expected.astype(np.float64)
        given = exact if from_file is None else from_file.astype(np.float64)
        rest = (wide - given) ** 2
        self._count += engine.size
        self._size += float((exact**2).sum())
        self._error += float(((wide - exact) ** 2).sum())
        self._of_weights += float(((given - exact) ** 2).sum())
        self._rest += float(rest.sum())
        allowed = np.broadcast_to(variance, engine.shape)
        self._explained += float(allowed.sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(rest > 0, rest / allowed, 0.0)
        self._ratios += float(ratios.sum())
        per_output = np.sqrt(ratios.mean(axis=0))
        at = int(np.argmax(per_output))
        if not per_output[at] <= self._worst:  # NaN too
            self._worst, self._worst_output = float(per_output[at]), self._outputs + at
        self._outputs += engine.shape[1]
        if own is not None:
            self._own_size += float((own.astype(np.float64) ** 2).sum())
            self._drift += float(((wide - own) ** 2).sum())

    def step(
        self, name: str, op: str, weights: WeightError | None = None, note: str = "", fault: str = ""
    ) -> Step:
        size = math.sqrt(self._size / max(self._count, 1))

        def relative(total: float) -> float:
            rms = math.sqrt(total / max(self._count, 1))
            return rms / size if size > 0 else rms

        drift = math.sqrt(self._drift / self._own_size) if self._own_size > 0 else math.sqrt(self._drift)
        return Step(
            name=name,
            op=op,
            size=size,
            error=relative(self._error),
            of_weights=relative(self._of_weights),
            rest=relative(self._rest),
            explained=relative(self._explained),
            ratio=math.sqrt(self._ratios / max(self._count, 1)),
            worst=self._worst,
            worst_output=self._worst_output,
            drift=drift,
            weights=weights,
            note=note,
            fault=fault,
        )


__all__ = ["MOST", "MOST_OF_ONE", "Step", "StepSums", "WeightError", "WeightSums"]
