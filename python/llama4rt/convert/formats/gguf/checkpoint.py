"""GgufCheckpoint: the Container of GGUF files. Config and files are made from the metadata, tensors have Hugging Face's
names, and rows are codes wherever the file's are.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llama4rt.convert.checkpoint import TensorInfo
from llama4rt.convert.files import hub_revision, is_there, license_names, read_file, read_json_object
from llama4rt.convert.formats.gguf import llama, llama4
from llama4rt.convert.formats.gguf.file import is_gguf
from llama4rt.convert.formats.gguf.metadata import Metadata
from llama4rt.convert.formats.gguf.names import INPUT_SCALE, text_names
from llama4rt.convert.formats.gguf.parts import GgufParts, is_vision_name, model_in, without_part
from llama4rt.convert.formats.gguf.sizes import ROPE_FREQS, Decoder
from llama4rt.convert.formats.gguf.tensors import SlicedTensors, small_values
from llama4rt.convert.formats.gguf.text_files import NOTICE, special_ids, text_files
from llama4rt.convert.formats.gguf.tokenizer import begins_with_bos, vocabulary_of
from llama4rt.convert.stored_rows import Codes, Values

_MAX_LICENSE_BYTES = 1 << 20


class GgufCheckpoint:
    """A Checkpoint in one GGUF file, or in the parts of a split one."""

    looks_for: ClassVar[tuple[str, ...]] = ("a GGUF file",)

    @staticmethod
    def detect(path: Path) -> bool:
        return model_in(path) is not None if path.is_dir() else is_gguf(path)

    def __init__(self, path: Path, name: str) -> None:
        file = model_in(path) if path.is_dir() else path
        assert file is not None  # detect() found it
        self.name = without_part(name)
        self._home = _home(file)
        self.revision = hub_revision(self._home)
        # Of a file on its own, what lies beside it may belong to anything.
        self._directory = self._home if path.is_dir() or self.revision is not None else None
        self._parts = GgufParts(file)
        decoder = Decoder(self.metadata, self._parts.tensors, lambda name: small_values(self._parts, name))
        self._config, self._notes = _config(decoder, self._home)
        self._read_tokenizer(decoder)
        head = self._config["head_dim"]
        slices = text_names(
            {n: tensor for n, tensor in self._parts.tensors.items() if n != ROPE_FREQS},
            self._config["num_attention_heads"] * head,
            self._config["num_key_value_heads"] * head,
        )
        self._tensors = SlicedTensors(self._parts, slices)
        if any(name.endswith(INPUT_SCALE) for name in self._parts.tensors):
            self._notes.append(
                f"scales of activations (*{INPUT_SCALE}) are left unused; only weights are quantised here"
            )
        self._files = text_files(self.metadata, self._vocabulary)

    @property
    def metadata(self) -> Metadata:
        return self._parts.metadata

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Control tokens of the tokenizer, by their texts."""
        return self._vocabulary.special if self._vocabulary else {}

    def config(self) -> Mapping[str, Any]:
        return self._config

    def generation_config(self) -> Mapping[str, Any]:
        return {}

    def names(self) -> Mapping[str, TensorInfo]:
        return self._tensors.names()

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return self._tensors.problems(name, shape)

    def rows(
        self, name: str, first: int = 0, last: int | None = None, expert: int | None = None
    ) -> Values | Codes:
        assert expert is None  # each expert has a name of its own
        return self._tensors.rows(name, first, last)

    def release(self, name: str) -> None:
        self._tensors.release(name)

    def nbytes(self, name: str) -> int:
        return self._tensors.nbytes(name)

    def kept_files(self) -> dict[str, bytes]:
        files = dict(self._files)
        if self._directory is not None:
            for name in license_names(self._directory):
                files[name] = read_file(self._directory / name, _MAX_LICENSE_BYTES)
        return dict(sorted(files.items()))

    def licenses(self) -> list[str]:
        own = license_names(self._directory) if self._directory is not None else []
        return sorted({*own, *({NOTICE} & self._files.keys())})

    def source_hash(self) -> str:
        """sha256 over name, size and header of each file, as GgufFile.identity() gives them."""
        return hash_of(item for file in self._parts.files for item in file.identity())

    def notes(self, tower: bool = False) -> Sequence[str]:
        """tower: whether a vision tower is read with it."""
        beside = (
            []
            if tower
            else [path.name for path in sorted(self._home.glob("*.gguf")) if is_vision_name(path.name)]
        )
        unread = (
            [f"{beside[0]} lies beside it and is not read; --mmproj takes it for pictures"] if beside else []
        )
        return (*self._notes, *unread)

    def paths(self) -> Sequence[Path]:
        return [file.path for file in self._parts.files]

    def contains(self, path: str) -> bool:
        return self._parts.contains(path)

    def _read_tokenizer(self, decoder: Decoder) -> None:
        self._vocabulary = vocabulary_of(self.metadata)
        rows = self._config["vocab_size"]
        if self._vocabulary is not None and max(self._vocabulary.bytes_by_id()) >= rows:
            raise decoder.error(
                f"the tokenizer has {max(self._vocabulary.bytes_by_id()) + 1} tokens, but the embedding {rows} rows"
            )
        begins = decoder.architecture == llama4.ARCHITECTURE or begins_with_bos(self.metadata)
        self._config |= special_ids(self.metadata, self._vocabulary, begins)


def _home(file: Path) -> Path:
    """The directory of a model's files: of a folder in a hub snapshot, the snapshot."""
    return file.parent.parent if hub_revision(file.parent.parent) is not None else file.parent


def hash_of(items: Iterable[bytes]) -> str:
    """Each item goes in as its length (8 bytes, little-endian) and its bytes."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(len(item).to_bytes(8, "little"))
        digest.update(item)
    return f"sha256:{digest.hexdigest()}"


def _config(decoder: Decoder, directory: Path) -> tuple[dict[str, Any], list[str]]:
    """(config.json of the decoder, without its special ids, notes)."""
    kind = decoder.metadata.string("general.type", default="model")
    if kind not in ("model", "mmproj"):
        raise decoder.error(f"general.type is {kind!r:.60}; a whole model is 'model'")
    architecture = decoder.architecture
    if architecture == llama.ARCHITECTURE:
        return llama.llama_config(decoder), []
    if architecture == llama4.ARCHITECTURE:
        beside = directory / "config.json"
        return llama4.llama4_config(decoder, read_json_object(beside) if is_there(beside) else None)
    if architecture == "clip":
        raise decoder.error(
            "is a vision tower and no model; name it with --mmproj, and the model as the source"
        )
    raise decoder.error(
        f"general.architecture is {architecture!r:.60}; llama4rt runs llama4, and of architecture llama "
        "what is a dense Llama 4"
    )


__all__ = ["GgufCheckpoint", "hash_of"]
