"""Which scale belongs to which number of a matrix [out, in], told by the shapes of both: a scale of the whole matrix,
of each output, of groups of inputs, or of rectangles.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.quantization_config import quantization_config
from llama4rt.convert.stored_rows import group_size_for, repeat_groups

Block = tuple[int, int]
PUBLISHED_BLOCK: Block = (128, 128)


@dataclass(frozen=True)
class ScaleGrid:
    """scale[n // rows, k // columns] is that of value[n, k]."""

    rows: int
    columns: int
    shape: Block  # of the scales, as two axes

    def group_size(self, into: int) -> int | None:
        """Of the layout that repeats these scales exactly; None: none does."""
        return group_size_for(self.columns, into)

    def expand(self, scales: NDArray[Any], first: int, last: int, into: int, group_size: int) -> NDArray[Any]:
        """scales, in any shape of as many -> [last - first, groups] of the layout."""
        rows = scales.reshape(self.shape)[np.arange(first, last) // self.rows]
        groups = -(-into // group_size)
        repeat = groups if self.columns >= into else self.columns // group_size
        return repeat_groups(rows, repeat, groups)


def grid_of(shape: Sequence[int], out: int, into: int, declared: Sequence[Block] = ()) -> ScaleGrid | None:
    """The grid of scales of this shape; None when they fit no way that is read.

    declared: (rows, columns) of blocks that the config names, before the published 128 x 128; a block of one row is a
    group. ModelOpt writes blocks with axes of one between: [out / 128, 1, in / 128, 1].
    """
    count = math.prod(shape)
    if out <= 0 or into <= 0 or count == 0 or len(shape) > 4:
        return None
    if count == 1:
        return ScaleGrid(out, into, (1, 1))
    if tuple(shape) in ((out,), (out, 1)):
        return ScaleGrid(1, into, (out, 1))
    if len(shape) == 4 and shape[1] == shape[3] == 1:
        shape = (shape[0], shape[2])
    if len(shape) != 2:
        return None
    for rows, columns in (*declared, PUBLISHED_BLOCK):
        if (-(-out // rows), -(-into // columns)) == tuple(shape):
            return ScaleGrid(rows, columns, (shape[0], shape[1]))
    if shape[0] == out and into % shape[1] == 0:
        return ScaleGrid(1, into // shape[1], (out, shape[1]))
    return None


def declared_blocks(config: Mapping[str, Any]) -> list[Block]:
    """Blocks and groups that config.json's quantization_config names."""
    quantization = quantization_config(config) or {}
    found = [quantization.get("weight_block_size")]  # of transformers' fine-grained FP8
    groups = quantization.get("config_groups")  # of compressed-tensors
    for group in groups.values() if isinstance(groups, Mapping) else []:
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            found += [weights.get("block_structure"), [1, weights.get("group_size")]]
    blocks = []
    for block in found:
        sizes = block if isinstance(block, list) else []
        if len(sizes) == 2 and all(type(size) is int and size > 0 for size in sizes):
            blocks.append((sizes[0], sizes[1]))
    return blocks


__all__ = ["PUBLISHED_BLOCK", "Block", "ScaleGrid", "declared_blocks", "grid_of"]
