"""One layer of a checkpoint, from its files into the native calibration."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.names import Piece, Target
from llama4rt.convert.stored_rows import Codes, Values, as_float32

SLICE_BYTES = 16 << 20  # of rows read at once
_HELD_BYTES = 64 << 20  # of the checkpoint's pages


def layer_of(name: str) -> int | None:
    """The number of the layer that an engine tensor belongs to; None: to none of the text decoder's."""
    return int(name.split(".", 2)[1]) if name.startswith("layers.") else None


def within_layer(name: str) -> str:
    return name.split(".", 2)[2]


def feed_layer(
    calibration: _core.Calibration,
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    advance: Callable[[int], None],
) -> None:
    """targets: all of one layer, which calibration.begin() has begun. advance(weights) as they are read."""
    for target in targets:
        name = within_layer(target.name)
        if target.plain_shape is not None:
            parts = [_plain(checkpoint.rows(piece.source.tensor)) for piece in target.pieces]
            calibration.load_numbers(name, np.concatenate(parts))
        held = 0
        for piece in target.pieces if target.plain_shape is None else ():
            for first, last in _slices(piece, target.k):
                rows = checkpoint.rows(
                    piece.source.tensor, piece.first + first, piece.first + last, piece.source.expert
                )
                values = rows.values() if isinstance(rows, Codes) else rows
                calibration.load_rows(
                    name,
                    piece.expert,
                    piece.stored_rows(first, last),
                    values.array,
                    values.dtype,
                    values.transposed,
                )
                advance((last - first) * target.k)
                held += 4 * (last - first) * target.k
                if held >= _HELD_BYTES:
                    checkpoint.release(piece.source.tensor)
                    held = 0
        for tensor in {piece.source.tensor for piece in target.pieces}:
            checkpoint.release(tensor)


def embedded(checkpoint: Checkpoint, name: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 [tokens, hidden]: the embeddings of the tokens, each row of the table read once."""
    unique, places = np.unique(ids, return_inverse=True)
    table: NDArray[np.float32] | None = None
    for at, row in enumerate(unique.tolist()):
        values = _plain(checkpoint.rows(name, row, row + 1))
        if table is None:
            table = np.empty((len(unique), len(values)), dtype=np.float32)
        table[at] = values
    assert table is not None
    checkpoint.release(name)
    return np.ascontiguousarray(_as_bf16(table)[places])


def _as_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to bf16, nearest even, as an engine file stores embeddings."""
    bits = values.view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    as_fp32: NDArray[np.float32] = (rounded & np.uint32(0xFFFF0000)).view(np.float32)
    return as_fp32


def _plain(rows: Values | Codes) -> NDArray[np.float32]:
    values = rows.values() if isinstance(rows, Codes) else rows
    return np.ascontiguousarray(as_float32(values.array, values.dtype)).reshape(-1)


def _slices(piece: Piece, k: int) -> Iterator[tuple[int, int]]:
    step = max(1, SLICE_BYTES // (4 * k) // _core.block_rows()) * _core.block_rows()
    for first in range(0, piece.count, step):
        yield first, min(first + step, piece.count)


__all__ = ["SLICE_BYTES", "embedded", "feed_layer", "layer_of", "within_layer"]
