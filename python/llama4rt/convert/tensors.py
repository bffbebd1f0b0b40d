"""What the converter needs of a checkpoint's tensors: their description, their bytes as arrays, their values."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Element types that are read; bf16 travels as its 16 bits, because numpy has no such type.
NUMPY_DTYPES = {
    "BF16": "<u2",
    "F16": "<f2",
    "F32": "<f4",
    "I8": "i1",
    "U8": "u1",
    "I32": "<i4",
    "I64": "<i8",
}
FLOAT_DTYPES = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class TensorInfo:
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"


class SourceTensors(Protocol):
    """Tensors by their names in the checkpoint."""

    def array(self, name: str) -> NDArray[Any]:
        """A read-only view of the file, shaped, of the dtype in NUMPY_DTYPES."""

    def release(self, name: str) -> None:
        """The pages of this tensor are not needed any more."""


def as_float32(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Exact fp32 values of a floating-point array as SourceTensors gives it."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


__all__ = ["FLOAT_DTYPES", "NUMPY_DTYPES", "SourceTensors", "TensorInfo", "as_float32"]
