"""An engine file's numbers in fp32, in the order in which the model means them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core

Array = NDArray[np.float32]


class FileValues:
    def __init__(self, file: _core.EngineFile) -> None:
        import json

        self._file = file
        self._specs = {spec.name: spec for spec in _core.list_tensors(file.metadata["config"])}
        self._described: Mapping[str, Mapping[str, Any]] = json.loads(file.metadata["weights"])

    def described(self, name: str) -> Mapping[str, Any]:
        """The file's own entry of a weight: its kind, its group size and its error."""
        return self._described[name]

    def rows(self, name: str, part: int, first: int, last: int, expert: int = 0) -> Array:
        """Rows first..last of a part of a fused matrix: q, k and v, or gate and up, which lie interleaved."""
        where = self._specs[name].stored_rows(part, first, last)
        low = int(where.min())
        return self._file.dequantize(name, expert, low, int(where.max()) + 1)[where - low]


__all__ = ["FileValues"]
