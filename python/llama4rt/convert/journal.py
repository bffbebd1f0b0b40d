"""What an interrupted build had done, beside its output: `out.journal`, with the bytes themselves in `out.tmp`.

The first line says which build it is: the source's files and their state, the options, the version. Each further line
is one weight that is written: its checksums and the sums of its error. A line begins with its own hash, and vouches for
nothing by itself: the bytes are read again and must have these checksums. So a crash of the machine costs time and
nothing else. A journal of another build is thrown away, with a warning that says what differs.
"""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama4rt import _core
from llama4rt.convert.files import read_if_there
from llama4rt.errors import CheckpointError

_MAX_BYTES = 64 << 20
_TRIES = 3
_Done = tuple[dict[str, int], tuple[float, float, float]]  # checksums of stored tensors, sums of the error
_NOTHING: _Done = ({}, (0.0, 0.0, 0.0))


def journal_path(output: str) -> str:
    return f"{output}.journal"


class Journal:
    """Of one build. Its own failures (a full disk, a directory in the way) end the journal, not the build."""

    def __init__(self, output: str, identity: Mapping[str, Any], resume: bool) -> None:
        """identity: plain values; what they are of must be one and the same for a build to go on."""
        self._path = journal_path(output)
        self._identity = json.loads(json.dumps(identity))
        self._resume = resume
        self._fd = -1
        self._lines = 0

    @property
    def has_lines(self) -> bool:
        """Whether a later build could go on with something."""
        return self._fd >= 0 and self._lines > 0

    def begin(self, writer: _core.EngineWriter, names: Sequence[str]) -> set[str]:
        """Begins the writer; returns which of the weights are there already, from an interrupted build."""
        done = self._read() if self._resume else None
        found: set[str] = set()
        if writer.begin(done is not None):  # locks the output: from here on the journal is ours too
            assert done is not None
            found = {name for name in names if writer.restore(name, *done.get(name, _NOTHING))}
        self._open(keep=bool(found))
        self._lines = len(found)
        return found

    def done(self, writer: _core.EngineWriter, name: str) -> None:
        """`name` is written."""
        if self._fd < 0:
            return
        checksums, error = writer.complete(name)
        line = {"name": name, "checksums": checksums, "error": [value.hex() for value in error]}
        self._append(line)
        self._lines += 1

    def close(self, keep: bool) -> None:
        """keep: for a later build, where there is something to go on with."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):  # closed it is, whatever was said
            os.close(self._fd)
        self._fd = -1
        if not keep:
            self._unlink()

    def _append(self, value: Any) -> None:
        text = json.dumps(value, separators=(",", ":")).encode()
        text = _hash(text) + b" " + text + b"\n"
        try:
            while text:
                text = text[os.write(self._fd, text) :]
        except OSError:
            self.close(keep=False)

    def _open(self, keep: bool) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            if not keep:
                self._unlink()
                flags |= os.O_EXCL
            self._fd = os.open(self._path, flags, 0o644)
        except OSError as error:
            warnings.warn(
                f"{self._path}: {error.strerror}; this build cannot go on later, should it be interrupted",
                stacklevel=5,
            )
            return
        # Either begins the file, or, behind the line that the interruption may have torn, is skipped.
        self._append({"goes on": True} if keep else self._identity)

    def _unlink(self) -> None:
        for _ in range(_TRIES):
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                return
            except OSError:  # a signal, or a passing fault; what stays vouches for nothing without its bytes
                continue

    def _read(self) -> dict[str, _Done] | None:
        """None where there is no journal of this build."""
        try:
            content = read_if_there(Path(self._path), _MAX_BYTES)
        except (CheckpointError, OSError):
            return None
        if content is None:
            return None
        first, *lines = content.split(b"\n")
        differ = self._differences(first)
        if differ:
            warnings.warn(
                f"{self._path}: is of another build ({', '.join(differ)} not the same); it is thrown away, and this "
                "build begins anew",
                stacklevel=5,
            )
            return None
        done = (_parsed(line) for line in lines)
        return {name: (checksums, error) for name, checksums, error in filter(None, done)}

    def _differences(self, first: bytes) -> list[str]:
        """What of the identity is not the same."""
        other = _unpacked(first)
        if other is None:
            return ["its first line is"]
        return [key for key in {**self._identity, **other} if other.get(key) != self._identity.get(key)]


def _parsed(line: bytes) -> tuple[str, dict[str, int], tuple[float, float, float]] | None:
    """A line's name, checksums and error; None for one that is torn or damaged."""
    value = _unpacked(line)
    if value is None:
        return None
    try:
        checksums = {str(tensor): int(hash_) for tensor, hash_ in value["checksums"].items()}
        squared, weight_squared, largest = (float.fromhex(number) for number in value["error"])
        if not all(0 <= hash_ < 1 << 64 for hash_ in checksums.values()):
            return None
        return str(value["name"]), checksums, (squared, weight_squared, largest)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _unpacked(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None where the line is not what was written."""
    hash_, _, text = line.partition(b" ")
    if hash_ != _hash(text):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _hash(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode()


__all__ = ["Journal", "journal_path"]
