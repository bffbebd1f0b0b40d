"""A directory as Meta publishes its own checkpoints: consolidated.NN.pth, one file for each of the processes that would
share the model, with params.json and tokenizer.model beside them.

The files are mapped and read by torch_file.py: nothing in them is executed. checklist.chk is left alone: its sums say
whether a download is whole, and need every byte to be read.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from llama4rt.convert.checkpoint import TensorInfo, raise_problems
from llama4rt.convert.files import (
    MAX_JSON_BYTES,
    hub_revision,
    is_there,
    kept_files,
    license_names,
    read_file,
    read_if_there,
    read_json_object,
)
from llama4rt.convert.formats.meta_codes import ScaleFiles
from llama4rt.convert.formats.meta_names import joined_tensors
from llama4rt.convert.formats.meta_params import parse_params
from llama4rt.convert.formats.torch_file import TorchFile
from llama4rt.convert.stored_rows import Codes, Values
from llama4rt.errors import CheckpointError

_PARAMS = "params.json"
_TOKENIZER = "tokenizer.model"
_SHARD = re.compile(r"consolidated(?:\.(\d{2,3}))?\.pth")
_EMBEDDING = "tok_embeddings.weight"
_MAX_TOKENIZER_BYTES = 1 << 30
_FP8_NOTE = (
    "Meta's code quantises the activations in front of FP8 experts too; here the weights alone are FP8"
)
# Kept in the engine file although no Hugging Face checkpoint has it.
_KEPT = (_PARAMS,)


class MetaDirectory:
    """A Checkpoint. Rows are views of the mapped files, or copies joined from several."""

    looks_for: ClassVar[tuple[str, ...]] = ("consolidated.00.pth",)

    @staticmethod
    def detect(path: Path) -> bool:
        return path.is_dir() and bool(_shards(path))

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self.name = name
        self.revision = hub_revision(directory)
        self._files = [TorchFile(directory / shard) for shard in _complete(directory)]
        tokenizer = read_if_there(directory / _TOKENIZER, _MAX_TOKENIZER_BYTES)
        params = read_json_object(directory / _PARAMS)
        self._params = parse_params(params, tokenizer, self._vocab_rows())
        self._scales = ScaleFiles(directory, len(self._files))
        self._tensors, problems = joined_tensors(self._files, self._params, self._scales)
        raise_problems(problems, f"problems with the files of {directory}")
        self._infos = {name: tensor.info for name, tensor in self._tensors.items()}

    def config(self) -> Mapping[str, Any]:
        return self._params.config

    def generation_config(self) -> Mapping[str, Any]:
        return {}

    def names(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return self._tensors[name].problems(name, shape)

    def rows(
        self, name: str, first: int = 0, last: int | None = None, expert: int | None = None
    ) -> Values | Codes:
        return self._tensors[name].rows(first, last, expert)

    def release(self, name: str) -> None:
        self._tensors[name].release()

    def nbytes(self, name: str) -> int:
        return self._tensors[name].nbytes()

    def kept_files(self) -> dict[str, bytes]:
        own = {name: read_file(self._directory / name, MAX_JSON_BYTES) for name in _KEPT}
        return dict(sorted({**kept_files(self._directory), **own}.items()))

    def licenses(self) -> list[str]:
        return license_names(self._directory)

    def source_hash(self) -> str:
        """sha256 over params.json and, for each file by rank, and of scales: name, size and the pickle of its tensors.

        Each item goes in as its length (8 bytes, little endian) and its bytes.
        """
        digest = hashlib.sha256()

        def add(item: bytes) -> None:
            digest.update(len(item).to_bytes(8, "little"))
            digest.update(item)

        add(read_file(self._directory / _PARAMS, MAX_JSON_BYTES))
        for file in (*self._files, *self._scales.files):
            add(file.path.name.encode())
            add(file.size.to_bytes(8, "little"))
            add(file.pickle)
        return f"sha256:{digest.hexdigest()}"

    def notes(self) -> tuple[str, ...]:
        if self._scales.kind == "fp8":
            return (*self._params.notes, _FP8_NOTE)
        return self._params.notes

    def paths(self) -> list[Path]:
        files = (*self._files, *self._scales.files)
        names = [*self.kept_files(), *(file.path.name for file in files)]
        return [path for name in names if (path := self._directory / name).is_file()]

    def contains(self, path: str) -> bool:
        return os.path.exists(path) and any(os.path.samefile(file, path) for file in self.paths())

    def _vocab_rows(self) -> int:
        info = self._files[0].infos.get(_EMBEDDING)
        return info.shape[0] * len(self._files) if info is not None and info.shape else 0


def _shards(directory: Path) -> list[str]:
    return sorted(name for name in os.listdir(directory) if _SHARD.fullmatch(name))


def _complete(directory: Path) -> list[str]:
    """The files by rank. Raises CheckpointError where one is missing before the last: how many there should be, nothing
    says, but the sizes will.
    """
    shards = _shards(directory)
    ranks = [match[1] for match in map(_SHARD.fullmatch, shards) if match]
    if None in ranks:
        if len(shards) > 1:
            raise CheckpointError(
                f"{directory}: has {' and '.join(shards[:2])}; expected one or the other kind"
            )
        return shards
    wanted = [f"consolidated.{i:0{len(ranks[0] or '')}d}.pth" for i in range(len(shards))]
    missing = [name for name in wanted if not is_there(directory / name)]
    if missing or shards != wanted:
        raise CheckpointError(
            f"{directory}: has {len(shards)} files from {shards[0]} to {shards[-1]}, and "
            f"{(missing or wanted)[0]} is missing; download the checkpoint again, all of it"
        )
    return wanted


__all__ = ["MetaDirectory"]
