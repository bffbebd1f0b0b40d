"""From what a build was told to the checkpoint whose rows are calibrated codes."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama4rt import _core
from llama4rt.convert.build_options import BuildOptions
from llama4rt.convert.calibrate.calibrated import CalibratedCheckpoint
from llama4rt.convert.calibrate.layer_feed import layer_of, within_layer
from llama4rt.convert.calibrate.memory_plan import check_memory, planned_bytes
from llama4rt.convert.calibrate.options import (
    DAMPING,
    FEWEST_EXPERT_TOKENS,
    FIRST_WEIGHT,
    IMPORTANCE,
    MEASURING_TOKENS,
    CalibrationOptions,
)
from llama4rt.convert.calibrate.state import State, StateFile
from llama4rt.convert.calibrate.text import CalibrationText, calibration_text, some_windows
from llama4rt.convert.calibrate.walk import LayerWalk, Windows
from llama4rt.convert.calibrate.widths import (
    bits_per_weight,
    candidates,
    chosen_layouts,
    described_widths,
    grid_of,
)
from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.config import ModelConfig
from llama4rt.convert.names import Target, TensorMapping
from llama4rt.convert.source_state import files_state
from llama4rt.convert.stored_rows import CodeLayout
from llama4rt.convert.tokenizer_files import with_tokenizer
from llama4rt.errors import ConfigError
from llama4rt.text.tokenizer import load_tokenizer

_KINDS = ("int4", "int8")


class Preparation:
    """One calibration: what is decided before anything large is read, then checkpoint()."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig,
        mapping: TensorMapping,
        options: BuildOptions,
        wanted: CalibrationOptions,
        num_threads: int,
    ) -> None:
        """Raises ConfigError where nothing can be calibrated as wanted, CheckpointError for bad tensors."""
        self._checkpoint, self._config, self._mapping = checkpoint, config, mapping
        self._options, self._wanted, self._threads = options, wanted, num_threads
        self._targets = calibrated_targets(mapping, options)
        if options.target == "cuda" and wanted.offsets:
            raise ConfigError(
                "offsets of groups have no kernels on a GPU: leave them out, or build for the CPU"
            )
        if wanted.bits is not None and options.weights != "int4":
            raise ConfigError(
                f"bits choose among int4 and int8; with weights {options.weights!r} there is no choice"
            )
        if wanted.offsets and options.weights != "int4":
            raise ConfigError(f"offsets are of int4 groups; weights is {options.weights!r}")
        self._text = _text(checkpoint, config, wanted)
        self._kinds = candidates(options.target, wanted.offsets)
        widest = dict.fromkeys((target.name for target in self._targets), self._kinds[-1])
        planned = planned_bytes(
            self._calibration(self._text.windows), mapping, widest, self._text.tokens, config.hidden_size,
            num_threads or _core.available_cpus(),
        )  # fmt: skip
        check_memory(planned, self._text.tokens)

    @property
    def weights(self) -> int:
        """What the native work counts: each matrix once, and once more where it is measured."""
        count = sum(target.experts * target.n * target.k for target in self._targets)
        return count * (2 if self._wanted.bits is not None else 1)

    def identity(self) -> dict[str, Any]:
        """What decides the result."""
        return {
            "version": _core.version(),
            "checkpoint": self._checkpoint.source_hash(),
            "source files": files_state(self._checkpoint.paths()),
            "options": [vars(self._options), str(self._config.canonical())],
            "calibration": described(self._text, self._wanted),
        }

    def described(self) -> dict[str, Any]:
        """What the engine file says of its calibration."""
        return described(self._text, self._wanted)

    def checkpoint(self, state: StateFile, advance: Callable[[int], None]) -> CalibratedCheckpoint:
        """advance(weights) as native work is done, now and while rows are asked for."""
        found = state.load()
        measured: Sequence[Any] = []
        if self._wanted.bits is None:
            layout = CodeLayout(
                self._options.weights, self._options.group_size, "BF16", offsets=self._wanted.offsets
            )
            layouts: Mapping[str, CodeLayout] = dict.fromkeys(
                (target.name for target in self._targets), layout
            )
        else:
            measured = self._measured(state, found, advance)
            layouts = chosen_layouts(
                self._targets, self._kinds, measured, self._wanted.bits, self._options.target
            )
        walk = LayerWalk(
            self._checkpoint,
            self._mapping,
            self._text.windows,
            self._calibration(self._text.windows),
            advance,
        )
        rounding = found if found is not None and found.phase == "round" else None
        if rounding is not None:
            advance(self._weights_before(rounding.layer))
        return CalibratedCheckpoint(
            self._checkpoint, self._mapping, layouts, walk, state, rounding, measured, self._remarks(layouts)
        )

    def _measured(
        self, state: StateFile, found: State | None, advance: Callable[[int], None]
    ) -> Sequence[Any]:
        if found is not None and found.phase == "round":
            advance(self.weights // 2)
            return found.measured
        windows = some_windows(self._text.windows, MEASURING_TOKENS)
        walk = LayerWalk(self._checkpoint, self._mapping, windows, self._calibration(windows), advance)
        measured: list[Any] = []
        if found is not None and found.stream.shape[0] == sum(map(len, windows)):
            walk.go_to(found.layer, found.stream)
            measured = list(found.measured)
            advance(self._weights_before(found.layer))
        grids = [grid_of(kind) for kind in self._kinds]
        while walk.layer < walk.layers:
            state.save(State("measure", walk.layer, walk.stream, measured))
            wanted = {
                within_layer(target.name): grids
                for target in self._targets
                if layer_of(target.name) == walk.layer
            }
            measured.append(walk.step(lambda stream, wanted=wanted: walk.calibration.measure(stream, wanted)))  # type: ignore[misc]
        walk.calibration.end()
        return measured

    def _weights_before(self, layer: int) -> int:
        return sum(
            target.experts * target.n * target.k
            for target in self._targets
            if (layer_of(target.name) or 0) < layer
        )

    def _calibration(self, windows: Windows) -> _core.Calibration:
        return _core.Calibration(
            json.dumps(self._config.canonical()),
            [len(window) for window in windows],
            self._threads,
            damping=DAMPING,
            importance=IMPORTANCE,
            first_weight=FIRST_WEIGHT,
            fewest_tokens=FEWEST_EXPERT_TOKENS,
        )

    def _remarks(self, layouts: Mapping[str, CodeLayout]) -> list[str]:
        bits = bits_per_weight(self._targets, layouts, self._options.target)
        return [
            f"calibrated with {self._text.tokens} tokens of {self._text.name}; "
            f"{described_widths(self._targets, layouts)}: {bits:.3f} bits of a weight"
        ]


def calibrated_targets(mapping: TensorMapping, options: BuildOptions) -> list[Target]:
    """The matrices of layers that this build quantises from plain numbers."""
    targets = [
        target
        for target in mapping.targets
        if target.name.startswith("layers.")
        and target.plain_shape is None
        and options.kind(target.role, target.k) in _KINDS
        and all(piece.source.info.codes is None for piece in target.pieces)
    ]
    if not targets:
        raise ConfigError(
            "there is nothing to calibrate: no matrix of a layer becomes int4 or int8 from plain numbers "
            f"(weights is {options.weights!r}; matrices that come quantised keep their codes)"
        )
    return targets


def _text(checkpoint: Checkpoint, config: ModelConfig, wanted: CalibrationOptions) -> CalibrationText:
    tokenizer = load_tokenizer(with_tokenizer(checkpoint.kept_files()).get)
    if tokenizer is None:
        raise ConfigError("the checkpoint has no tokenizer, so that no text can calibrate it")
    return calibration_text(wanted.text, tokenizer, config, wanted.tokens)


def described(text: CalibrationText, wanted: CalibrationOptions) -> dict[str, Any]:
    about: dict[str, Any] = {"text": text.name, "digest": text.digest, "tokens": text.tokens}
    if wanted.bits is not None:
        about["bits"] = wanted.bits
    if wanted.offsets:
        about["offsets"] = True
    return about


__all__ = ["Preparation", "calibrated_targets"]
