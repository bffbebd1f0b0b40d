"""From what a build was told to the checkpoint whose rows are calibrated codes."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from llama4rt import _core
from llama4rt.convert.build_options import BuildOptions
from llama4rt.convert.calibrate.calibrated import CalibratedCheckpoint
from llama4rt.convert.calibrate.options import (
    DAMPING,
    FEWEST_EXPERT_TOKENS,
    FIRST_WEIGHT,
    IMPORTANCE,
    CalibrationOptions,
)
from llama4rt.convert.calibrate.text import CalibrationText, calibration_text
from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.config import ModelConfig
from llama4rt.convert.names import Target, TensorMapping
from llama4rt.convert.stored_rows import CodeLayout
from llama4rt.convert.tokenizer_files import with_tokenizer
from llama4rt.errors import ConfigError
from llama4rt.text.tokenizer import load_tokenizer

_KINDS = ("int4", "int8")


def calibrated_checkpoint(
    checkpoint: Checkpoint,
    config: ModelConfig,
    mapping: TensorMapping,
    options: BuildOptions,
    wanted: CalibrationOptions,
    num_threads: int,
    advance: Callable[[int], None],
) -> CalibratedCheckpoint:
    """Raises ConfigError where nothing can be calibrated as wanted, CheckpointError for bad tensors."""
    targets = calibrated_targets(mapping, options)
    if options.target == "cuda" and wanted.offsets:
        raise ConfigError("offsets of groups have no kernels on a GPU: leave them out, or build for the CPU")
    text = _text(checkpoint, config, wanted)
    calibration = _core.Calibration(
        json.dumps(config.canonical()),
        text.lengths,
        num_threads,
        damping=DAMPING,
        importance=IMPORTANCE,
        first_weight=FIRST_WEIGHT,
        fewest_tokens=FEWEST_EXPERT_TOKENS,
    )
    layouts: Mapping[str, CodeLayout] = {
        target.name: CodeLayout(
            options.weights, options.group_size, "BF16", offsets=wanted.offsets and options.weights == "int4"
        )
        for target in targets
    }
    return CalibratedCheckpoint(checkpoint, mapping, layouts, text, calibration, advance)


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
    """What the engine file says of its calibration."""
    about: dict[str, Any] = {"text": text.name, "digest": text.digest, "tokens": text.tokens}
    if wanted.bits is not None:
        about["bits"] = wanted.bits
    if wanted.offsets:
        about["offsets"] = True
    return about


__all__ = ["calibrated_checkpoint", "calibrated_targets", "described"]
