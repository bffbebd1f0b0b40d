"""One GGUF file, opened: its header, and rows of its tensors as they are asked for.

Rows are read, not mapped: a file that is cut short meanwhile, or a disk that fails, is a typed error and no signal.
"""

import errno
import os
import stat
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.files import MAX_POINTER_BYTES, check_no_pointer
from llama4rt.convert.formats.gguf.header import MAGIC, Header, StoredTensor, read_header
from llama4rt.errors import CheckpointError

_MAX_READ = 1 << 30  # bytes of one system call


class GgufFile:
    """Open until it is collected."""

    def __init__(self, path: Path) -> None:
        """A link is followed wherever it leads: whoever names the file means what is there. Raises CheckpointError."""
        self.path = path
        try:
            # O_NONBLOCK: opening a named pipe must not wait for a writer.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from error
        weakref.finalize(self, os.close, self._fd)
        info = os.fstat(self._fd)
        if not stat.S_ISREG(info.st_mode):
            raise CheckpointError(f"{path}: is not a regular file")
        self.nbytes = info.st_size
        check_no_pointer(
            path, os.pread(self._fd, self.nbytes, 0) if self.nbytes <= MAX_POINTER_BYTES else b""
        )
        self._header: Header = read_header(self._fd, self.nbytes, path.name)
        self.metadata = self._header.metadata
        self.tensors = self._header.tensors

    def rows(self, tensor: StoredTensor, first: int, last: int) -> NDArray[np.uint8]:
        """[last - first, bytes of a row]; rows count along all axes but the last."""
        raw = np.empty((last - first, tensor.row_bytes), dtype=np.uint8)
        if raw.size:
            self._read_into(memoryview(raw.data).cast("B"), tensor.offset + first * tensor.row_bytes)
        return raw

    def release(self, tensor: StoredTensor, first: int, last: int) -> None:
        """The system need not keep the pages of these rows."""
        offset, size = tensor.offset + first * tensor.row_bytes, (last - first) * tensor.row_bytes
        os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_DONTNEED)

    def identity(self) -> list[bytes]:
        """Name, size and header: what names the file without reading its weights."""
        header = bytearray(self._header.nbytes)
        self._read_into(memoryview(header), 0)
        return [self.path.name.encode(), self.nbytes.to_bytes(8, "little"), bytes(header)]

    def _read_into(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done : done + _MAX_READ]], offset + done)
            if count == 0:
                raise OSError(errno.EIO, "was cut short after it was opened", os.fspath(self.path))
            done += count


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does. False for what cannot be opened, and for what is no regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and os.pread(fd, len(MAGIC), 0) == MAGIC
    finally:
        os.close(fd)


__all__ = ["GgufFile", "is_gguf"]
