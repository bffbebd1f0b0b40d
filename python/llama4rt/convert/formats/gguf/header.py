"""The header of a GGUF file: key-value pairs and the table of tensors, read strictly and within limits.

Nothing here allocates more than the file has bytes for, times a small number, whatever its counts say.
"""

import os
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.formats.gguf.blocks.types import ELEMENT_TYPES, ElementType
from llama4rt.convert.formats.gguf.metadata import Metadata, Value
from llama4rt.errors import CheckpointError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # version 1 had 32-bit counts
_DEFAULT_ALIGNMENT = 32  # bytes, of every tensor in the file
_MAX_ALIGNMENT = 1 << 16

_MAX_HEADER_BYTES = 512 << 20  # those of published models are below 20 MB, most of it the vocabulary
_MAX_KEYS = 1 << 16
_MAX_KEY_BYTES = (1 << 16) - 1
_MAX_STRING_BYTES = 16 << 20
_MAX_STRINGS = 4 << 20  # of one array
_MAX_TENSORS = 1 << 20
_MAX_AXES = 4
_WINDOW = 1 << 20  # bytes read at once

# GGUF's own numbers of value types.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file, its bytes checked to lie in it."""

    kind: ElementType
    shape: tuple[int, ...]  # slowest axis first: [out, in] of a matrix
    offset: int  # bytes from the start of the file
    nbytes: int

    @property
    def row_bytes(self) -> int:
        """Of the numbers along the last axis."""
        return self.shape[-1] // self.kind.length * self.kind.size

    def __str__(self) -> str:
        return f"{self.kind.name} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Header:
    metadata: Metadata
    tensors: dict[str, StoredTensor]
    nbytes: int  # up to where the data begins, or the file ends


def read_header(fd: int, size: int, name: str) -> Header:
    """size: bytes of the file. name: how errors call it. Raises CheckpointError."""
    return _HeaderReader(fd, size, name).header()


