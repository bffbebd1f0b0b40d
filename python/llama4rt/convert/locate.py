"""From what a person names (a directory, or a hub id) to an opened checkpoint."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.files import LICENSE_PATTERNS
from llama4rt.convert.formats import CONTAINERS, FORMATS
from llama4rt.convert.formats.layer import FormatLayer
from llama4rt.convert.quantization_config import quantization_config
from llama4rt.errors import CheckpointError

DOWNLOAD_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", *LICENSE_PATTERNS)

_HUB_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[^/]+/?$")
_WEIGHT_FILES = (".bin", ".pth", ".pt", ".gguf")


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Opens a checkpoint directory or a hub id. Raises CheckpointError."""
    path, name = locate(source)
    container = next((container for container in CONTAINERS if container.detect(path)), None)
    if container is None:
        raise CheckpointError(_nothing_to_read(path))
    checkpoint: Checkpoint = container(path, name)
    check_quantization_method(checkpoint.config())
    for form in FORMATS:
        matrices = form.detect(checkpoint)
        if matrices:
            checkpoint = FormatLayer(checkpoint, matrices)
    return checkpoint


def locate(source: str | os.PathLike[str]) -> tuple[Path, str]:
    """(directory, name) of a local directory, or of a hub id after downloading what is missing.

    HF_TOKEN, HF_HOME and HF_HUB_OFFLINE act as everywhere; a download resumes where it stopped.
    """
    path = Path(source)
    if path.is_dir():
        cached = _CACHED.search(os.path.abspath(path))
        return path, f"{cached[1]}/{cached[2]}" if cached else os.path.basename(os.path.abspath(path))
    if path.exists():
        raise CheckpointError(f"{source}: is a file; expected a checkpoint directory (or a hub id)")
    if not _HUB_ID.fullmatch(str(source)):
        raise CheckpointError(f"{source}: no such directory, and not a hub id like owner/name")
    import huggingface_hub

    # The client's errors share no class: its own, its transport's, OSError, ValueError.
    try:
        found = huggingface_hub.snapshot_download(str(source), allow_patterns=list(DOWNLOAD_PATTERNS))
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{source}: no such directory here, and it could not be had from the hub: {reason} "
            "(gated models need HF_TOKEN; offline mode, HF_HUB_OFFLINE, needs an earlier download)"
        ) from error
    return Path(found), str(source)


def check_quantization_method(config: Mapping[str, Any]) -> None:
    """Refuses by name a quantisation that no format reads. Which matrices are quantised, the tensors say."""
    quantization = quantization_config(config)
    if quantization is None:
        return
    known = [method for form in FORMATS for method in form.quant_methods]
    method = quantization.get("quant_method")
    if method is not None and method not in known:
        titles = ", ".join(form.title for form in FORMATS)
        raise CheckpointError(
            f"quantization_config.quant_method is {method!r:.80}; llama4rt reads {titles} "
            "and checkpoints that are not quantised"
        )


def _nothing_to_read(directory: Path) -> str:
    looked_for = " nor ".join(name for container in CONTAINERS for name in container.looks_for)
    others = [path.name for path in sorted(directory.iterdir()) if path.suffix in _WEIGHT_FILES]
    hint = f" ({others[0]} cannot be read; llama4rt reads safetensors only)" if others else ""
    return f"{directory}: neither {looked_for} is there{hint}"


__all__ = ["DOWNLOAD_PATTERNS", "check_quantization_method", "locate", "open_checkpoint"]
