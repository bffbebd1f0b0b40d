"""uvicorn's HTTP protocol with two limits that it lacks: on the size of a request's head, and on the time until it has
come in. A client that sends a byte now and then would otherwise hold a connection for ever.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b'content-length: 122\r\n\r\n{"error":{"message":"the head of the request is too large","type":'
    b'"invalid_request_error","param":null,"code":"headers_large"}}'
)


def limited_protocol(max_header_bytes: int, receive_seconds: float) -> type[HttpToolsProtocol]:
    """The class that uvicorn's `http` option takes."""

    class LimitedProtocol(HttpToolsProtocol):
        _head_bytes = 0
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._start_deadline()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_deadline()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._reading_head:
                self._head_bytes += len(data)
                end = data.find(b"\r\n\r\n")
                if self._head_bytes - (len(data) - end if end >= 0 else 0) > max_header_bytes:
                    self.transport.write(_TOO_LARGE)
                    self.transport.close()
                    return
            super().data_received(data)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._deadline is None:  # a later request of a connection that was kept
                self._start_deadline()

        def on_headers_complete(self) -> None:
            # The body has a deadline of its own, in Guard, whose refusal the client can read.
            self._reading_head = False
            self._stop_deadline()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._reading_head = True
            self._head_bytes = 0

        _reading_head = True

        def _start_deadline(self) -> None:
            self._deadline = self.loop.call_later(receive_seconds, self._too_late)

        def _stop_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _too_late(self) -> None:
            self._deadline = None
            self.transport.close()

    return LimitedProtocol
