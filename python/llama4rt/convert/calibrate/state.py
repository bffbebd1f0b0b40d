"""What an interrupted calibration had done, beside its output: `out.calibration`.

One line of JSON, then the residual stream of the text in front of a layer: with it the layers before need not run
again. Written anew after layers, as a whole; what is torn, damaged or of another build is not used, and costs time.
"""

import contextlib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SECONDS = 10.0  # between two states: a gigabyte, of large models
_MAX_LINE = 256 << 20
_DTYPE = "<f4"


def state_path(output: str) -> str:
    return f"{output}.calibration"


@dataclass(frozen=True)
class State:
    phase: str  # "measure" or "round"
    layer: int  # in front of which the stream is
    stream: NDArray[np.float32]  # [tokens, hidden]
    measured: list[Any] = field(default_factory=list)  # of layers before `layer`, or of all when "round"
    reports: list[Any] = field(default_factory=list)  # of layers before `layer`, when "round"


class StateFile:
    """Of one build. A failure of its own (a full disk) ends the file, not the build."""

    def __init__(self, output: str, identity: Mapping[str, Any], resume: bool) -> None:
        """identity: plain values; what they are of must be one and the same for a build to go on."""
        self._path = state_path(output)
        self._identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._resume = resume
        self._saved = time.monotonic()
        self._works = True

    def load(self) -> State | None:
        """None where there is nothing of this build."""
        if not self._resume:
            return None
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                line = json.loads(file.readline(_MAX_LINE))
                if line["identity"] != self._identity:
                    return None
                tokens, hidden = (int(size) for size in line["shape"])
                stream = np.fromfile(file, dtype=_DTYPE, count=tokens * hidden)
            state = State(
                str(line["phase"]), int(line["layer"]), stream.reshape(tokens, hidden), line["measured"],
                line["reports"],
            )  # fmt: skip
            return state if line["digest"] == _digest(state) else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def save(self, state: State) -> None:
        """Now and then: not every state is written."""
        if not self._works or time.monotonic() - self._saved < _SECONDS:
            return
        line = {
            "identity": self._identity,
            "shape": state.stream.shape,
            "digest": _digest(state),
            **{key: value for key, value in asdict(_without_stream(state)).items() if key != "stream"},
        }
        new = f"{self._path}.{os.getpid()}"
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            with open(fd, "wb") as file:
                file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
                state.stream.astype(_DTYPE, copy=False).tofile(file)
            os.replace(new, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(new)
            self._works = False
            warnings.warn(
                f"{self._path}: {error.strerror}; this calibration cannot go on later, should it be interrupted",
                stacklevel=2,
            )
        except BaseException:  # Ctrl-C in between: the state before it is as good
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        self._saved = time.monotonic()

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def _without_stream(state: State) -> State:
    return State(state.phase, state.layer, np.empty((0, 0), dtype=np.float32), state.measured, state.reports)


def _digest(state: State) -> str:
    facts = json.dumps([state.phase, state.layer, state.stream.shape, state.measured, state.reports])
    digest = hashlib.sha256(facts.encode())
    digest.update(np.ascontiguousarray(state.stream).astype(_DTYPE, copy=False).data)
    return digest.hexdigest()


__all__ = ["State", "StateFile", "state_path"]
