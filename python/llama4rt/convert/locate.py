"""From what a person names (a directory, or a hub id) to an opened checkpoint."""

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.files import FILES_IN_FOLDERS, LICENSE_PATTERNS
from llama4rt.convert.formats import CONTAINERS, FORMATS
from llama4rt.convert.formats.gguf import with_vision_file
from llama4rt.convert.formats.gguf.hub import check_labelled, choose_model, choose_vision
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
    "consolidated*.pth",
    "fp8_scales_*.pt",
    "int4_scales_*.pt",
    *FILES_IN_FOLDERS.values(),
    *LICENSE_PATTERNS,
)

# Beside the files of a GGUF model.
_BESIDE_GGUF = ("config.json", *LICENSE_PATTERNS)

# owner/name, or owner/name@revision: a branch, a tag or a commit. A :label behind it names one of its GGUF models.
_HUB_ID = re.compile(
    r"(?!.*\.\.)([A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@([A-Za-z0-9_][\w./-]{0,127}))?"
    r"(?::([A-Za-z0-9_][\w./-]{0,127}))?",
    re.ASCII,
)
_CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[^/]+/?$")


def open_checkpoint(
    source: str | os.PathLike[str], mmproj: str | os.PathLike[str] | None = None
) -> Checkpoint:
    """Opens a checkpoint directory or file, or a hub id. mmproj: the vision tower of a GGUF model, as build() takes it.
    Raises CheckpointError.
    """
    path, name = locate(source)
    if path.is_dir():
        check_directory(path)
    container = next((container for container in CONTAINERS if container.detect(path)), None)
    if container is None:
        raise refuse_directory(path, [name for container in CONTAINERS for name in container.looks_for])
    checkpoint: Checkpoint = container(path, name)
    if mmproj is not None:
        checkpoint = with_vision_file(checkpoint, locate_vision(source, path, mmproj))
    check_quantization_method(checkpoint.config())
    checkpoint = without_unused_scales(with_plain_names(checkpoint))
    for form in FORMATS:
        matrices = form.detect(checkpoint)
        if matrices:
            checkpoint = FormatLayer(checkpoint, matrices)
    check_tensors(checkpoint.names(), checkpoint.name)  # what no format has taken
    return checkpoint


def locate(source: str | os.PathLike[str]) -> tuple[Path, str]:
    """(directory or file, name) of a local checkpoint, or of a hub id after downloading what is missing.
    owner/name@revision names a branch, tag or commit; without it the hub's main branch is asked. The directory is the
    commit's either way. owner/name:LABEL is the GGUF model of this label there, of which no other is downloaded.

    HF_TOKEN, HF_HOME and HF_HUB_OFFLINE act as everywhere; a download resumes where it stopped.
    """
    path = Path(source)
    if path.is_dir():
        cached = _CACHED.search(os.path.abspath(path))
        return path, f"{cached[1]}/{cached[2]}" if cached else os.path.basename(os.path.abspath(path))
    if path.exists():
        if any(container.detect(path) for container in CONTAINERS):
            return path, path.stem
        raise refuse_file(path)
    hub_id = _HUB_ID.fullmatch(str(source))
    if hub_id is None:
        raise CheckpointError(
            f"{source}: no such directory, and not a hub id like owner/name or owner/name@revision"
        )
    name, revision, label = hub_id.groups()
    if label is None:
        directory = _download(str(source), name, revision, DOWNLOAD_PATTERNS)
        if not any(container.detect(directory) for container in CONTAINERS):
            check_labelled(str(source), _hub_files(str(source), name, revision))
        return directory, name
    chosen = choose_model(str(source), _hub_files(str(source), name, revision), label)
    directory = _download(str(source), name, revision, (*map(glob.escape, chosen), *_BESIDE_GGUF))
    return directory / chosen[0], f"{name}:{label}"


def locate_vision(source: str | os.PathLike[str], path: Path, mmproj: str | os.PathLike[str]) -> Path:
    """The file of the vision tower: mmproj itself, or what it names where the model is. path: what locate() found."""
    file = Path(mmproj)
    if file.is_file():
        return file
    hub_id = None if Path(source).exists() else _HUB_ID.fullmatch(str(source))
    if hub_id is not None:
        name, revision, _ = hub_id.groups()
        chosen = choose_vision(str(source), _hub_files(str(source), name, revision), str(mmproj))
        return _download(str(source), name, revision, (glob.escape(chosen),)) / chosen
    directory = path if path.is_dir() else path.parent
    files = [found.name for found in directory.glob("*.gguf")]
    return directory / choose_vision(str(directory), files, str(mmproj))


def _hub_files(source: str, name: str, revision: str | None) -> list[str]:
    """Names of all files of a repository; offline, of those that were downloaded before."""
    import huggingface_hub

    try:
        return list(huggingface_hub.HfApi().list_repo_files(name, revision=revision))
    except Exception:
        directory = _download(source, name, revision, (), local_files_only=True)
    return [file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file()]


def _download(source: str, name: str, revision: str | None, patterns: Sequence[str], **options: Any) -> Path:
    import huggingface_hub

    # The client's errors share no class: its own, its transport's, OSError, ValueError.
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=list(patterns), **options
            )
        )
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{source}: no such directory here, and it could not be had from the hub: {reason} "
            "(gated models need HF_TOKEN; offline mode, HF_HUB_OFFLINE, needs an earlier download)"
        ) from error


def check_quantization_method(config: Mapping[str, Any]) -> None:
    """Refuses by name a quantisation that no format reads. Which matrices are quantised, the tensors say."""
    known = [method for form in FORMATS for method in form.quant_methods]
    check_quantization(config, known, [form.title for form in FORMATS])


__all__ = ["DOWNLOAD_PATTERNS", "check_quantization_method", "locate", "open_checkpoint"]
