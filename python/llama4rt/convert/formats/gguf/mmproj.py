"""The vision tower beside a GGUF model: an `mmproj-*.gguf` file, whose tensors and settings join the decoder's.

Its class token comes last, as Hugging Face's does, and nothing is permuted. How pictures are cut into tiles is not
taken from it: llama.cpp's way differs from the published image processor's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.formats.gguf.checkpoint import GgufCheckpoint, hash_of
from llama4rt.convert.formats.gguf.metadata import Metadata
from llama4rt.convert.formats.gguf.names import vision_names
from llama4rt.convert.formats.gguf.parts import GgufParts
from llama4rt.convert.formats.gguf.tensors import SlicedTensors
from llama4rt.convert.formats.layer import CheckpointLayer
from llama4rt.convert.stored_rows import Codes, Values
from llama4rt.errors import CheckpointError

_MAX = 1 << 30
_PATCH_TOKEN = "<|patch|>"
_FC1, _FC2, _PROJECTOR = "mm.model.mlp.1.weight", "mm.model.mlp.2.weight", "mm.model.fc.weight"
# Not in the file, and the same in both published models.
_ROPE_THETA = 10_000.0
_NOTE = f"vision rope_theta {_ROPE_THETA:g}: of the published models; the mmproj file does not hold it"


class GgufWithVision(CheckpointLayer):
    """A Checkpoint: the decoder's, with the tower's tensors and settings."""

    def __init__(self, decoder: GgufCheckpoint, path: Path) -> None:
        """Raises CheckpointError for a file that is not the tower of this decoder."""
        super().__init__(decoder)
        self._decoder = decoder
        self._parts = GgufParts(path)
        self._tensors = SlicedTensors(self._parts, vision_names(self._parts.tensors))
        doubled = sorted(set(decoder.names()) & set(self._tensors.names()))
        if doubled:
            raise CheckpointError(f"{path}: {doubled[0]} is in the model's own file too")
        self._names = {**decoder.names(), **self._tensors.names()}
        patch = decoder.special_tokens.get(_PATCH_TOKEN)
        if patch is None:
            raise CheckpointError(
                f"{path}: is a vision tower, but the tokenizer of {decoder.name} has no control token {_PATCH_TOKEN}"
            )
        text = decoder.config()
        self._config = {
            "model_type": "llama4",
            "architectures": ["Llama4ForConditionalGeneration"],
            "text_config": text,
            "vision_config": _vision_config(self._parts, text["hidden_size"]),
            "image_token_index": patch,
        }

    def config(self) -> Mapping[str, Any]:
        return self._config

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return self._of(name).problems(name, shape)

    def rows(
        self, name: str, first: int = 0, last: int | None = None, expert: int | None = None
    ) -> Values | Codes:
        if name in self._tensors.names():
            return self._tensors.rows(name, first, last)
        return self._base.rows(name, first, last, expert)

    def release(self, name: str) -> None:
        self._of(name).release(name)

    def nbytes(self, name: str) -> int:
        return self._of(name).nbytes(name)

    def source_hash(self) -> str:
        items = [item for file in self._parts.files for item in file.identity()]
        return hash_of([self._base.source_hash().encode(), *items])

    def notes(self) -> Sequence[str]:
        return (*self._decoder.notes(tower=True), _NOTE)

    def paths(self) -> Sequence[Path]:
        return (*self._base.paths(), *(file.path for file in self._parts.files))

    def contains(self, path: str) -> bool:
        return self._base.contains(path) or self._parts.contains(path)

    def _of(self, name: str) -> SlicedTensors | Checkpoint:
        return self._tensors if name in self._tensors.names() else self._base


def with_vision_file(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """The checkpoint with the tower in `path`. Raises CheckpointError."""
    if not isinstance(checkpoint, GgufCheckpoint):
        raise CheckpointError(f"{path}: is a vision tower for a GGUF model; {checkpoint.name} is none")
    return GgufWithVision(checkpoint, path)


def _vision_config(parts: GgufParts, hidden: int) -> dict[str, Any]:
    """vision_config of a config.json; hidden: the decoder's width, into which the tower's output must fit."""
    metadata = parts.metadata
    _check_kind(metadata)
    width = metadata.integer("clip.vision.projection_dim", 1, _MAX, default=hidden)
    if width != hidden:
        raise CheckpointError(
            f"{metadata.source}: clip.vision.projection_dim is {width}, but the decoder is {hidden} wide; it is "
            "the tower of another model"
        )
    return {
        "model_type": "llama4_vision_model",
        "hidden_act": "gelu",
        "num_channels": 3,
        "hidden_size": metadata.integer("clip.vision.embedding_length", 1, _MAX),
        "num_hidden_layers": metadata.integer("clip.vision.block_count", 1, _MAX),
        "num_attention_heads": metadata.integer("clip.vision.attention.head_count", 1, _MAX),
        "intermediate_size": metadata.integer("clip.vision.feed_forward_length", 1, _MAX),
        "image_size": metadata.integer("clip.vision.image_size", 1, _MAX),
        "patch_size": metadata.integer("clip.vision.patch_size", 1, _MAX),
        "norm_eps": metadata.real("clip.vision.attention.layer_norm_epsilon"),
        "pixel_shuffle_ratio": 1 / metadata.integer("clip.vision.projector.scale_factor", 1, _MAX),
        "rope_theta": _ROPE_THETA,
        "projector_input_dim": _axis(parts, _FC1, 0),
        "projector_output_dim": _axis(parts, _FC2, 0),
        "vision_output_dim": _axis(parts, _PROJECTOR, 1),
    }


def _check_kind(metadata: Metadata) -> None:
    """Refuses what is no tower of a Llama 4, and settings that would change its numbers."""
    source = metadata.source
    architecture = metadata.string("general.architecture")
    if architecture != "clip":
        raise CheckpointError(
            f"{source}: general.architecture is {architecture!r:.60}; a vision tower's is 'clip'"
        )
    if not metadata.flag("clip.has_vision_encoder", default=False):
        raise CheckpointError(f"{source}: clip.has_vision_encoder is not true; it holds no vision tower")
    key = "clip.vision.projector_type" if "clip.vision.projector_type" in metadata else "clip.projector_type"
    projector = metadata.string(key)
    if projector != "llama4":
        raise CheckpointError(f"{source}: {key} is {projector!r:.60}; the tower of a Llama 4 has 'llama4'")
    if not metadata.flag("clip.use_gelu", default=False):
        raise CheckpointError(
            f"{source}: clip.use_gelu is not true; the tower of a Llama 4 computes with gelu"
        )
    for name in ("image_mean", "image_std"):
        key = f"clip.vision.{name}"
        if key in metadata and any(value != 0.5 for value in metadata.reals(key)):
            raise CheckpointError(
                f"{source}: {key} is {metadata.reals(key)}; it must be 0.5 for each channel"
            )


def _axis(parts: GgufParts, name: str, axis: int) -> int:
    tensor = parts.tensors.get(name)
    if tensor is None or len(tensor.shape) != 2:
        found = "is missing" if tensor is None else f"is {tensor}"
        raise CheckpointError(f"{parts.metadata.source}: {name} {found}; expected a matrix")
    return tensor.shape[axis]


__all__ = ["GgufWithVision", "with_vision_file"]
