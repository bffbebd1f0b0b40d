"""build(): a checkpoint becomes an engine file, tensor by tensor, without ever being in memory as a whole."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llama4rt import _core
from llama4rt.convert.build_options import TARGETS, BuildOptions
from llama4rt.convert.check_opens import check_opens
from llama4rt.convert.config import parse_config
from llama4rt.convert.locate import open_checkpoint
from llama4rt.convert.names import map_tensors
from llama4rt.convert.write_engine import EngineBuild
from llama4rt.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class BuildReport:
    """What build() made. worst: (weight, relative RMS error, maximum error) of the most damaged weights; notes: what of
    the checkpoint was left unused, assumed, or did not go in exactly, a sentence each.
    """

    path: str
    bytes: int
    seconds: float
    worst: tuple[tuple[str, float, float], ...]
    notes: tuple[str, ...] = ()


def build(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    target: str = "auto",
    weights: str = "int4",
    group_size: int = 128,
    quantize: str = "linear",
    lm_head: str = "auto",
    vision: str = "bf16",
    num_threads: int | None = None,
    rope_scaling: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BuildReport:
    """Builds the engine file `out` from `src`, a checkpoint directory or a hub id.

    target: whose kernels read the file, "cpu" (what "auto" means) or "cuda"; a file serves one of them. weights,
    group_size: of the matrices that are quantised; quantize says which: "linear" (experts, dense MLP and
    attention) or "experts" (routed and shared). Matrices that the checkpoint already has quantised
    keep their codes, whatever `weights` says. lm_head: "bf16", "int8", "int4", or "auto": int8 if all other
    matrices are quantised here, and bf16 beside unquantised ones and in checkpoints that come quantised.
    vision: how the vision tower is stored, where there is one; "int8" leaves matrices whose inputs are not
    whole groups in bf16, "none" leaves the tower out and so builds a model of text alone. rope_scaling replaces
    numbers of the config's. progress(done, total) counts source bytes. The same checkpoint and options give the
    same bytes. On any error, Ctrl-C included, nothing is left under the name `out`. A checkpoint that would build
    but not open is refused before anything is written, and so is an `out` that an engine has open.
    Raises CheckpointError, ConfigError, or Llama4RTError.
    """
    start = time.perf_counter()
    if target not in TARGETS:
        raise ConfigError(f"target is {target!r:.80}; it must be one of {', '.join(TARGETS)}")
    options = BuildOptions(
        "cpu" if target == "auto" else target, weights, group_size, quantize, lm_head, vision
    )
    if num_threads is not None and num_threads < 0:
        raise ConfigError(f"num_threads is {num_threads}; it must be positive, or 0 for all CPUs")
    path = os.fspath(out)
    if os.path.isdir(path):
        raise ConfigError(f"{path}: is a directory; the output must be a file name, such as model.l4e")
    try:
        size, worst, notes = _write(src, path, options, num_threads or 0, rope_scaling, progress)
    except OSError as error:  # of the checkpoint's files: what is written is the native writer's
        name = os.fsdecode(error.filename or os.fspath(src))
        raise CheckpointError(f"{name}: {error.strerror or error}") from error
    return BuildReport(path, size, time.perf_counter() - start, worst, notes)


def _write(
    src: str | os.PathLike[str],
    path: str,
    options: BuildOptions,
    num_threads: int,
    rope_scaling: Mapping[str, float] | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[int, tuple[tuple[str, float, float], ...], tuple[str, ...]]:
    """(bytes of the file, its worst errors, notes)."""
    checkpoint = open_checkpoint(src)
    if checkpoint.contains(path):
        raise ConfigError(f"{path}: is part of the checkpoint; the output must be another file")
    config = parse_config(
        checkpoint.config(),
        checkpoint.generation_config(),
        rope_scaling=rope_scaling,
        vision=options.vision != "none",
    )
    mapping = map_tensors(config, checkpoint)
    # With codes, or made of several tensors: quantised in a way whose codes cannot go in.
    infos = (piece.source.info for target in mapping.targets for piece in target.pieces)
    quantized = any(info.codes or len(info.stored) > 1 for info in infos)
    options = options.resolved(quantized)
    engine = EngineBuild(checkpoint, config, mapping, options, progress or (lambda done, total: None))
    check_opens(engine.files, config, options)
    size, worst = engine.write(_core.EngineWriter(path, num_threads, options.target))
    return size, worst, engine.notes


__all__ = ["BuildReport", "build"]
