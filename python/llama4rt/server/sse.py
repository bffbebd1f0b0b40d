"""EventStream: server-sent events that stop the moment nobody listens any more."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from llama4rt.server.api_errors import ApiError
from llama4rt.server.half_closed import FLAG as HALF_CLOSED
from llama4rt.server.http import dumps
from llama4rt.server.service import Service

log = logging.getLogger("llama4rt.server")

DONE = b"data: [DONE]\n\n"
_HEADERS = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would otherwise collect the events
]


@dataclass(frozen=True)
class Wire:
    """How a stream is written. heartbeat: what goes out when there is nothing to say, and means nothing."""

    content_type: bytes = b"text/event-stream; charset=utf-8"
    heartbeat: bytes = b": heartbeat\n\n"


EVENTS = Wire()


_TEXT = uuid.uuid4().hex  # stands for the text of a TextLine; no client knows it


def data_line(value: Any) -> bytes:
    """One event without a name."""
    return b"data: " + dumps(value) + b"\n\n"


class TextLine:
    """Events that differ in one text: the rest, most of an event, is written once. value: the event with that text."""

    def __init__(self, value: Callable[[str], Any]) -> None:
        self._before, self._after = data_line(value(_TEXT)).split(dumps(_TEXT))

    def __call__(self, text: str) -> bytes:
        return self._before + dumps(text) + self._after


class EventStream:
    """An ASGI response. lines: what to send, each complete events. error_line: how this API says that it went wrong
    after it had begun. close: always called at the end, however it came.

    A heartbeat goes out when there was nothing for a while. A client that leaves, or that does not read for
    slow_reader_seconds, ends the stream and with it the request.
    """

    def __init__(
        self,
        service: Service,
        lines: AsyncGenerator[bytes, None],
        close: Callable[[], None],
        error_line: Callable[[ApiError], bytes],
        wire: Wire = EVENTS,
    ) -> None:
        self._service = service
        self._lines = lines
        self._close = close
        self._error_line = error_line
        self._wire = wire
        self._writing = False
        self._since = time.monotonic()  # when the latest write began or ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(send))
        gone = asyncio.ensure_future(until_disconnected(receive))
        minding = asyncio.ensure_future(self._mind(send, scope.get("state", {})))
        self._service.remember(sending)
        try:
            await asyncio.wait({sending, gone, minding}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not sending.done():
                self._service.metrics.disconnected.inc()
            for task in (gone, minding, sending):
                task.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await sending
            finally:  # also when a write failed otherwise: a server may raise anything for a closed connection
                self._close()

    async def _send_all(self, send: Send) -> None:
        headers = [(b"content-type", self._wire.content_type), *_HEADERS]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with aclosing(self._lines) as all_lines:
                async for lines in all_lines:
                    await self._write(send, lines)
        except ApiError as error:
            await self._write(send, self._error_line(error))
        except asyncio.CancelledError:
            if not self._service.draining:
                raise
            ending = ApiError(503, "the server is shutting down", code="shutting_down")
            await self._write(send, self._error_line(ending))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, data: bytes) -> None:
        self._writing = True
        self._since = time.monotonic()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._writing = False
        self._since = time.monotonic()

    async def _mind(self, send: Send, state: dict[str, Any]) -> None:
        """Beats while nothing is written; returns when one write has waited too long for its reader. state: of the
        scope.
        """
        options = self._service.options
        while True:
            if state.pop(HALF_CLOSED, False) and not self._writing:
                await self._write(send, self._wire.heartbeat)  # for the answer of the client's kernel
            patience = options.slow_reader_seconds if self._writing else options.heartbeat_seconds
            left = self._since + patience - time.monotonic()
            if left > 0:
                await asyncio.sleep(min(left, 1.0))
            elif self._writing:
                self._service.metrics.slow_readers.inc()
                log.warning("a client does not read its stream: ended")
                return
            else:
                await self._write(send, self._wire.heartbeat)


async def until_disconnected(receive: Receive) -> None:
    """Returns when the client has gone. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(service: Service, receive: Receive, work: Any) -> Any:
    """The work's result; cancels it, and raises ClientGone, when the client leaves before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(until_disconnected(receive))
    service.remember(task)
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if not task.done() or task.cancelled():
                service.metrics.disconnected.inc()
                raise ClientGone
        if task.cancelled():
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


class ClientGone(Exception):
    """Nobody is left to answer."""
