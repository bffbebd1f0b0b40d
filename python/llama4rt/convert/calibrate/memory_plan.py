"""What a calibration takes of memory: one layer and the activations of the text, whatever the model."""

from collections.abc import Mapping, Sequence

from llama4rt import _core
from llama4rt.convert.calibrate.layer_feed import SLICE_BYTES, layer_of
from llama4rt.convert.calibrate.widths import stored_bytes
from llama4rt.convert.names import Target, TensorMapping
from llama4rt.convert.stored_rows import CodeLayout
from llama4rt.errors import ConfigError

_LINEAR_ROWS = 4096  # of inputs, and of a matrix, in fp32 at once (csrc/calibrate)
_SQUARES = (
    3  # fp32 [k, k]: the sums, their factorisation, and half of that in the order of rounding, rounded up
)
_STRIP_ROWS = 128
_STRIPS = 4  # fp32 [k, _STRIP_ROWS] of a thread: weights, errors, codes, grids
_STREAMS = 3  # fp32 [tokens, hidden] beside a step's activations: before, after, and one more while measuring
_PROCESS = 150 << 20  # Python, numpy, the source's pages


def planned_bytes(
    calibration: _core.Calibration,
    mapping: TensorMapping,
    layouts: Mapping[str, CodeLayout],
    tokens: int,
    hidden: int,
    threads: int,
) -> int:
    """The most that any layer takes."""
    layers: dict[int, list[Target]] = {}
    for target in mapping.targets:
        layer = layer_of(target.name)
        if layer is not None and target.plain_shape is None:
            layers.setdefault(layer, []).append(target)
    kinds: dict[tuple[object, ...], int] = {}
    for layer, targets in layers.items():
        shape = tuple((target.experts, target.n, target.k) for target in targets)
        if shape not in kinds:
            memory = calibration.memory(layer)
            kinds[shape] = memory["activations"] + memory["cache"] + _weights(targets, layouts, threads)
    return max(kinds.values()) + _STREAMS * 4 * tokens * hidden + _PROCESS


def _weights(targets: Sequence[Target], layouts: Mapping[str, CodeLayout], threads: int) -> int:
    plain = sum(2 * target.experts * target.n * target.k for target in targets)
    codes = max(
        (stored_bytes(target, layouts[target.name], "cpu") for target in targets if target.name in layouts),
        default=0,
    )
    k = max(target.k for target in targets)
    work = _SQUARES * 4 * k * k + 4 * k * (2 * _LINEAR_ROWS + threads * _STRIPS * _STRIP_ROWS)
    # Rows in fp32 become codes, with a byte each and their scales; a slice of the source may be one of fp32.
    return plain + codes + work + 2 * _LINEAR_ROWS * k + 2 * SLICE_BYTES


def check_memory(planned: int, tokens: int) -> None:
    """Raises ConfigError where this machine has not enough."""
    available = _core.available_memory()
    if planned > available:
        raise ConfigError(
            f"calibration of this model with {tokens} tokens takes {planned / 1e9:.1f} GB of memory; "
            f"{available / 1e9:.1f} GB are free. Fewer calibrate_tokens take less; "
            "one layer of the model must fit in any case"
        )


__all__ = ["check_memory", "planned_bytes"]
