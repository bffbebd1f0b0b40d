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
    wanted = label.lower()
    groups: dict[str, list[str]] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        if wanted in (label_of(file).lower(), file.lower(), path.name.lower(), model_name(path).lower()):
            groups.setdefault(str(path.parent / model_name(path)), []).append(file)
    if len(groups) == 1:
        return next(iter(groups.values()))
    if not groups:
        raise CheckpointError(
            f"{source}: none of its {len(files)} {what} is called {label!r:.80}{_listed(files)}"
        )
    found = [group[0] for group in groups.values()]
    raise CheckpointError(
        f"{source}: {len(groups)} of its {what} are called {label!r:.80}; name the file{_listed(found)}"
    )


def _listed(files: Sequence[str]) -> str:
    """One entry for each model: its label, and its file where several have the label."""
    if not files:
        return ""
    firsts = {
        str(PurePosixPath(f).parent / model_name(PurePosixPath(f))): f for f in sorted(files, reverse=True)
    }
    labels = [label_of(file) for file in firsts.values()]
    names = [
        label if labels.count(label) == 1 else file
        for label, file in zip(labels, firsts.values(), strict=True)
    ]
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f": {', '.join(sorted(names)[:_MAX_LISTED])}{more}"


def _is_gguf(file: str) -> bool:
    return file.lower().endswith(".gguf")


__all__ = ["AUTO", "check_labelled", "choose_model", "choose_vision", "label_of"]
