"""AsyncSession: a Session whose calls are awaited. Each has a thread of its own, in which its calls take turns."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from llama4rt.engine.outputs import Delta, OutputBuilder, RequestOutput
from llama4rt.engine.sampling_params import SamplingParams
from llama4rt.errors import RequestError
from llama4rt.sessions.session import Content, Session
from llama4rt.workers.client import run_in_context

_T = TypeVar("_T")
_END = object()


class AsyncSession:
    """Made by AsyncEngine.session(). Calls of several tasks wait for each other.

    A task that is cancelled leaves at once. Reading that it had begun is finished; an answer ends at its next token,
    and what was said until then stays.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._closed = False
        self._turn = asyncio.Lock()
        # A stream holds the session's lock, which belongs to a thread, between its tokens: all calls are of one.
        self._thread = ThreadPoolExecutor(1, "llama4rt-session")

    @property
    def name(self) -> str | None:
        """Session.name."""
        return self._session.name

    @property
    def token_ids(self) -> list[int]:
        """Session.token_ids."""
        return self._session.token_ids

    @property
    def num_tokens(self) -> int:
        """Session.num_tokens."""
        return self._session.num_tokens

    @property
    def messages(self) -> list[dict[str, Any]] | None:
        """Session.messages."""
        return self._session.messages

    async def append(self, content: Content, *, images: Sequence[Any] | None = None) -> int:
        """Session.append."""
        return await self._call(lambda: self._session.append(content, images=images))

    async def generate(
        self,
        content: Content | None = None,
        params: SamplingParams | None = None,
        *,
        images: Sequence[Any] | None = None,
    ) -> RequestOutput:
        """Session.generate."""
        builder: OutputBuilder | None = None
        async with aclosing(self.stream(content, params, images=images)) as deltas:
            async for delta in deltas:
                if builder is None:
                    builder = OutputBuilder(delta.request_id, None, self._session.token_ids, 1)
                builder.add(delta)
        assert builder is not None
        return builder.snapshot()

    async def stream(
        self,
        content: Content | None = None,
        params: SamplingParams | None = None,
        *,
        images: Sequence[Any] | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Session.stream, read with `async for`. Close it, or leave it in aclosing(), to end the answer early."""
        async with self._turn:
            deltas = self._session.stream(content, params, images=images)
            try:
                while (delta := await self._run(partial(next, deltas, _END))) is not _END:
                    assert isinstance(delta, Delta)
                    yield delta
            finally:
                # Not awaited: the task may be cancelled. Whatever the thread does next comes after it.
                with contextlib.suppress(RuntimeError):  # the session was closed, or the interpreter ends
                    self._thread.submit(deltas.close)  # type: ignore[attr-defined]  # it is a generator

    async def fork(self, name: str | None = None) -> "AsyncSession":
        """Session.fork."""
        return AsyncSession(await self._call(lambda: self._session.fork(name)))

    async def export(self, path: str | Path) -> int:
        """Session.export."""
        return await self._call(lambda: self._session.export(path))

    async def save(self) -> None:
        """Session.save."""
        await self._call(self._session.save)

    async def close(self) -> None:
        """Session.close."""
        if not self._closed:
            await self._call(self._session.close)
            self._closed = True
            self._thread.shutdown(wait=False)

    async def __aenter__(self) -> "AsyncSession":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._session!r}"

    async def _call(self, work: Callable[[], _T]) -> _T:
        async with self._turn:
            return await self._run(work)

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._closed:
            raise RequestError(f"the session {self.name!r} is closed")
        return await run_in_context(self._thread, work)
