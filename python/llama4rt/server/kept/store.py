"""ResponseStore: the database for the event loop: beside it, in one thread, for the client whose request it is."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from llama4rt.server.api_errors import ApiError
from llama4rt.server.kept.database import Database, StoreError
from llama4rt.server.server_options import ServerOptions
from llama4rt.workers.client import current_client

log = logging.getLogger("llama4rt.server")

_T = TypeVar("_T")


class ResponseStore:
    def __init__(self, options: ServerOptions) -> None:
        """options.response_store is given. ConfigError where nothing can be kept there."""
        self._has_keys = bool(options.api_keys)
        self.seconds = options.response_days * 86_400
        self.database = Database(
            Path(options.response_store or ""),
            max_bytes=options.response_store_bytes,
            max_count=options.response_store_count,
        )
        self._thread = ThreadPoolExecutor(1, "llama4rt-responses")

    def owner(self) -> str:
        """Whom the current request's things belong to: its API key; without keys all clients are one."""
        return current_client().name if self._has_keys else ""

    async def call(self, work: Callable[[], _T]) -> _T:
        """ApiError 503 when the file cannot be used now."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except StoreError as error:
            log.error("responses: %s", error)
            raise ApiError(503, "what the server keeps cannot be reached now", code="store_failed") from None

    async def kept(self, work: Callable[[], bool]) -> bool:
        """Whether it could be kept; a request that was answered does not fail for it. What has begun is finished, also
        when the caller is cancelled.
        """
        try:
            return await asyncio.shield(asyncio.ensure_future(self.call(work)))
        except ApiError:
            return False

    def later(self, work: Callable[[], object]) -> None:
        """For a caller who must not wait."""

        def quietly() -> None:
            try:
                work()
            except StoreError as error:
                log.error("responses: %s", error)

        try:
            self._thread.submit(quietly)
        except RuntimeError:  # the interpreter ends
            quietly()
