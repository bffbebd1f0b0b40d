"""What readers of quantised matrices share: the tensors that one matrix is stored in, checked and read by their part.

A part is what a tensor's name says after the module's: "weight_scale" of "....q_proj.weight_scale".
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import FLOAT_DTYPES, Checkpoint, TensorInfo
from llama4rt.convert.stored_rows import Values, as_float32
from llama4rt.errors import CheckpointError

# A part, the element types it may have, and its shape, or the shapes it may have.
Wanted = tuple[str, tuple[str, ...], tuple[int, ...] | list[tuple[int, ...]]]

_NOTHING = TensorInfo("", ())


class Parts:
    """Those of `names` that are there. Reads through the checkpoint it is given, and keeps none."""

    def __init__(self, base: Checkpoint, names: Mapping[str, str]) -> None:
        """names: part -> the tensor's whole name, the main part first."""
        tensors = base.names()
        self._names = {part: name for part, name in names.items() if name in tensors}
        self._infos = {part: tensors[name] for part, name in self._names.items()}

    def __contains__(self, part: str) -> bool:
        return part in self._names

    @property
    def stored(self) -> tuple[str, ...]:
        """As TensorInfo.stored."""
        return tuple(self._names.values())

    def name(self, part: str) -> str:
        return self._names[part]

    def said(self, part: str) -> str:
        """How messages call a part: as the files do."""
        return self._infos[part].stored_name(self._names[part])

    def info(self, part: str) -> TensorInfo:
        """Of a part that is not there: no type and no axes."""
        return self._infos.get(part, _NOTHING)

    def misshapen(self, wanted: Iterable[Wanted]) -> list[str]:
        """A line for each part that is there and not as it should be."""
        problems = []
        for part, dtypes, shapes in wanted:
            found = self._infos.get(part)
            allowed = shapes if isinstance(shapes, list) else [shapes]
            if found is None or (found.dtype in dtypes and found.shape in allowed):
                continue
            expected = " or ".join(str(TensorInfo("", shape)).strip() for shape in allowed)
            problems.append(f"{self.said(part)}: is {found}; expected {' or '.join(dtypes)} {expected}")
        return problems

    def array(self, base: Checkpoint, part: str, first: int = 0, last: int | None = None) -> NDArray[Any]:
        """Entries first..last of a part's first axis, as they are stored. May be a view of the mapped file."""
        rows = base.rows(self._names[part], first, last)
        assert isinstance(rows, Values)
        return rows.array

    def numbers(self, base: Checkpoint, part: str) -> NDArray[np.float32]:
        """A whole small part of a floating-point type."""
        return as_float32(self.array(base, part), self._infos[part].dtype)

    def positive_number(self, base: Checkpoint, part: str) -> NDArray[np.float32]:
        """The number of a part that holds one, as [1]. Raises CheckpointError when it is no factor."""
        number = self.numbers(base, part).reshape(1)
        if not (np.isfinite(number) and number > 0):
            raise CheckpointError(f"{self.said(part)}: is {number[0]}; it must be positive and finite")
        return number


def kept_type(dtype: str) -> str:
    """Of the scales of a layout: as the checkpoint has them; of a damaged one, some."""
    return dtype if dtype in FLOAT_DTYPES else "F32"


def numbers_of(a: NDArray[np.float32], b: NDArray[np.float32] | np.float32) -> NDArray[np.float32]:
    """Their products. Those that are NaN or infinite are refused where they are stored, so nothing is said of them."""
    with np.errstate(invalid="ignore", over="ignore"):
        return a * b


__all__ = ["Parts", "Wanted", "kept_type", "numbers_of"]
