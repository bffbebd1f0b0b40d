"""The launches of products with weights, as csrc/cuda chooses them (cuda_linear_rows.cpp, linear_decode.h).

Constants named here are those of the launchers' headers; tests/python/test_gpu_model.py reads them there.
"""

import math
from dataclasses import dataclass

from llama4rt.gpu_model.chip import Chip
from llama4rt.gpu_model.kernel_counts import loop_of
from llama4rt.gpu_model.launch import Launch

MOST_DECODE_ROWS = 16  # kMostDecodeRows
MOST_MEDIUM_ROWS = 128  # kMostMediumRows
MOST_MEDIUM_ROWS_OF_EXPERT = 64  # kMostMediumRowsOfExpert
SPLIT_COLUMNS = 1024  # kSplitColumns
ENOUGH_DECODE_BLOCKS = 1024  # kEnoughDecodeBlocks
MOST_SPLIT_PLACES = 256  # kMostSplitPlaces
STEP_COLUMNS = 64  # kStepColumns


@dataclass(frozen=True)
class Matrix:
    """One weight, or a stack of experts."""

    role: str
    kind: str  # "int4", "int8" or "bf16"
    group: int
    experts: int
    n: int
    k: int
    size: float  # bytes of all experts, scales included

    @property
    def template(self) -> str:
        """The C++ type of its tiles."""
        return {
            "int4": f"Int4Weights<{self.group},false>",
            "int8": f"Int8Weights<{self.group}>",
            "bf16": "BF16Weights",
        }[self.kind]

    @property
    def template_of_rows(self) -> str:
        """The same where zero points are looked up at run time."""
        return self.template.replace("false", "true")


def touched(experts: int, picks: float) -> float:
    """The expected number of experts that so many picks reach, chosen evenly."""
    return float(experts * (1.0 - (1.0 - 1.0 / experts) ** picks))


def takes_many_rows(matrix: Matrix, rows: int) -> bool:
    """Whether linear_medium or linear_prefill multiplies so many rows."""
    return rows > MOST_DECODE_ROWS * matrix.experts