class _HeaderReader:
    def __init__(self, fd: int, size: int, name: str) -> None:
        self._fd = fd
        self._size = size
        self._name = name
        self._window = b""
        self._start = 0  # of the window in the file
        self._at = 0  # in the window

    def header(self) -> Header:
        if self._take(4, "the magic number") != MAGIC:
            raise self._error("does not begin with GGUF, so it is not a GGUF file")
        self._check_version(self._number("I", "the version"))
        tensors = self._count("the number of tensors", _MAX_TENSORS)
        keys = self._count("the number of keys", _MAX_KEYS)
        metadata = Metadata(self._name, self._pairs(keys))
        alignment = metadata.integer("general.alignment", 8, _MAX_ALIGNMENT, default=_DEFAULT_ALIGNMENT)
        if alignment & (alignment - 1):
            raise self._error(f"general.alignment is {alignment}; it must be a power of two")
        table = [self._tensor_info(i) for i in range(tensors)]
        data = -(-self._position // alignment) * alignment
        return Header(metadata, self._placed(table, data, alignment), min(data, self._size))

    # --- the parts of a header

    def _check_version(self, version: int) -> None:
        if version in _VERSIONS:
            return
        if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
            raise self._error("is a big-endian GGUF file; convert the model for little-endian machines")
        raise self._error(
            f"is GGUF of version {version}; versions {_VERSIONS[0]} and {_VERSIONS[1]} are read"
        )

    def _pairs(self, count: int) -> dict[str, Value]:
        pairs: dict[str, Value] = {}
        for i in range(count):
            what = f"key {i}"
            length = self._number("Q", what)
            if not 0 < length <= _MAX_KEY_BYTES:
                raise self._error(f"{what} has {length} bytes; 1 to {_MAX_KEY_BYTES} are allowed")
            key = self._text(self._take(length, what), what)
            if key in pairs:
                raise self._error(f"the key {key!r:.100} is there twice")
            pairs[key] = self._value(key)
        return pairs

    def _value(self, key: str) -> Value:
        kind = self._number("I", key)
        if kind != _ARRAY:
            return self._scalar(kind, key)
        element = self._number("I", key)
        count = self._number("Q", key)
        if element == _STRING:
            if count > _MAX_STRINGS or 8 * count > self._left:
                raise self._error(
                    f"{key:.100} has {count} strings; the file or this reader holds no such number"
                )
            return [self._string(key) for _ in range(count)]
        code = "?" if element == _BOOL else _SCALARS.get(element)
        if code is None:
            raise self._error(
                f"{key:.100} is an array of value type {element}; arrays of numbers, booleans and strings are read"
            )
        dtype = np.dtype(f"<{code}" if code != "?" else "u1")
        if count * dtype.itemsize > self._left:
            raise self._error(f"{key:.100} has {count} values; the file has no room for them")
        values: NDArray[Any] = np.frombuffer(self._take(count * dtype.itemsize, key), dtype=dtype)
        return values if code != "?" else self._booleans(values, key)

    def _scalar(self, kind: int, key: str) -> Value:
        if kind == _STRING:
            return self._string(key)
        if kind == _BOOL:
            return bool(self._booleans(np.frombuffer(self._take(1, key), dtype=np.uint8), key)[0])
        code = _SCALARS.get(kind)
        if code is None:
            raise self._error(f"{key:.100} has value type {kind}, which GGUF does not have")
        value: int | float = self._number(code, key)
        return value

    def _tensor_info(self, index: int) -> tuple[str, tuple[int, ...], int, int]:
        """(name, dims with the fastest axis first, type, offset from the start of the data)."""
        what = f"tensor {index}"
        length = self._number("Q", what)
        if not 0 < length <= _MAX_KEY_BYTES:
            raise self._error(f"the name of {what} has {length} bytes; 1 to {_MAX_KEY_BYTES} are allowed")
        name = self._text(self._take(length, what), what)
        axes = self._number("I", what)
        if not 1 <= axes <= _MAX_AXES:
            raise self._error(f"{name:.100} has {axes} axes; 1 to {_MAX_AXES} are allowed")
        dims = struct.unpack(f"<{axes}Q", self._take(8 * axes, what))
        return name, dims, self._number("I", what), self._number("Q", what)

    def _placed(
        self, table: list[tuple[str, tuple[int, ...], int, int]], data: int, alignment: int
    ) -> dict[str, StoredTensor]:
        """The table with every tensor checked: type, whole blocks, inside the file, over no other."""
        tensors: dict[str, StoredTensor] = {}
        for name, dims, number, offset in table:
            if name in tensors:
                raise self._error(f"the tensor {name!r:.100} is there twice")
            tensors[name] = self._placed_tensor(name, dims, number, offset, data, alignment)
        end, before = data, ""
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            if tensor.offset < end:
                raise self._error(f"{name:.100} begins at byte {tensor.offset}, inside {before:.100}")
            end, before = tensor.offset + tensor.nbytes, name
        return tensors

    def _placed_tensor(
        self, name: str, dims: tuple[int, ...], number: int, offset: int, data: int, alignment: int
    ) -> StoredTensor:
        kind = ELEMENT_TYPES.get(number)
        if kind is None:
            raise self._error(
                f"{name:.100} is of ggml type {number}, which llama4rt does not know; known are "
                + ", ".join(known.name for known in ELEMENT_TYPES.values())
            )
        if 0 in dims or dims[0] % kind.length:
            raise self._error(
                f"{name:.100} has axes {dims}; none may be 0, and {kind.name} needs the first to be a multiple of "
                f"{kind.length}"
            )
        nbytes = kind.size
        for dim in dims:
            nbytes *= dim  # Python's integers do not overflow
        nbytes //= kind.length
        if offset % alignment:
            raise self._error(f"{name:.100} begins at {offset}, which is no multiple of {alignment}")
        if data + offset + nbytes > self._size:
            raise self._error(
                f"{name:.100} ends at byte {data + offset + nbytes} but the file has {self._size}; download it again"
            )
        return StoredTensor(kind, dims[::-1], data + offset, nbytes)

    # --- bytes

    @property
    def _position(self) -> int:
        """In the file, of what is read next."""
        return self._start + self._at

    @property
    def _left(self) -> int:
        return min(self._size, _MAX_HEADER_BYTES) - self._position

    def _take(self, count: int, what: str) -> bytes:
        end = self._at + count
        if end > len(self._window):
            self._read_on(count, what)
            end = count
        taken = self._window[self._at : end]
        self._at = end
        return taken

    def _read_on(self, count: int, what: str) -> None:
        """Makes the window begin here and hold at least `count` bytes."""
        if count > self._left:
            limit = "the file ends" if self._size <= _MAX_HEADER_BYTES else "headers may have no more bytes"
            raise self._error(f"{limit} inside {what:.100}, at byte {min(self._size, _MAX_HEADER_BYTES)}")
        parts, found = [self._window[self._at :]], len(self._window) - self._at
        wanted = min(max(count, _WINDOW), self._left)
        position = self._position
        while found < wanted:
            part = os.pread(self._fd, wanted - found, position + found)
            if not part:
                raise self._error(f"was cut short while it was read, inside {what:.100}")
            parts.append(part)
            found += len(part)
        self._window, self._start, self._at = b"".join(parts), position, 0

    def _number(self, code: str, what: str) -> Any:
        size = struct.calcsize(f"<{code}")
        return struct.unpack(f"<{code}", self._take(size, what))[0]

    def _count(self, what: str, limit: int) -> int:
        count: int = self._number("Q", what)
        if count > limit:
            raise self._error(f"{what} is {count}; at most {limit} are read")
        return count

    def _string(self, key: str) -> bytes:
        length = self._number("Q", key)
        if length > _MAX_STRING_BYTES:
            raise self._error(
                f"{key:.100} holds a string of {length} bytes; at most {_MAX_STRING_BYTES} are read"
            )
        return self._take(length, key)

    def _text(self, data: bytes, what: str) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._error(f"the name of {what}, {data!r:.80}, is not UTF-8") from None

    def _booleans(self, values: NDArray[np.uint8], key: str) -> NDArray[np.bool_]:
        if (values > 1).any():
            raise self._error(f"{key:.100} holds a boolean of value {int(values.max())}; it must be 0 or 1")
        return values.astype(np.bool_)

    def _error(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self._name}: {problem}")


__all__ = ["MAGIC", "Header", "StoredTensor", "read_header"]
