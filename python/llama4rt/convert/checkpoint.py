"""A checkpoint: a directory in Hugging Face's layout, or a hub id that becomes one, opened lazily and strictly.

Reads safetensors and JSON only; no Python file of a checkpoint is ever imported. What the tensors mean is names.py.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.convert.names import raise_problems
from llama4rt.convert.tensors import NUMPY_DTYPES, TensorInfo
from llama4rt.errors import CheckpointError

# Files kept in the engine as they are, because running the model or using it lawfully needs them.
KEPT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)
LICENSE_PATTERNS = ("LICENSE*", "NOTICE*", "USE_POLICY*")
DOWNLOAD_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", *LICENSE_PATTERNS)

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MAX_JSON_BYTES = 256 << 20
_MAX_FILE_BYTES = 1 << 30
_HUB_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_PLAIN_NAME = re.compile(r"[\w.() +-]{1,100}", re.ASCII)  # narrower than what an engine file takes
_CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[^/]+/?$")


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

    try:
        found = huggingface_hub.snapshot_download(str(source), allow_patterns=list(DOWNLOAD_PATTERNS))
    except (
        Exception
    ) as error:  # the client's errors share no class: its own, its transport's, OSError, ValueError
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{source}: no such directory here, and it could not be had from the hub: {reason} "
            "(gated models need HF_TOKEN; offline mode, HF_HUB_OFFLINE, needs an earlier download)"
        ) from error
    return Path(found), str(source)


class Checkpoint:
    """An opened checkpoint directory. Tensors are views of the mapped files."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.config = _read_object(directory / "config.json")
        generation = directory / "generation_config.json"
        self.generation_config: Mapping[str, Any] = _read_object(generation) if generation.exists() else {}
        self.shards: dict[str, _core.SafetensorsFile] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self._shard_of: dict[str, str] = {}
        self._open_shards()

    @classmethod
    def open(cls, source: str | os.PathLike[str]) -> "Checkpoint":
        return cls(*locate(source))

    def array(self, name: str) -> NDArray[Any]:
        info = self.tensors[name]
        raw: NDArray[np.uint8] = self.shards[self._shard_of[name]].raw(name)
        return raw.view(NUMPY_DTYPES[info.dtype]).reshape(info.shape)

    def release(self, name: str) -> None:
        self.shards[self._shard_of[name]].release(name)

    def nbytes(self, name: str) -> int:
        return self.shards[self._shard_of[name]].info(name)[3]

    def contains(self, path: str) -> bool:
        """Whether an existing file is one of those read here, under whatever name."""
        names = [*self.shards, *KEPT_FILES, _INDEX]
        files = [self.directory / name for name in names]
        return os.path.exists(path) and any(f.exists() and os.path.samefile(f, path) for f in files)

    def kept_files(self) -> dict[str, bytes]:
        """Name -> content of the files that go into the engine, sorted by name."""
        names = {*KEPT_FILES, *self.licenses()}
        paths = {name: self.directory / name for name in sorted(names)}
        return {name: _read(path, _MAX_FILE_BYTES) for name, path in paths.items() if path.is_file()}

    def licenses(self) -> list[str]:
        """Names of the licence, notice and policy files, sorted."""
        found = {
            path.name
            for pattern in LICENSE_PATTERNS
            for path in self.directory.glob(pattern)
            if path.is_file()
        }
        return sorted(name for name in found if _PLAIN_NAME.fullmatch(name))

    def source_hash(self) -> str:
        """sha256 over config.json and, for each shard by name: name, size and header (not the weights themselves).

        Each item goes in as its length (8 bytes, little endian) and its bytes.
        """
        digest = hashlib.sha256()

        def add(item: bytes) -> None:
            digest.update(len(item).to_bytes(8, "little"))
            digest.update(item)

        add(_read(self.directory / "config.json", _MAX_JSON_BYTES))
        for shard in sorted(self.shards):
            path = self.directory / shard
            add(shard.encode())
            add(path.stat().st_size.to_bytes(8, "little"))
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")  # already checked when the shard was opened
                add(file.read(length))
        return f"sha256:{digest.hexdigest()}"

    def _open_shards(self) -> None:
        index = self._read_index()
        problems: list[str] = []
        for shard in sorted(set(index.values())) if index is not None else [_SINGLE]:
            path = self.directory / shard
            if not path.is_file():
                problems.append(f"{path}: is missing")
                continue
            file = _core.SafetensorsFile(str(path))
            self.shards[shard] = file
            for name in file.names():
                if name in self._shard_of:
                    problems.append(f"{name}: is in both {self._shard_of[name]} and {shard}")
                dtype, shape, _, _ = file.info(name)
                self.tensors[name] = TensorInfo(dtype, tuple(shape))
                self._shard_of[name] = shard
        for name, shard in (index or {}).items():
            if shard in self.shards and self._shard_of.get(name) != shard:
                problems.append(f"{name}: {_INDEX} says it is in {shard}; it is not")
        raise_problems(problems, f"problems with the files of {self.directory}")

    def _read_index(self) -> dict[str, str] | None:
        """Tensor -> shard, or None when the weights are one file."""
        if (self.directory / _SINGLE).exists():
            return None
        path = self.directory / _INDEX
        if not path.exists():
            raise CheckpointError(self._nothing_to_read())
        weight_map = _read_object(path).get("weight_map")
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

    def _nothing_to_read(self) -> str:
        others = [
            path.name
            for path in sorted(self.directory.iterdir())
            if path.suffix in (".bin", ".pth", ".pt", ".gguf")
        ]
        hint = f" ({others[0]} cannot be read; llama4rt reads safetensors only)" if others else ""
        return f"{self.directory}: neither {_SINGLE} nor {_INDEX} is there{hint}"


def _read(path: Path, limit: int) -> bytes:
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing")
    size = path.stat().st_size
    if size > limit:
        raise CheckpointError(f"{path}: has {size} bytes; at most {limit} are expected")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read(path, _MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}; expected an object")
    return value


__all__ = ["DOWNLOAD_PATTERNS", "KEPT_FILES", "LICENSE_PATTERNS", "Checkpoint", "locate"]
