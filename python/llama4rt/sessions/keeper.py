"""SessionKeeper: the sessions of one engine: opens them by name or file, saves, exports and imports them."""

import os
import secrets
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from llama4rt.errors import RequestError
from llama4rt.sessions import session_file
from llama4rt.sessions.directory import SUFFIX, SessionDirectory, SessionLock, check_name
from llama4rt.sessions.session import Session
from llama4rt.sessions.state import SessionInfo, SessionState

if TYPE_CHECKING:
    from llama4rt import _core
    from llama4rt.engine.engine import Engine

_POLL_SECONDS = 0.005


class SessionKeeper:
    def __init__(self, engine: "Engine", core: "_core.Engine", store: Path) -> None:
        self._engine = weakref.ref(engine)  # which holds this one
        self._core = core
        self._store = store
        self._directory = SessionDirectory(store)
        self._model = core.file_identity()
        self._blocks = core.store_identity()
        self._lock = threading.Lock()
        self._open: set[Session] = set()

    def open(self, name_or_path: str | os.PathLike[str]) -> Session:
        if not isinstance(name_or_path, (str, os.PathLike)):
            raise RequestError(
                f"the session's name is {name_or_path!r:.80}; it must be a string, or the path of an exported file"
            )
        if isinstance(name_or_path, os.PathLike) or name_or_path.endswith(SUFFIX) or os.sep in name_or_path:
            return self.opened(self._from_file(Path(name_or_path))[1], None, None)
        lock = self._directory.lock(name_or_path)
        try:
            found = self._directory.load(name_or_path)
            if found is None:
                state = SessionState()
            else:
                header, state = found
                self._check_model(header.model, f"the session {name_or_path!r}")
            return self.opened(state, name_or_path, lock)
        except BaseException:
            lock.release()
            raise

    def import_file(self, path: str | os.PathLike[str], name: str | None = None) -> str:
        """Keeps the session of an exported file under a name; the file's own unless another is given."""
        if not isinstance(path, (str, os.PathLike)):
            raise RequestError(f"the path of an exported session is {path!r:.80}; it must be a path")
        header = session_file.read_header(Path(path))
        name = check_name(header.name if name is None else name)
        with self.take_new_name(name):
            _, state = self._from_file(Path(path))
            self.save(name, state)
        return name

    def export(self, state: SessionState, name: str, path: Path) -> int:
        self.flush()
        blocks = self._temporary()
        try:
            pictures = [(image.digest, len(image.tiles)) for image in state.images]
            count = self._core.export_blocks(state.token_ids, pictures, str(blocks))
            session_file.write(
                path,
                state,
                name=name,
                model=self._model,
                blocks=self._blocks,
                pictures=True,
                blocks_file=blocks,
            )
        finally:
            blocks.unlink(missing_ok=True)
        return count

    def list(self) -> list[SessionInfo]:
        return self._directory.list()

    def delete(self, name: str) -> None:
        self._directory.delete(name)

    def save(self, name: str, state: SessionState) -> None:
        self._directory.save(name, state, self._model, self._blocks)

    def take_new_name(self, name: str) -> SessionLock:
        """RequestError where there is such a session."""
        lock = self._directory.lock(name)
        if self._directory.path(name).exists():
            lock.release()
            raise RequestError(f"there is a session {name!r} already in {self._store}")
        return lock

    def flush(self) -> None:
        """Waits until all blocks that are to be kept are on disk."""
        engine = self._engine()
        while engine is not None:
            store = self._core.stats().get("store")
            if store is None or store["pending"] == 0:
                return
            engine.check_usable()
            time.sleep(_POLL_SECONDS)

    def forget(self, session: Session) -> None:
        with self._lock:
            self._open.discard(session)

    def close(self) -> None:
        """Gives all names back: the engine closes. What the sessions hold has been saved."""
        with self._lock:
            sessions, self._open = self._open, set()
        for session in sessions:
            session.abandon()

    def opened(self, state: SessionState, name: str | None, lock: SessionLock | None) -> Session:
        engine = self._engine()
        assert engine is not None  # whoever calls has it
        session = Session(engine, self, state, name, lock)
        with self._lock:
            self._open.add(session)
        return session

    def _from_file(self, path: Path) -> tuple[session_file.SessionHeader, SessionState]:
        header, state = session_file.read(path)
        self._check_model(header.model, str(path))
        blocks = self._temporary()
        if session_file.extract_blocks(path, blocks):
            try:
                self._core.adopt_blocks(str(blocks))
            finally:
                blocks.unlink(missing_ok=True)
        return header, state

    def _check_model(self, model: str, what: str) -> None:
        if model != self._model:
            raise RequestError(
                f"{what} belongs to an engine file whose header has the SHA-256 {model[:16]}..., and this one's is "
                f"{self._model[:16]}...: its tokens would mean something else"
            )

    def _temporary(self) -> Path:
        return self._store / f"{secrets.token_hex(8)}.tmp"
