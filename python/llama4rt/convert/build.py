"""build(): a checkpoint becomes an engine file, tensor by tensor, without ever being in memory as a whole."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llama4rt import _core
from llama4rt.convert.build_options import (
    TARGETS,
    BuildOptions,
    GroupSize,
    LmHead,
    Quantize,
    Target,
    Vision,
    WeightKind,
)
from llama4rt.convert.calibrate.options import DEFAULT_TOKENS, CalibrationOptions
from llama4rt.convert.calibrate.prepare import Preparation
from llama4rt.convert.calibrate.progress import CalibratedProgress
from llama4rt.convert.calibrate.state import StateFile
from llama4rt.convert.check_opens import check_opens
from llama4rt.convert.checkpoint import FLOAT_DTYPES, Checkpoint
from llama4rt.convert.config import parse_config
from llama4rt.convert.journal import Journal
from llama4rt.convert.locate import open_checkpoint
from llama4rt.convert.lora.located import Adapter, located_adapters
from llama4rt.convert.lora.lora_merge import with_adapters
from llama4rt.convert.names import map_tensors
from llama4rt.convert.tokenizer_files import with_tokenizer
from llama4rt.convert.write_engine import EngineBuild, source_bytes
from llama4rt.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class BuildReport:
    """What build() made. worst: (weight, relative RMS error, maximum error) of the most damaged weights; notes: what of
    the checkpoint was left unused, assumed, or did not go in exactly, a sentence each. resumed: the part of the work
    that an interrupted build had done, 0 to 1.
    """

    path: str
    bytes: int
    seconds: float
    worst: tuple[tuple[str, float, float], ...]
    notes: tuple[str, ...] = ()
    resumed: float = 0.0


def build(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    target: Target = "auto",
    weights: WeightKind = "int4",
    group_size: GroupSize = 128,
    quantize: Quantize = "linear",
    lm_head: LmHead = "auto",
    vision: Vision = "bf16",
    num_threads: int | None = None,
    rope_scaling: Mapping[str, float] | None = None,
    mmproj: str | os.PathLike[str] | None = None,
    lora: Sequence[Adapter] = (),
    calibrate: str | os.PathLike[str] | None = None,
    calibrate_tokens: int = DEFAULT_TOKENS,
    bits: float | None = None,
    offsets: bool = False,
    resume: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> BuildReport:
    """Builds the engine file `out` from `src`: a checkpoint directory, a GGUF file (any part of a split one), or a hub
    id, with a label for a repository of GGUF files: owner/name:Q4_K_M.

    target: whose kernels read the file, "cpu" (what "auto" means) or "cuda"; a file serves one of them. weights,
    group_size: of the matrices that are quantised; quantize says which: "linear" (experts, dense MLP and
    attention) or "experts" (routed and shared). Matrices that the checkpoint already has quantised
    keep their codes, whatever `weights` says. lm_head: "bf16", "int8", "int4", or "auto": int8 if all other
    matrices are quantised here, and bf16 beside unquantised ones and in checkpoints that come quantised.
    vision: how the vision tower is stored, where there is one; "int8" leaves matrices whose inputs are not
    whole groups in bf16, "none" leaves the tower out and so builds a model of text alone. rope_scaling replaces
    numbers of the config's. mmproj: the vision tower of a GGUF model, whose own files hold none: its file, or the
    label or name of one where the model is, or "auto" for the only one there. lora: adapters of PEFT that are merged
    first, each a directory or hub id, or a pair of one and the weight that it counts with (docs/checkpoints.md).
    calibrate: a file of text, or "builtin", whose inputs decide how weights are rounded (docs/calibration.md), with at
    most calibrate_tokens tokens; bits: of a calibrated weight on average, at most, by mixed widths; offsets: int4
    groups have one. progress(done, total) counts source bytes. The same checkpoint, adapters and options give the
    same bytes. On any error, Ctrl-C included, nothing is left under the name `out`. A checkpoint that would build but
    not open is refused before anything is written, and so is an `out` that an engine has open. What Ctrl-C or a kill
    interrupts leaves out.tmp and out.journal; the same build goes on with them, to the same bytes, unless resume is
    False.
    Raises CheckpointError, ConfigError, or Llama4RTError.
    """
    start = time.perf_counter()
    if target not in TARGETS:
        raise ConfigError(f"target is {target!r:.80}; it must be one of {', '.join(TARGETS)}")
    options = BuildOptions(
        "cpu" if target == "auto" else target, weights, group_size, quantize, lm_head, vision
    )
    wanted = None if calibrate is None else CalibrationOptions(calibrate, calibrate_tokens, bits, offsets)
    if wanted is None and (bits is not None or offsets):
        raise ConfigError("bits and offsets are of calibrated builds: name a text with calibrate")
    if num_threads is not None and num_threads < 0:
        raise ConfigError(f"num_threads is {num_threads}; it must be positive, or 0 for all CPUs")
    path = os.fspath(out)
    if os.path.isdir(path):
        raise ConfigError(f"{path}: is a directory; the output must be a file name, such as model.l4e")
    try:
        checkpoint = with_adapters(open_checkpoint(src, mmproj), located_adapters(lora))
        size, worst, notes, resumed = _write(
            checkpoint, path, options, wanted, num_threads or 0, rope_scaling, resume, progress
        )
    except OSError as error:  # of the checkpoint's files: what is written is the native writer's
        name = os.fsdecode(error.filename or os.fspath(src))
        raise CheckpointError(f"{name}: {error.strerror or error}") from error
    return BuildReport(path, size, time.perf_counter() - start, worst, notes, resumed)


def _write(
    checkpoint: Checkpoint,
    path: str,
    options: BuildOptions,
    wanted: CalibrationOptions | None,
    num_threads: int,
    rope_scaling: Mapping[str, float] | None,
    resume: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[int, tuple[tuple[str, float, float], ...], tuple[str, ...], float]:
    """(bytes of the file, its worst errors, notes, the part that was done before)."""
    if checkpoint.contains(path):
        raise ConfigError(f"{path}: is part of the checkpoint; the output must be another file")
    config = parse_config(
        checkpoint.config(),
        checkpoint.generation_config(),
        rope_scaling=rope_scaling,
        vision=options.vision != "none",
    )
    mapping = map_tensors(config, checkpoint)
    # With codes, or of no plain type: quantised in a way whose codes cannot go in.
    infos = (piece.source.info for target in mapping.targets for piece in target.pieces)
    quantized = any(info.codes or info.dtype not in FLOAT_DTYPES for info in infos)
    options = options.resolved(quantized)
    check_opens(with_tokenizer(checkpoint.kept_files()), config, options)
    report = progress or (lambda done, total: None)
    if wanted is None:
        return _engine(
            EngineBuild(checkpoint, config, mapping, options, report), path, options, num_threads, resume
        )
    calibration = Preparation(checkpoint, config, mapping, options, wanted, num_threads)
    shown = CalibratedProgress(report, calibration.weights, source_bytes(mapping))
    state = StateFile(path, calibration.identity(), resume)
    try:
        calibrated = calibration.checkpoint(state, shown.calibrated)
        engine = EngineBuild(
            calibrated,
            config,
            map_tensors(config, calibrated),
            options,
            shown.written,
            calibration.described(),
        )
        result = _engine(engine, path, options, num_threads, resume)
    except Exception:
        state.remove()
        raise
    state.remove()
    return result


def _engine(
    engine: EngineBuild, path: str, options: BuildOptions, num_threads: int, resume: bool
) -> tuple[int, tuple[tuple[str, float, float], ...], tuple[str, ...], float]:
    journal = Journal(path, engine.identity(), resume)
    size, worst = engine.write(_core.EngineWriter(path, num_threads, options.target), journal)
    done, total = engine.resumed
    return size, worst, engine.notes, done / max(1, total)


__all__ = ["BuildReport", "build"]
