"""Where sessions lie: `sessions/` and `pictures/` in the directory of a store. Used by several processes at once."""

import fcntl
import os
import re
from pathlib import Path
from typing import IO, Any

from llama4rt.errors import Llama4RTError, RequestError
from llama4rt.sessions import session_file
from llama4rt.sessions.session_file import SessionHeader
from llama4rt.sessions.state import SessionInfo, SessionState

SUFFIX = ".l4s"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith(SUFFIX):
        raise RequestError(
            f"the session name {name!r:.80} is not allowed: up to 100 letters, digits, '.', '_' and '-', a letter or "
            f"digit first, and no {SUFFIX} at the end, which is for files"
        )
    return name


class SessionDirectory:
    def __init__(self, store: str | os.PathLike[str]) -> None:
        self._sessions = Path(store) / "sessions"
        self._pictures = Path(store) / "pictures"

    def path(self, name: str) -> Path:
        return self._sessions / (check_name(name) + SUFFIX)

    def list(self) -> list[SessionInfo]:
        """By name. Files that cannot be read are left out."""
        found = []
        for path in self._sessions.glob("*" + SUFFIX):
            try:
                header = session_file.read_header(path)
            except RequestError:
                continue
            found.append(
                SessionInfo(
                    path.name.removesuffix(SUFFIX),
                    header.num_tokens,
                    header.num_images,
                    header.model,
                    header.updated,
                )
            )
        return sorted(found, key=lambda info: info.name)

    def lock(self, name: str) -> "SessionLock":
        """Holds the name for one user; RequestError while another has it."""
        self._make()
        return SessionLock(self._sessions / f"{check_name(name)}.lock", name)

    def load(self, name: str) -> tuple[SessionHeader, SessionState] | None:
        """None: there is no session of this name."""
        path = self.path(name)
        return session_file.read(path, self._read_picture) if path.exists() else None

    def save(self, name: str, state: SessionState, model: str, blocks: str) -> None:
        self._make()
        for image in state.images:
            path = self._pictures / f"{image.digest.hex()}.u8"
            if not path.exists():
                _replace(path, image.tiles.tobytes())
        session_file.write(self.path(name), state, name=name, model=model, blocks=blocks)

    def delete(self, name: str) -> None:
        """The blocks stay in the store until others need their room."""
        path = self.path(name)
        with self.lock(name):
            try:
                path.unlink()
            except FileNotFoundError:
                raise RequestError(f"there is no session {name!r} in {self._sessions.parent}") from None
        self._drop_pictures()

    def _drop_pictures(self) -> None:
        used = set()
        for path in self._sessions.glob("*" + SUFFIX):
            try:
                used |= {
                    image.digest.hex() for image in session_file.read(path, self._read_picture)[1].images
                }
            except RequestError:
                return  # what it needs is not known
        for path in self._pictures.glob("*.u8"):
            if path.stem not in used:
                path.unlink(missing_ok=True)

    def _read_picture(self, digest: str, size: int) -> bytes:
        path = self._pictures / f"{digest}.u8"
        try:
            with open(path, "rb") as file:
                return file.read(size + 1)
        except OSError as error:
            raise RequestError(
                f"{path}: a picture of the session is gone: {error.strerror or error}"
            ) from None

    def _make(self) -> None:
        try:
            for folder in (self._sessions, self._pictures):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Llama4RTError(f"{self._sessions.parent}: {error.strerror or error}") from None


class SessionLock:
    """A name in use. The system gives it back when the process ends, however that happens."""

    def __init__(self, path: Path, name: str) -> None:
        try:
            self._file: IO[bytes] | None = open(path, "ab")  # noqa: SIM115  # until release()
        except OSError as error:
            raise Llama4RTError(f"{path}: {error.strerror or error}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise RequestError(f"the session {name!r} is open already, here or in another process") from None

    def release(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # said: a forked child has the same open file
            self._file.close()
            self._file = None

    def __enter__(self) -> "SessionLock":
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise Llama4RTError(f"{path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
