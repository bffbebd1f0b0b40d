"""A tensor of the model, joined from the parts of it in the files of Meta's checkpoint, when its rows are asked for.

Model parallelism cut a matrix [out, in] along its outputs or its inputs, one part to a file; small tensors are whole in
every file. A file's part may also be rows of a larger tensor (q, k and v in one), or one matrix of a stack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import TensorInfo, plain_problems
from llama4rt.convert.formats.torch_file import TorchFile
from llama4rt.convert.stored_rows import Codes, Values
from llama4rt.errors import CheckpointError

Array = NDArray[Any]


@dataclass(frozen=True)
class Part:
    """Where a part of a matrix is in each file."""

    key: str
    # The file's tensor, and the expert, to the part: [out, in], or [n] of a vector.
    view: Callable[[Array, int | None], Array] = lambda array, expert: array


class JoinedTensor:
    """axis: along which the files' parts are joined; 0 outputs, 1 inputs, None: each file has the whole.
    parts: one after another along the outputs. transposed: the files have it as [in, out], and rows() gives that.
    """

    def __init__(
        self,
        files: Sequence[TorchFile],
        parts: Sequence[Part],
        info: TensorInfo,
        axis: int | None,
        transposed: bool = False,
    ) -> None:
        self._files = files
        self._parts = parts
        self._axis = axis
        self._transposed = transposed
        self.info = TensorInfo(info.dtype, info.shape, stored=tuple(part.key for part in parts))

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return plain_problems(self.info.stored_name(name), self.info, shape)

    def rows(self, first: int, last: int | None, expert: int | None) -> Values | Codes:
        begin = 0
        found = []
        for band in self._bands(expert):
            end = begin + band[0].shape[0]
            low, high = max(first, begin), end if last is None else min(last, end)
            if low < high:
                found.append(self._joined([block[low - begin : high - begin] for block in band], 1))
            begin = end
        array = self._joined(found, 0)
        return Values(array.T if self._transposed else array, self.info.dtype, self._transposed)

    def release(self) -> None:
        for part in self._parts:
            for file in self._files:
                file.release(part.key)

    def nbytes(self) -> int:
        """Of all files, or of one where each has the whole."""
        files = self._files[:1] if self._axis is None else self._files
        return sum(file.nbytes(part.key) for part in self._parts for file in files)

    def _bands(self, expert: int | None) -> list[list[Array]]:
        """[out, in] of a few outputs each, one after another; a band's blocks lie side by side along the inputs."""
        bands = []
        for part in self._parts:
            blocks = [part.view(file.array(part.key), expert) for file in self._files]
            if self._axis == 0:
                bands += [[block] for block in blocks]
            elif self._axis == 1:
                bands.append(blocks)
            else:
                self._check_same(blocks)
                bands.append(blocks[:1])
        return bands

    def _check_same(self, blocks: Sequence[Array]) -> None:
        for file, block in zip(self._files[1:], blocks[1:], strict=True):
            if not _same(blocks[0], block):
                raise CheckpointError(
                    f"differs between {self._files[0].path.name} and {file.path.name}, which must both have it whole; "
                    "the files are of different models"
                )

    def _joined(self, arrays: Sequence[Array], axis: int) -> Array:
        """Along the lines of memory, whichever way they run."""
        if len(arrays) == 1:
            return arrays[0]
        if self._transposed:
            joined: Array = np.concatenate([array.T for array in arrays], axis=1 - axis)
            return np.asarray(joined.T)
        return np.concatenate(arrays, axis=axis)


def _same(a: Array, b: Array) -> bool:
    """To the bit: a NaN equals itself."""
    bits = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[a.dtype.itemsize]
    return a.shape == b.shape and np.array_equal(a.view(bits), b.view(bits))


__all__ = ["JoinedTensor", "Part"]
