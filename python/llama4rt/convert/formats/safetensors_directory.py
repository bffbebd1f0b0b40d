"""A directory in Hugging Face's layout, opened lazily and strictly: safetensors and JSON.

No Python file of a checkpoint is ever imported.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from llama4rt import _core
from llama4rt.convert.checkpoint import TensorInfo, plain_problems, raise_problems
from llama4rt.convert.files import (
    FILES_IN_FOLDERS,
    KEPT_FILES,
    MAX_JSON_BYTES,
    check_weight_file,
    hub_revision,
    is_there,
    kept_files,
    license_names,
    read_file,
    read_json_object,
)
from llama4rt.convert.formats.quantization_files import quantization_file, with_quantization
from llama4rt.convert.stored_rows import NUMPY_DTYPES, Values
from llama4rt.errors import CheckpointError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MAX_MISSING = 3  # shards that an error names one by one


class SafetensorsDirectory:
    """A Checkpoint whose rows are views of the mapped files."""

    looks_for: ClassVar[tuple[str, ...]] = (_SINGLE, _INDEX)

    @staticmethod
    def detect(path: Path) -> bool:
        return is_there(path / _SINGLE) or is_there(path / _INDEX)

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self.name = name
        self.revision = hub_revision(directory)
        config = read_json_object(directory / "config.json")
        self._quantization_file = quantization_file(config, directory)
        self._config = with_quantization(config, self._quantization_file)
        generation = directory / "generation_config.json"
        self._generation_config = read_json_object(generation) if is_there(generation) else {}
        self._shards: dict[str, _core.SafetensorsFile] = {}
        self._tensors: dict[str, TensorInfo] = {}
        self._shard_of: dict[str, str] = {}
        self._open_shards()

    def config(self) -> Mapping[str, Any]:
        return self._config

    def generation_config(self) -> Mapping[str, Any]:
        return self._generation_config

    def names(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return plain_problems(name, self._tensors[name], shape)

    def rows(self, name: str, first: int = 0, last: int | None = None, expert: int | None = None) -> Values:
        info = self._tensors[name]
        array = (
            self._shards[self._shard_of[name]].raw(name).view(NUMPY_DTYPES[info.dtype]).reshape(info.shape)
        )
        if expert is not None:
            return Values(array[expert][:, first:last], info.dtype, transposed=True)
        return Values(array[first:last] if info.shape else array, info.dtype)

    def release(self, name: str) -> None:
        self._shards[self._shard_of[name]].release(name)

    def nbytes(self, name: str) -> int:
        return self._shards[self._shard_of[name]].info(name)[3]

    def kept_files(self) -> dict[str, bytes]:
        return kept_files(self._directory)

    def licenses(self) -> list[str]:
        return license_names(self._directory)

    def source_hash(self) -> str:
        """sha256 over config.json and, for each shard by name: name, size and header (not the weights themselves).

        The file that says in config.json's place how the weights were quantised comes after config.json. Each item
        goes in as its length (8 bytes, little endian) and its bytes.
        """
        digest = hashlib.sha256()

        def add(item: bytes) -> None:
            digest.update(len(item).to_bytes(8, "little"))
            digest.update(item)

        add(read_file(self._directory / "config.json", MAX_JSON_BYTES))
        if self._quantization_file is not None:
            add(read_file(self._quantization_file, MAX_JSON_BYTES))
        for shard in sorted(self._shards):
            path = self._directory / shard
            add(shard.encode())
            add(path.stat().st_size.to_bytes(8, "little"))
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")  # already checked when the shard was opened
                add(file.read(length))
        return f"sha256:{digest.hexdigest()}"

    def notes(self) -> tuple[str, ...]:
        return ()

    def paths(self) -> list[Path]:
        names = (*self._shards, *KEPT_FILES, *FILES_IN_FOLDERS.values(), *self.licenses(), _INDEX)
        return [path for name in names if (path := self._directory / name).is_file()]

    def contains(self, path: str) -> bool:
        return os.path.exists(path) and any(os.path.samefile(file, path) for file in self.paths())

    def _open_shards(self) -> None:
        index = self._read_index()
        shards = sorted(set(index.values())) if index is not None else [_SINGLE]
        missing = [shard for shard in shards if not is_there(self._directory / shard)]
        problems = [f"{self._directory / shard}: is missing" for shard in missing[:_MAX_MISSING]]
        if len(missing) > _MAX_MISSING:
            problems.append(f"and {len(missing) - _MAX_MISSING} more of the {len(shards)} shards are missing")
        if missing and index is not None:
            problems.append(f"{_INDEX} names these files; download the checkpoint again, all of it")
        for shard in shards:
            path = self._directory / shard
            if shard in missing:
                continue
            check_weight_file(path)
            file = _core.SafetensorsFile(str(path))
            self._shards[shard] = file
            for name in file.names():
                if name in self._shard_of:
                    problems.append(f"{name}: is in both {self._shard_of[name]} and {shard}")
                dtype, shape, _, _ = file.info(name)
                self._tensors[name] = TensorInfo(dtype, tuple(shape))
                self._shard_of[name] = shard
        for name, shard in (index or {}).items():
            if shard in self._shards and self._shard_of.get(name) != shard:
                problems.append(f"{name}: {_INDEX} says it is in {shard}; it is not")
        raise_problems(problems, f"problems with the files of {self._directory}")

    def _read_index(self) -> dict[str, str] | None:
        """Tensor -> shard, or None when the weights are one file."""
        if is_there(self._directory / _SINGLE):
            return None
        path = self._directory / _INDEX
        weight_map = read_json_object(path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{path}: weight_map is missing or not an object")
        for name, shard in weight_map.items():
            plain = (
                isinstance(shard, str) and shard.endswith(".safetensors") and os.path.basename(shard) == shard
            )
            if not plain or "\0" in shard:
                raise CheckpointError(
                    f"{path}: {name:.80}: shard is {shard!r:.80}; it must be a plain *.safetensors file name, "
                    "in the same directory"
                )
        return weight_map


__all__ = ["SafetensorsDirectory"]
