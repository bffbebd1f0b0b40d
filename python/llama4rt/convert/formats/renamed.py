"""Tensor names with what training programs and wrappers put around them taken off: `module.`, `_orig_mod.`, a second
`model.`, or the `model.` that a bare decoder leaves out.

Only names change, and only where it is clear what they mean; a checkpoint with the published names passes as it is.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.formats.layer import CheckpointLayer
from llama4rt.convert.stored_rows import Codes, Values
from llama4rt.errors import CheckpointError

# Of DistributedDataParallel, torch.compile, FSDP and activation checkpointing; anywhere in a name.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_ROOTS = r"(?:model|language_model|vision_model|multi_modal_projector|lm_head)\."
_OUTER = re.compile(rf"(?:(?:base_model|model)\.)+(?={_ROOTS})")
_BARE = re.compile(r"(language_model\.)?(?=(?:embed_tokens|layers|norm)\.)")


def plain_name(name: str) -> str:
    """The name that Hugging Face's Llama 4 has for a tensor, as far as it can be told from this one alone."""
    name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    name = _OUTER.sub("", name, count=1) if _OUTER.match(name) else name
    return _BARE.sub(r"\1model.", name, count=1) if _BARE.match(name) else name


def with_plain_names(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, with its tensors renamed where their names have such prefixes.

    Raises CheckpointError when two tensors would get one name.
    """
    names = {old: plain_name(old) for old in checkpoint.names()}
    if any(new.startswith("language_model.") for new in names.values()):
        # The multimodal class has its head outside or inside the decoder; published checkpoints have it inside.
        names = {old: re.sub(r"^lm_head\.", "language_model.lm_head.", new) for old, new in names.items()}
    if all(old == new for old, new in names.items()):
        return checkpoint
    stored: dict[str, str] = {}
    for old, new in names.items():
        if new in stored:
            raise CheckpointError(
                f"{stored[new]} and {old} are both {new} once their prefixes are taken off; save the model once, "
                "without the program that wraps it"
            )
        stored[new] = old
    return RenamedCheckpoint(checkpoint, stored)


class RenamedCheckpoint(CheckpointLayer):
    """A Checkpoint: `base` with other names of its tensors."""

    def __init__(self, base: Checkpoint, stored: Mapping[str, str]) -> None:
        """stored: new name -> name in `base`, for every tensor."""
        super().__init__(base)
        self._stored = stored
        infos = base.names()
        self._names = {
            new: replace(infos[old], stored=infos[old].stored or (old,)) for new, old in stored.items()
        }

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return self._base.problems(self._stored[name], shape)

    def rows(
        self, name: str, first: int = 0, last: int | None = None, expert: int | None = None
    ) -> Values | Codes:
        return self._base.rows(self._stored[name], first, last, expert)

    def release(self, name: str) -> None:
        self._base.release(self._stored[name])

    def nbytes(self, name: str) -> int:
        return self._base.nbytes(self._stored[name])


__all__ = ["plain_name", "with_plain_names"]
