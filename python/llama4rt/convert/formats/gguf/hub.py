"""Which GGUF files of a hub repository a label means: Q4_K_M of owner/name:Q4_K_M."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from llama4rt.convert.formats.gguf.parts import is_vision_name, model_name
from llama4rt.errors import CheckpointError

AUTO = "auto"
# What quantisers put at the end of a file's name; UD- are Unsloth's mixes.
_LABEL = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d+_\w+|TQ\d_\d|BF16|F16|F32|MXFP4(?:_MOE)?|NVFP4))$", re.IGNORECASE
)
_MAX_LISTED = 40


def label_of(file: str) -> str:
    """The label in a file's name; the name without ending and number of a part where none is known."""
    name = model_name(PurePosixPath(file))
    match = _LABEL.search(name)
    return match[1] if match else name


def choose_model(source: str, files: Sequence[str], label: str) -> list[str]:
    """The files of the one model whose label, or file name, is `label`: all parts of a split one. CheckpointError."""
    models = [file for file in files if _is_gguf(file) and not is_vision_name(PurePosixPath(file).name)]
    return _chosen(source, models, label, "GGUF models")


def choose_vision(source: str, files: Sequence[str], label: str) -> str:
    """As choose_model, of vision towers; AUTO means the only one."""
    towers = [file for file in files if _is_gguf(file) and is_vision_name(PurePosixPath(file).name)]
    if label != AUTO:
        return _chosen(source, towers, label, "vision towers")[0]
    if len(towers) != 1:
        raise CheckpointError(
            f"{source}: has {len(towers)} vision towers{_listed(towers)}; --mmproj must name one"
        )
    return towers[0]


def check_labelled(source: str, files: Sequence[str]) -> None:
    """Raises CheckpointError where a repository in which nothing else was found has GGUF models."""
    models = [file for file in files if _is_gguf(file) and not is_vision_name(PurePosixPath(file).name)]
    if models:
        raise CheckpointError(
            f"{source}: holds GGUF models; name one as {source}:{label_of(models[0])}{_listed(models)}"
        )


def _chosen(source: str, files: Sequence[str], label: str, what: str) -> list[str]:
    models = _models(files)
    wanted = label.lower()
    found = {name: parts for name, parts in models.items() if any(wanted in _names(part) for part in parts)}
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise CheckpointError(
            f"{source}: none of its {len(models)} {what} is called {label!r:.80}{_listed(files)}"
        )
    firsts = [parts[0] for parts in found.values()]
    raise CheckpointError(
        f"{source}: {len(found)} of its {what} are called {label!r:.80}; name the file{_listed(firsts)}"
    )


def _models(files: Sequence[str]) -> dict[str, list[str]]:
    """Folder and name of each model -> its files, in order."""
    models: dict[str, list[str]] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        models.setdefault(str(path.parent / model_name(path)), []).append(file)
    return models


def _names(file: str) -> tuple[str, ...]:
    """What a file may be called by, in small letters."""
    path = PurePosixPath(file)
    return tuple(name.lower() for name in (label_of(file), file, path.name, model_name(path)))


def _listed(files: Sequence[str]) -> str:
    """One entry for each model: its label, or its file where several have the label."""
    firsts = [parts[0] for parts in _models(files).values()]
    labels = [label_of(file) for file in firsts]
    names = sorted(
        label if labels.count(label) == 1 else file for label, file in zip(labels, firsts, strict=True)
    )
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f": {', '.join(names[:_MAX_LISTED])}{more}" if names else ""


def _is_gguf(file: str) -> bool:
    return file.lower().endswith(".gguf")


__all__ = ["AUTO", "check_labelled", "choose_model", "choose_vision", "label_of"]
