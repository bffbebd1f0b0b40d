"""The files of one adapter: its settings, and its tensors in safetensors or in a file of torch.save."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.convert.checkpoint import FLOAT_DTYPES, TensorInfo
from llama4rt.convert.files import (
    MAX_JSON_BYTES,
    check_weight_file,
    is_there,
    read_file,
    read_json_object,
)
from llama4rt.convert.formats.torch_file import TorchFile
from llama4rt.convert.lora.lora_config import FILE, parse_lora_config
from llama4rt.convert.stored_rows import NUMPY_DTYPES, as_float32
from llama4rt.errors import CheckpointError

_SAFETENSORS = "adapter_model.safetensors"
_TORCH = "adapter_model.bin"
_OF_THE_TOKENIZER = ("tokenizer.json", "tokenizer.model", "chat_template.jinja")


class LoraFiles:
    """An adapter as it lies on disk. Tensors are views of the mapped file until they are asked for."""

    def __init__(self, directory: Path, name: str) -> None:
        """Raises CheckpointError or ConfigError."""
        self.directory = directory
        self.name = name
        self.config = parse_lora_config(read_json_object(directory / FILE), name)
        self._file: _core.SafetensorsFile | TorchFile
        if is_there(directory / _SAFETENSORS):
            self._path = directory / _SAFETENSORS
            check_weight_file(self._path)
            self._file = _core.SafetensorsFile(str(self._path))
            self.infos = {
                tensor: TensorInfo(self._file.info(tensor)[0], tuple(self._file.info(tensor)[1]))
                for tensor in self._file.names()
            }
        elif is_there(directory / _TORCH):
            self._path = directory / _TORCH
            self._file = TorchFile(self._path)
            self.infos = self._file.infos
        else:
            raise CheckpointError(f"{directory}: neither {_SAFETENSORS} nor {_TORCH} is there")
        wrong = [
            f"{tensor} is {info}" for tensor, info in self.infos.items() if info.dtype not in FLOAT_DTYPES
        ]
        if wrong or not self.infos:
            what = wrong[0] if wrong else "no tensor is there"
            raise CheckpointError(f"{self._path}: {what}; expected tensors of {', '.join(FLOAT_DTYPES)}")

    def array(self, tensor: str) -> NDArray[Any]:
        """As it is stored; bf16 as its bits."""
        if isinstance(self._file, TorchFile):
            return self._file.array(tensor)
        info = self.infos[tensor]
        return self._file.raw(tensor).view(NUMPY_DTYPES[info.dtype]).reshape(info.shape)

    def numbers(self, tensor: str, part: tuple[Any, ...] = ()) -> NDArray[np.float32]:
        """Of a part of a tensor, as fp32. Raises CheckpointError for NaN and infinity."""
        found = as_float32(self.array(tensor)[part], self.infos[tensor].dtype)
        if not np.isfinite(found).all():
            raise CheckpointError(f"{self.name}: {tensor} holds NaN or infinity")
        return found

    @property
    def has_tokenizer(self) -> bool:
        return any(is_there(self.directory / file) for file in _OF_THE_TOKENIZER)

    def digest(self) -> str:
        """sha256 over the settings and the whole file of tensors: an adapter is small beside its base."""
        digest = hashlib.sha256(read_file(self.directory / FILE, MAX_JSON_BYTES))
        with open(self._path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def paths(self) -> list[Path]:
        return [self._path, self.directory / FILE]

    def contains(self, path: str) -> bool:
        return os.path.exists(path) and any(os.path.samefile(file, path) for file in self.paths())


__all__ = ["LoraFiles"]
