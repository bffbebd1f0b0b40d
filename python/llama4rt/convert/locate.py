"""From what a person names (a directory, or a hub id) to an opened checkpoint."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.files import FILES_IN_FOLDERS, LICENSE_PATTERNS
from llama4rt.convert.formats import CONTAINERS, FORMATS
from llama4rt.convert.formats.layer import FormatLayer
from llama4rt.convert.formats.renamed import with_plain_names
from llama4rt.convert.formats.unused_scales import without_unused_scales
from llama4rt.convert.unreadable import (
    check_directory,
    check_quantization,
    check_tensors,
    refuse_directory,
    refuse_file,
)
from llama4rt.errors import CheckpointError

DOWNLOAD_PATTERNS = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    *FILES_IN_FOLDERS.values(),
    *LICENSE_PATTERNS,
)

# owner/name, or owner/name@revision: a branch, a tag or a commit.
_HUB_ID = re.compile(
    r"(?!.*\.\.)([A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@([A-Za-z0-9_][\w./-]{0,127}))?", re.ASCII
)
_CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[^/]+/?$")


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Opens a checkpoint directory or a hub id. Raises CheckpointError."""
    path, name = locate(source)
    check_directory(path)
    container = next((container for container in CONTAINERS if container.detect(path)), None)
    if container is None:
        raise refuse_directory(path, [name for container in CONTAINERS for name in container.looks_for])
    checkpoint: Checkpoint = container(path, name)
    check_quantization_method(checkpoint.config())
    checkpoint = without_unused_scales(with_plain_names(checkpoint))
    for form in FORMATS:
        matrices = form.detect(checkpoint)
        if matrices:
            checkpoint = FormatLayer(checkpoint, matrices)
    check_tensors(checkpoint.names(), checkpoint.name)  # what no format has taken
    return checkpoint


def locate(source: str | os.PathLike[str]) -> tuple[Path, str]:
    """(directory, name) of a local directory, or of a hub id after downloading what is missing. owner/name@revision
    names a branch, tag or commit; without it the hub's main branch is asked. The directory is the commit's either way.

    HF_TOKEN, HF_HOME and HF_HUB_OFFLINE act as everywhere; a download resumes where it stopped.
    """
    path = Path(source)
    if path.is_dir():
        cached = _CACHED.search(os.path.abspath(path))
        return path, f"{cached[1]}/{cached[2]}" if cached else os.path.basename(os.path.abspath(path))
    if path.exists():
        raise refuse_file(path)
    hub_id = _HUB_ID.fullmatch(str(source))
    if hub_id is None:
        raise CheckpointError(
            f"{source}: no such directory, and not a hub id like owner/name or owner/name@revision"
        )
    name, revision = hub_id.groups()
    import huggingface_hub

    # The client's errors share no class: its own, its transport's, OSError, ValueError.
    try:
        found = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(DOWNLOAD_PATTERNS)
        )
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{source}: no such directory here, and it could not be had from the hub: {reason} "
            "(gated models need HF_TOKEN; offline mode, HF_HUB_OFFLINE, needs an earlier download)"
        ) from error
    return Path(found), name


def check_quantization_method(config: Mapping[str, Any]) -> None:
    """Refuses by name a quantisation that no format reads. Which matrices are quantised, the tensors say."""
    known = [method for form in FORMATS for method in form.quant_methods]
    check_quantization(config, known, [form.title for form in FORMATS])


__all__ = ["DOWNLOAD_PATTERNS", "check_quantization_method", "locate", "open_checkpoint"]
