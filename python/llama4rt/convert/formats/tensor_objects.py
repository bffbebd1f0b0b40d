"""What a pickle of tensors may name, and what each name stands for here: lines of this file, nothing of torch.

tensor_pickle.py is the machine that meets the names. No bytes of a tensor are read: a Tensor says where one lies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_MAX_RANK = 16

# Element types by the names that torch gives them, in the words of safetensors.
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "bool": "BOOL",
}
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "ShortStorage": "I16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "BoolStorage": "BOOL",
}


@dataclass(frozen=True)
class Storage:
    """A run of bytes beside the pickle, by its key; dtype is None where the pickle says nothing of it."""

    key: str
    dtype: str | None
    count: int  # elements of dtype, or bytes


@dataclass(frozen=True)
class Tensor:
    """offset and strides count elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Opaque:
    """Something that is no tensor and is not looked into."""

    what: str


@dataclass(frozen=True)
class Name:
    """A global: the name itself, never what Python has under it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Refused(Exception):
    """Without the place, which the machine knows."""


def integer(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise Refused(f"{what} is {shown_flat(value)}; it must be a count")
    return value


def _integers(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > _MAX_RANK:
        raise Refused(f"{what} is {shown_flat(value)}; it must be a tuple of at most {_MAX_RANK} counts")
    return tuple(integer(part, what) for part in value)


def shown_flat(value: Any) -> str:
    """Short and flat: a value may be a deep tree."""
    if isinstance(value, (dict, list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r:.80}"


def _tensor(arguments: tuple[Any, ...], dtype: str | None) -> Tensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise Refused(f"a tensor's storage is {shown_flat(storage)}")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise Refused("a tensor has neither a type nor a typed storage")
    sizes, steps = _integers(shape, "a tensor's shape"), _integers(strides, "a tensor's strides")
    if len(sizes) != len(steps):
        raise Refused(f"a tensor has {len(sizes)} sizes and {len(steps)} strides")
    return Tensor(storage, dtype, integer(offset, "a tensor's offset"), sizes, steps)


def _rebuild_v2(arguments: tuple[Any, ...]) -> Tensor:
    """storage, offset, shape, strides, requires_grad, hooks[, metadata]."""
    if not 6 <= len(arguments) <= 7:
        raise Refused(f"_rebuild_tensor_v2 has {len(arguments)} arguments")
    return _tensor(arguments, None)


def _rebuild_v3(arguments: tuple[Any, ...]) -> Tensor:
    """storage, offset, shape, strides, requires_grad, hooks, dtype[, metadata]."""
    if not 7 <= len(arguments) <= 8:
        raise Refused(f"_rebuild_tensor_v3 has {len(arguments)} arguments")
    named = arguments[6]
    dtype = _DTYPES.get(named.name) if isinstance(named, Name) and named.module == "torch" else None
    if dtype is None:
        raise Refused(f"a tensor's type is {shown_flat(named)}")
    return _tensor(arguments, dtype)


def _rebuild_parameter(arguments: tuple[Any, ...]) -> Tensor:
    """data, requires_grad, hooks."""
    if len(arguments) != 3 or not isinstance(arguments[0], Tensor):
        raise Refused("_rebuild_parameter has no tensor")
    return arguments[0]


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise Refused(f"OrderedDict has {len(arguments)} arguments")
    return {}


def _bytes_io(arguments: tuple[Any, ...]) -> Opaque:
    """An extra state of Transformer Engine: its content may be a pickle of its own, which nobody looks at."""
    return Opaque("_io.BytesIO")


def _encoded(arguments: tuple[Any, ...]) -> Opaque:
    """How protocol 2 writes bytes."""
    return Opaque("bytes")


CALLS: Mapping[Name, Callable[[tuple[Any, ...]], Any]] = {
    Name("torch._utils", "_rebuild_tensor_v2"): _rebuild_v2,
    Name("torch._utils", "_rebuild_tensor_v3"): _rebuild_v3,
    Name("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    Name("collections", "OrderedDict"): _ordered_dict,
    Name("_io", "BytesIO"): _bytes_io,
    Name("io", "BytesIO"): _bytes_io,
    Name("_codecs", "encode"): _encoded,
}
# All that a pickle may name: what it may call, and types of storages and elements.
GLOBALS = frozenset(
    {
        *CALLS,
        *(Name("torch", name) for name in (*_DTYPES, *STORAGES)),
        Name("torch.storage", "UntypedStorage"),
        Name("torch", "UntypedStorage"),
    }
)


__all__ = [
    "CALLS",
    "GLOBALS",
    "STORAGES",
    "Name",
    "Opaque",
    "Refused",
    "Storage",
    "Tensor",
    "integer",
    "shown_flat",
]
