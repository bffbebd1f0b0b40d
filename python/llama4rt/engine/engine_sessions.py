"""SessionMethods: the part of Engine that opens, lists, imports and deletes sessions (docs/sessions.md)."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llama4rt.engine.opened_engine import OpenedEngine
from llama4rt.errors import ConfigError

if TYPE_CHECKING:
    from llama4rt.engine.engine import Engine
    from llama4rt.sessions.keeper import SessionKeeper
    from llama4rt.sessions.session import Session
    from llama4rt.sessions.state import SessionInfo


class SessionMethods(OpenedEngine):
    """A base of Engine."""

    _sessions: "SessionKeeper | None" = None

    def session(self, name_or_path: str | os.PathLike[str]) -> "Session":
        """The session of this name, restored or new; or that of an exported file (a path, or a name ending in .l4s).

        Needs kv_store. A name is open once at a time, on the whole machine.
        """
        return self._session_keeper().open(name_or_path)

    def sessions(self) -> "list[SessionInfo]":
        """Those that are kept, by name."""
        return self._session_keeper().list()

    def import_session(self, path: str | os.PathLike[str], name: str | None = None) -> str:
        """Keeps the session of an exported file, under its own name unless another is given; returns the name."""
        return self._session_keeper().import_file(path, name)

    def delete_session(self, name: str) -> None:
        """Forgets a session that is not open. Its keys and values go when their room is needed."""
        self._session_keeper().delete(name)

    def close(self) -> None:
        """Ends running requests, keeps the sessions that are open, and frees the engine. Safe to call more than once
        and from any thread.
        """
        with self._lock:
            sessions, self._sessions = self._sessions, None
        if sessions is not None:
            sessions.close()
        super().close()

    def _session_keeper(self) -> "SessionKeeper":
        self.check_usable()
        if self._kv_store is None:
            raise ConfigError("sessions need a place to be kept: open the Engine with kv_store=DIRECTORY")
        with self._lock:
            if self._sessions is None:
                from llama4rt.sessions.keeper import SessionKeeper

                store = Path(os.fsdecode(self._kv_store))
                self._sessions = SessionKeeper(cast("Engine", self), self.native, store)
            return self._sessions
