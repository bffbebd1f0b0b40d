"""The key-value pairs of a GGUF file, asked for by type: what is of another type or out of range is a CheckpointError
that names the key.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.errors import CheckpointError

Value = bool | int | float | bytes | list[bytes] | NDArray[Any]


class Metadata:
    """Strings are kept as bytes and decoded when they are asked for. source: how errors call the file."""

    def __init__(self, source: str, pairs: Mapping[str, Value]) -> None:
        self.source = source
        self._pairs = pairs

    def __contains__(self, key: str) -> bool:
        return key in self._pairs

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def string(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if isinstance(value, str):
            return value
        if not isinstance(value, bytes):
            raise self._wrong(key, "a string")
        return self._decoded(key, value)

    def integer(
        self, key: str, low: int, high: int, default: int | None = None, *, zeros_aside: bool = False
    ) -> int:
        """Of an array, one number for each layer, the number that all of them are; zeros_aside: that are not 0."""
        value = self._value(key, default)
        if isinstance(value, np.ndarray):
            value = self._common(key, value[value != 0] if zeros_aside and value.any() else value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(key, f"an integer in {low}..{high}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Finite. What a file holds as float32 is given as the shortest decimal number that means it."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._wrong(key, "a finite number")
        with np.errstate(over="ignore"):
            narrow = np.float32(value)
        return float(str(narrow)) if float(narrow) == value else float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def strings(self, key: str) -> list[str]:
        value = self._value(key, None)
        if not isinstance(value, list):
            raise self._wrong(key, "an array of strings")
        return [self._decoded(key, item) for item in value]

    def integers(self, key: str) -> list[int]:
        value = self._value(key, None)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
            raise self._wrong(key, "an array of integers")
        return [int(item) for item in value]

    def reals(self, key: str) -> list[float]:
        value = self._value(key, None)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
            raise self._wrong(key, "an array of numbers")
        return [float(item) for item in value]

    def is_one_of(self, key: str, allowed: tuple[Any, ...]) -> bool:
        """Whether the value is one of these, of the same type up to the width of numbers."""
        value = self._pairs.get(key)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace") in allowed
        if isinstance(value, (list, np.ndarray)):
            return False
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed)

    def shown(self, key: str) -> str:
        """The value, for messages."""
        value = self._pairs.get(key)
        if isinstance(value, bytes):
            return f"{value.decode('utf-8', 'replace')!r:.80}"
        if isinstance(value, (list, np.ndarray)):
            return f"an array of {len(value)} {'strings' if isinstance(value, list) else 'numbers'}"
        return f"{value!r:.80}"

    def shown_whole(self, key: str) -> str:
        """A string as it is, anything else as shown()."""
        value = self._pairs.get(key)
        return (
            " ".join(value.decode("utf-8", "replace").split())
            if isinstance(value, bytes)
            else self.shown(key)
        )

    def _value(self, key: str, default: Any) -> Any:
        value = self._pairs.get(key, default)
        if value is None:
            raise CheckpointError(f"{self.source}: {key} is missing from the metadata")
        return value

    def _common(self, key: str, values: NDArray[Any]) -> Any:
        if values.size == 0 or values.dtype.kind not in "iu" or (values != values[0]).any():
            raise CheckpointError(
                f"{self.source}: {key} is {self.shown(key)} that are not all one integer; llama4rt runs models whose "
                "layers are alike in it"
            )
        return int(values[0])

    def _decoded(self, key: str, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.source}: {key} holds {value!r:.80}, which is not UTF-8") from None

    def _wrong(self, key: str, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: {key} is {self.shown(key)}; it must be {wanted}")


__all__ = ["Metadata", "Value"]
