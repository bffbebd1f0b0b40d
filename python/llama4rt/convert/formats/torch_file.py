"""One file of torch.save, mapped: its tensors by name, each a view of the file. Nothing in it is executed.

Read are the zip's directory (stored_zip.py) and the one pickle that says what lies where (tensor_pickle.py); bytes of
tensors stay on disk until a view is touched, and release() lets them go again.
"""

import math
import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import TensorInfo
from llama4rt.convert.files import check_weight_file, resolve
from llama4rt.convert.formats.stored_zip import Member, zip_members
from llama4rt.convert.formats.tensor_objects import Tensor
from llama4rt.convert.formats.tensor_pickle import MAX_PICKLE_BYTES, tensor_tree
from llama4rt.errors import CheckpointError

_ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
}
_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1",
    "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "BOOL": "u1",
}  # fmt: skip
_PICKLE = "data.pkl"
_SCRIPT = "constants.pkl"  # of TorchScript, whose files hold code
# What training programs put a state dict into.
_WRAPPERS = ("model", "state_dict", "module")
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # torch.save before version 1.6


class TorchFile:
    """Tensors by name; what else the file holds (extra states, numbers) is in `others`."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError."""
        self.path = path
        self._map = _mapped(path)
        self.size = len(self._map)
        if self._map[: len(_LEGACY)] == _LEGACY:
            raise CheckpointError(
                f"{path}: is in the format of torch.save before version 1.6, which is no zip file; load it in torch "
                "and save it again"
            )
        members = zip_members(self._map, str(path))
        folder = _folder(members, path)
        self._members = {
            name.removeprefix(folder): member for name, member in members.items() if name.startswith(folder)
        }
        self._check_byte_order()
        self.pickle = self._small(_PICKLE, MAX_PICKLE_BYTES)
        tree = _state_dict(tensor_tree(self.pickle, f"{path}: {folder}{_PICKLE}"), path)
        self._tensors: dict[str, tuple[Tensor, int]] = {}  # with the offset of its first element's byte
        self.infos: dict[str, TensorInfo] = {}
        self.others: list[str] = []
        for name, value in tree.items():
            if isinstance(value, Tensor):
                self._tensors[name] = (value, self._begin(name, value))
                self.infos[name] = TensorInfo(value.dtype, value.shape)
            else:
                self.others.append(name)

    def array(self, name: str) -> NDArray[Any]:
        """A view, of the type that stands for the tensor's: bf16 as its 16 bits, FP8 as its byte."""
        tensor, begin = self._tensors[name]
        dtype = np.dtype(_NUMPY[tensor.dtype])
        if 0 in tensor.shape:
            empty: NDArray[Any] = np.ndarray(tensor.shape, dtype)
            return empty
        # A stride over one element is never taken, and may be any number.
        strides = tuple(
            step * dtype.itemsize if size > 1 else 0
            for size, step in zip(tensor.shape, tensor.strides, strict=True)
        )
        view: NDArray[Any] = np.ndarray(tensor.shape, dtype, self._map, begin, strides)
        return view

    def nbytes(self, name: str) -> int:
        tensor, _ = self._tensors[name]
        return math.prod(tensor.shape) * item_bytes(tensor.dtype)

    def release(self, name: str) -> None:
        """Drops the pages of a tensor from this process; they come back from the file when touched."""
        tensor, begin = self._tensors[name]
        last = _last_element(tensor)
        if last is None:
            return
        end = begin + (last + 1) * item_bytes(tensor.dtype)
        start = begin // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, start, end - start)

    def _check_byte_order(self) -> None:
        if "byteorder" in self._members and self._small("byteorder", 16) != b"little":
            raise CheckpointError(
                f"{self.path}: holds big-endian numbers; save it on a little-endian machine"
            )

    def _small(self, name: str, limit: int) -> bytes:
        member = self._members[name]
        if member.size > limit:
            raise CheckpointError(
                f"{self.path}: {name} has {member.size} bytes; at most {limit} are expected"
            )
        return self._map[member.begin : member.end]

    def _begin(self, name: str, tensor: Tensor) -> int:
        """Where in the file a tensor's first element lies, once all of its elements are known to lie in its storage."""
        storage = tensor.storage
        member = self._members.get(f"data/{storage.key}")
        where = f"{self.path}: {name:.200}"
        if member is None:
            raise CheckpointError(f"{where}: its storage {storage.key!r:.80} is not in the file")
        stored = storage.count * (item_bytes(storage.dtype) if storage.dtype else 1)
        if stored != member.size:
            raise CheckpointError(f"{where}: its storage has {member.size} bytes; {stored} are expected")
        last = _last_element(tensor)
        if last is None:
            return member.begin
        size = item_bytes(tensor.dtype)
        elements = math.prod(tensor.shape)
        if (tensor.offset + last + 1) * size > stored or elements * size > stored:
            raise CheckpointError(
                f"{where}: shape {list(tensor.shape)}, strides {list(tensor.strides)} and offset {tensor.offset} do "
                f"not fit into a storage of {stored} bytes"
            )
        return member.begin + tensor.offset * size


def item_bytes(dtype: str) -> int:
    return _ITEM_BYTES.get(dtype, 1)


def _last_element(tensor: Tensor) -> int | None:
    """How many elements lie between the first and the last; None for a tensor without elements."""
    if 0 in tensor.shape:
        return None
    return sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))


def _mapped(path: Path) -> mmap.mmap:
    check_weight_file(path)
    where = resolve(path)
    assert where is not None
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_size == 0:
                raise CheckpointError(f"{path}: is empty, or no regular file")
            return mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error


def _folder(members: Mapping[str, Member], path: Path) -> str:
    """The folder that all of the file's members lie in, with its slash."""
    pickles = [name for name in members if name.count("/") == 1 and name.endswith(f"/{_PICKLE}")]
    if len(pickles) != 1:
        raise CheckpointError(
            f"{path}: has {len(pickles)} members named {_PICKLE}; a file of torch.save has one, in its one folder"
        )
    folder = pickles[0].removesuffix(_PICKLE)
    if f"{folder}{_SCRIPT}" in members:
        raise CheckpointError(f"{path}: is a TorchScript program, not a file of tensors; save its state_dict")
    return folder


def _state_dict(tree: Any, path: Path) -> dict[str, Any]:
    """Name -> tensor or something else, out of the object that holds them."""
    if isinstance(tree, dict) and not any(isinstance(value, Tensor) for value in tree.values()):
        inner = [tree[key] for key in _WRAPPERS if isinstance(tree.get(key), dict)]
        tree = inner[0] if len(inner) == 1 else tree
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: holds a {type(tree).__name__}; expected tensors by name")
    return {str(name): value for name, value in tree.items()}


__all__ = ["TorchFile", "item_bytes"]
