"""Answering: an answer that is awaited for the whole of it, or read while it grows."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any

from llama4rt.engine.outputs import RequestOutput


class Answering(AsyncGenerator[RequestOutput, None]):
    """What AsyncEngine.generate and chat return. Nothing runs before it is awaited or read, one of the two, once."""

    def __init__(
        self,
        whole: Callable[[], Coroutine[Any, Any, list[RequestOutput]]],
        growing: Callable[[], AsyncGenerator[RequestOutput, None]],
    ) -> None:
        self._whole = whole
        self._growing = growing
        self._parts: AsyncGenerator[RequestOutput, None] | None = None

    def __await__(self) -> Generator[Any, None, list[RequestOutput]]:
        return self._whole().__await__()

    def __aiter__(self) -> "Answering":
        return self

    async def __anext__(self) -> RequestOutput:
        return await self._reading().__anext__()

    async def asend(self, value: None) -> RequestOutput:
        return await self._reading().asend(value)

    async def athrow(
        self,
        kind: "type[BaseException] | BaseException",
        value: "BaseException | object" = None,
        trace: TracebackType | None = None,
    ) -> RequestOutput:
        error = (
            kind if isinstance(kind, BaseException) else value if isinstance(value, BaseException) else kind()
        )
        return await self._reading().athrow(error)

    async def aclose(self) -> None:
        """Ends the request, if it runs."""
        if self._parts is not None:
            await self._parts.aclose()

    def _reading(self) -> AsyncGenerator[RequestOutput, None]:
        if self._parts is None:
            self._parts = self._growing()
        return self._parts
