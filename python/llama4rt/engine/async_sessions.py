"""AsyncSessionMethods: the part of AsyncEngine that opens, lists, imports and deletes sessions."""

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama4rt.engine.engine import Engine
    from llama4rt.sessions.async_session import AsyncSession
    from llama4rt.sessions.state import SessionInfo


class AsyncSessionMethods:
    """A base of AsyncEngine."""

    engine: "Engine"

    async def session(self, name_or_path: str | os.PathLike[str]) -> "AsyncSession":
        """Engine.session: what a Session returns is awaited, and what it yields is read with `async for`."""
        from llama4rt.sessions.async_session import AsyncSession

        return AsyncSession(await asyncio.to_thread(self.engine.session, name_or_path))

    async def sessions(self) -> "list[SessionInfo]":
        """Engine.sessions."""
        return await asyncio.to_thread(self.engine.sessions)

    async def import_session(self, path: str | os.PathLike[str], name: str | None = None) -> str:
        """Engine.import_session."""
        return await asyncio.to_thread(self.engine.import_session, path, name)

    async def delete_session(self, name: str) -> None:
        """Engine.delete_session."""
        await asyncio.to_thread(self.engine.delete_session, name)
