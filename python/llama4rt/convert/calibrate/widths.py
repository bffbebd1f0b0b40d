"""How wide each matrix becomes: kinds of codes that a build may choose among, and the choice by measured losses."""

from collections.abc import Mapping, Sequence
from typing import Any

from llama4rt.convert.calibrate.budget import Choice, allocate
from llama4rt.convert.calibrate.layer_feed import layer_of, within_layer
from llama4rt.convert.names import Target
from llama4rt.convert.stored_rows import CODE_KINDS, CodeLayout
from llama4rt.errors import ConfigError

Grid = tuple[str, int, bool, str]  # as _core.Calibration takes it

_SCALE_BYTES = 2  # bf16
_UNIT_BYTES = {"cpu": 4, "cuda": 32}  # of a row's codes that are stored together (csrc/weights/layout.h)


def candidates(target: str, offsets: bool) -> list[CodeLayout]:
    """What a matrix may become on this kind of device, the narrowest first."""
    sizes = (128, 64, 32, 16) if target == "cpu" else (128, 64, 32)
    found = [CodeLayout("int4", size, "BF16") for size in sizes]
    if offsets:
        found += [CodeLayout("int4", size, "BF16", offsets=True) for size in sizes if size >= 32]
    found += [CodeLayout("int8", size, "BF16") for size in (128, 32)]
    return found


def grid_of(layout: CodeLayout) -> Grid:
    return layout.kind, layout.group_size, layout.offsets, layout.scale_dtype


def stored_bytes(target: Target, layout: CodeLayout, device: str) -> int:
    """Of codes, scales and offsets, padding included."""
    unit = _UNIT_BYTES[device]
    codes = -(-target.k * CODE_KINDS[layout.kind].bits // (8 * unit)) * unit
    scales = -(-target.k // layout.group_size) * _SCALE_BYTES * (2 if layout.offsets else 1)
    return target.experts * target.n * (codes + scales)


def bits_per_weight(targets: Sequence[Target], layouts: Mapping[str, CodeLayout], device: str) -> float:
    size = sum(stored_bytes(target, layouts[target.name], device) for target in targets)
    return 8 * size / sum(target.experts * target.n * target.k for target in targets)


def chosen_layouts(
    targets: Sequence[Target],
    kinds: Sequence[CodeLayout],
    measured: Sequence[Any],
    bits: float,
    device: str,
) -> dict[str, CodeLayout]:
    """measured: of each layer, (name within it, costs of `kinds`, plain cost of the first, harm) of each matrix.

    Raises ConfigError where `bits` are too few.
    """
    found = {(layer, entry[0]): entry for layer, entries in enumerate(measured) for entry in entries}
    matrices = []
    for target in targets:
        _, costs, plain, harm = found[layer_of(target.name) or 0, within_layer(target.name)]
        losses = [harm * cost / plain if plain > 0 else 0.0 for cost in costs]
        matrices.append(
            [
                Choice(stored_bytes(target, kind, device), loss)
                for kind, loss in zip(kinds, losses, strict=True)
            ]
        )
    weights = sum(target.experts * target.n * target.k for target in targets)
    try:
        chosen = allocate(matrices, int(bits * weights / 8))
    except ValueError:
        least = 8 * sum(min(choice.size for choice in some) for some in matrices) / weights
        raise ConfigError(
            f"bits is {bits}; the narrowest codes of this model take {least:.3f} bits of a weight, scales and padding "
            "included"
        ) from None
    return {target.name: kinds[at] for target, at in zip(targets, chosen, strict=True)}


def described_widths(targets: Sequence[Target], layouts: Mapping[str, CodeLayout]) -> str:
    """For people: how many matrices became what."""
    counts: dict[str, int] = {}
    for target in targets:
        layout = layouts[target.name]
        name = f"{layout.kind} in groups of {layout.group_size}" + (" with offsets" if layout.offsets else "")
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


__all__ = [
    "Grid",
    "bits_per_weight",
    "candidates",
    "chosen_layouts",
    "described_widths",
    "grid_of",
    "stored_bytes",
]