def few_rows(chip: Chip, dense: Matrix | None, routed: Matrix | None, tokens: int, picks: int) -> Launch:
    """linear_decode: a matrix, a stack of experts, or both in one launch."""
    any_matrix = dense or routed
    assert any_matrix is not None
    many = tokens > 8 and (picks == 0 or (routed is not None and picks >= 4 * routed.experts))
    of_item = 16 if many else 8
    row_groups = math.ceil(any_matrix.n / 64)
    splits = math.ceil(any_matrix.k / SPLIT_COLUMNS)
    places = (tokens if dense else 0) + picks
    parts = 1 if places > MOST_SPLIT_PLACES or row_groups >= ENOUGH_DECODE_BLOCKS else splits
    items = math.ceil(tokens / of_item) if dense else 0.0
    memory = dense.size if dense else 0.0
    if routed:
        busy = touched(routed.experts, picks)
        items += busy * max(1.0, picks / busy / of_item)
        memory += routed.size / routed.experts * busy
    scaled = any_matrix.kind != "bf16"
    stage_columns = 128 if scaled else 32
    x_bytes = min(tokens, of_item) * (SPLIT_COLUMNS + 8) * 2
    stages, stage_bytes = {"int4": (8, 1024), "int8": (4, 2048), "bf16": (8, 1024)}[any_matrix.kind]
    side = 64 * stage_columns // any_matrix.group if scaled else 0  # room for fp32 scales
    ring = 4 * stages * (stage_bytes + side)
    blocks = row_groups * parts
    resident = max(1, int(chip.shared_bytes.value // (ring + x_bytes + 1024)))
    x_reads = blocks * places * any_matrix.k / parts * 4  # fp32, by every block of rows
    chain = {"load": 1.0, "barrier": 2.0 * (splits / parts)}
    if parts > 1:
        chain["ticket"] = 1.0
    early = (
        min(dense.size, min(blocks, resident * chip.processors.value) * ring * (stages - 1) / stages)
        if dense
        else 0
    )
    return Launch(
        kernel=f"linear_decode_kernel<DecodeConfig<{any_matrix.template},{2 if many else 1}>>",
        role=any_matrix.role,
        blocks=blocks,
        warps=4,
        resident=resident,
        rounds=items * any_matrix.k / parts / stage_columns,
        memory_bytes=memory,
        early_bytes=early,
        cache_bytes=memory + x_reads,
        chain=chain,
        flops=2.0 * any_matrix.n * any_matrix.k * places,
    )


def round_rows(matrix: Matrix, rows: int) -> Launch:
    """fp32 activations to bf16, in the order of the experts."""
    return Launch(
        kernel="",
        role=f"{matrix.role}, activations to bf16",
        blocks=rows,
        resident=8,
        memory_bytes=rows * matrix.k * 6.0,
        cache_bytes=rows * matrix.k * 6.0,
        chain={"load": 1.0},
    )


def many_rows(chip: Chip, matrix: Matrix, rows: int) -> list[Launch]:
    """round_rows, then linear_medium or linear_prefill."""
    most_medium = MOST_MEDIUM_ROWS if matrix.experts == 1 else MOST_MEDIUM_ROWS_OF_EXPERT * matrix.experts
    product = _prefill(chip, matrix, rows) if rows > most_medium else _medium(chip, matrix, rows)
    return [round_rows(matrix, rows), product]


def _tiles(matrix: Matrix, rows: int, size: int) -> float:
    """Tiles of so many rows, of all experts; each expert's last one is half full."""
    if matrix.experts == 1:
        return math.ceil(rows / size)
    busy = touched(matrix.experts, rows)
    return busy * max(1.0, math.ceil(rows / busy / size))


def _medium(chip: Chip, matrix: Matrix, rows: int) -> Launch:
    tiles = _tiles(matrix, rows, 64)
    row_blocks = math.ceil(matrix.n / 128)
    splits = math.ceil(matrix.k / SPLIT_COLUMNS)
    beside = 1 if row_blocks * tiles >= 2 * chip.processors.value else splits
    busy = touched(matrix.experts, rows) if matrix.experts > 1 else 1.0
    kernel = f"linear_medium_kernel<LinearMediumConfig<{matrix.template_of_rows}>>"
    loop = loop_of(kernel)
    # A round is what so many tensor instructions are: 32 rows of w, and tiles of 8 tokens that have any.
    rows_of_tile = rows / tiles if matrix.experts == 1 else min(64.0, rows / busy)
    full = math.ceil(rows_of_tile / 16) * 16 / 64
    columns = loop.products() / (32 * 64)
    tile_bytes = {"int4": 4096, "int8": 8192, "bf16": 16384}[matrix.kind]
    steps = matrix.k / STEP_COLUMNS / beside
    memory = matrix.size / matrix.experts * busy
    return Launch(
        kernel=kernel,
        role=matrix.role,
        blocks=math.ceil(row_blocks * tiles * beside),
        warps=4,
        resident=2,
        rounds=matrix.k
        / beside
        / columns
        * max(0.55, full),  # what does not depend on the tokens is about half
        memory_bytes=memory + rows * matrix.k * 2.0,
        cache_bytes=row_blocks * tiles * beside * steps * (tile_bytes + rows_of_tile * 128),
        early_bytes=0.0,
        chain={"load": 2.0, "barrier": steps, **({"ticket": 1.0} if beside > 1 else {})},
        flops=2.0 * matrix.n * matrix.k * rows,
    )


def _prefill(chip: Chip, matrix: Matrix, rows: int) -> Launch:
    tiles = _tiles(matrix, rows, 128) * math.ceil(matrix.n / 128)
    processors = chip.processors.value
    of_block = math.ceil(tiles / processors)  # persistent blocks: the busiest one's
    kernel = f"linear_prefill_kernel<LinearPrefillConfig<{matrix.template_of_rows}>>"
    step_bytes = {"int4": 4096, "int8": 8192, "bf16": 16384}[matrix.kind] + 16384
    steps = matrix.k / STEP_COLUMNS
    busy = touched(matrix.experts, rows) if matrix.experts > 1 else 1.0
    blocks = int(min(tiles, processors))
    return Launch(
        kernel=kernel,
        role=matrix.role,
        blocks=blocks,
        warps=12,
        working_warps=8,
        rounds=of_block * steps,
        memory_bytes=matrix.size / matrix.experts * busy + rows * matrix.k * 2.0 + rows * matrix.n * 4.0,
        cache_bytes=of_block * processors * steps * step_bytes,
        chain={"load": 2.0},
        flops=2.0 * matrix.n * matrix.k * rows,
    )
