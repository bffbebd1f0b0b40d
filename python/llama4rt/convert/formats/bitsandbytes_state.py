"""The JSON text in which bitsandbytes keeps a matrix's shape and blocks: bytes of a tensor, and no promise."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.formats.parts import Parts
from llama4rt.errors import CheckpointError

_MAX_BYTES = 65_536
_MAX_NUMBERS = 1 << 40
_MAX_BLOCK = 1 << 20


@dataclass(frozen=True)
class QuantState:
    """What the text says; nested_...: of absmax values that are quantised themselves."""

    shape: tuple[int, ...]  # [out, in], or [E, out, in]
    blocksize: int
    nested_blocksize: int
    nested_offset: float

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def read_state(base: Checkpoint, parts: Parts, part: str) -> QuantState:
    """Raises CheckpointError that names the tensor."""
    name, info = parts.said(part), parts.info(part)
    if info.dtype != "U8" or len(info.shape) != 1 or info.shape[0] > _MAX_BYTES:
        raise CheckpointError(f"{name}: is {info}; expected at most {_MAX_BYTES} bytes of JSON, U8")
    try:
        said = json.loads(parts.array(base, part).tobytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: is not JSON: {error!s:.200}") from error
    if not isinstance(said, Mapping):
        raise CheckpointError(f"{name}: is a JSON {type(said).__name__}; expected an object")
    shape = said.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) not in (2, 3)
        or not all(_is_size(n, _MAX_NUMBERS) for n in shape)
    ):
        raise CheckpointError(f"{name}: shape is {shape!r:.80}; expected two numbers, or three of a stack")
    if math.prod(shape) > _MAX_NUMBERS:
        raise CheckpointError(f"{name}: shape is {shape!r:.80}; that is more than {_MAX_NUMBERS} numbers")
    sizes = {key: said.get(key, default) for key, default in (("blocksize", 64), ("nested_blocksize", 256))}
    for key, size in sizes.items():
        if not _is_size(size, _MAX_BLOCK):
            raise CheckpointError(f"{name}: {key} is {size!r:.80}; expected a number of 1 to {_MAX_BLOCK}")
    offset = said.get("nested_offset", 0.0)
    if isinstance(offset, bool) or not isinstance(offset, int | float) or not abs(offset) < 3e38:
        raise CheckpointError(f"{name}: nested_offset is {offset!r:.80}; expected a finite number")
    return QuantState(tuple(shape), sizes["blocksize"], sizes["nested_blocksize"], float(offset))


def _is_size(value: Any, most: int) -> bool:
    return type(value) is int and 0 < value <= most


__all__ = ["QuantState", "read_state"]
