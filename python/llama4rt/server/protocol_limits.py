"""uvicorn's HTTP protocol with limits that it lacks: on all bytes of a request that are not its body, and on the time
until its head has come in. A client that sends a byte now and then would otherwise hold a connection for ever.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from llama4rt.server.api_errors import ApiError
from llama4rt.server.half_closed import ResetWatch, begin_reply

# Bytes that the parser gets at once: a longer value of a header is put together piece by piece.
_PIECE = 1 << 16
# After a refusal what still comes is read and dropped; closing at once would reset the reply.
_LINGER_SECONDS = 1.0

# Called with status, code and the client's address of every refusal made here.
Refused = Callable[[int, str, str | None], None]


def limited_protocol(
    max_header_bytes: int, receive_seconds: float, refused: Refused = lambda status, code, client: None
) -> type[HttpToolsProtocol]:
    """The class that uvicorn's `http` option takes.

    max_header_bytes: of a head. Trailers and the framing of chunks may take as much again, and one byte for each of
    the body's: chunks of a few bytes cost a call of the parser each.
    """

    class LimitedProtocol(HttpToolsProtocol):
        _reading_head = True
        _other_bytes = 0  # of this request, beside its body; what is left of a piece counts for the next one
        _body_bytes = 0
        _refusing = False
        _deadline: asyncio.TimerHandle | None = None
        _reset_watch: ResetWatch | None = None  # once the client sends no more

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # Requests without a whole reply, oldest first. uvicorn knows the latest: of those that came in one piece it
            # would go on to answer the earlier ones after the connection has ended.
            self._open_cycles: list[RequestResponseCycle] = []
            self._start_deadline()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_deadline()
            if self._reset_watch is not None:
                self._reset_watch.stop()
            self._end_cycles()
            super().connection_lost(exc)

        def eof_received(self) -> bool:  # type: ignore[override]
            """True: the connection stays, for replies to what came whole. uvicorn would close it."""
            if self._reset_watch is not None:
                return True
            waiting = self._waiting()
            if self._refusing or not waiting or not self._reading_head:
                return False
            self._stop_deadline()
            waiting[-1].keep_alive = False
            begin_reply(waiting[0])
            self._reset_watch = ResetWatch(self.loop, self.transport, lambda: bool(self._waiting()))
            return True

        def data_received(self, data: bytes) -> None:
            for begin in range(0, len(data), _PIECE):
                if self._refusing or self.transport.is_closing():
                    return
                self._feed(data if len(data) <= _PIECE else data[begin : begin + _PIECE])

        def _feed(self, piece: bytes) -> None:
            if self._reading_head:
                # Before the parser sees it: a head that is too large must not start a request.
                end = piece.find(b"\r\n\r\n")
                if self._other_bytes + (len(piece) if end < 0 else end) > max_header_bytes:
                    self._refuse_head()
                    return
                # A later request of a connection that was kept, or blank lines before it.
                if self._deadline is None:
                    self._start_deadline()
            self._other_bytes = max(self._other_bytes, 0) + len(piece)
            super().data_received(piece)
            # What the allowance of a head is to trailers and framing, too.
            if not self._refusing and self._other_bytes > 2 * max_header_bytes + self._body_bytes:
                self._refuse_head()

        def on_message_begin(self) -> None:
            self._body_bytes = 0
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._reading_head:  # trailers are nothing that this server knows, and must not become headers
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            # The body has a deadline of its own, in Guard, whose refusal the client can read.
            self._reading_head = False
            self._stop_deadline()
            super().on_headers_complete()
            self._open_cycles = [*self._waiting(), self.cycle]

        def on_body(self, body: bytes) -> None:
            self._other_bytes -= len(body)
            self._body_bytes += len(body)
            super().on_body(body)

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._reading_head = True
            self._other_bytes = 0

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "the request is not HTTP/1.1", "not_http")

        def _refuse_head(self) -> None:
            message = f"the head of the request is too large; the limit is {max_header_bytes} bytes"
            self._refuse(431, message, "headers_large")

        def _refuse(self, status: int, message: str, code: str) -> None:
            """Ends the connection, with a reply unless one is under way."""
            self._refusing = True
            self._stop_deadline()
            refused(status, code, self.client[0] if self.client else None)
            waiting = self._end_cycles()
            if len(waiting) > 1 or any(cycle.response_started for cycle in waiting):
                self.transport.close()  # a reply would be taken for that to an earlier request
                return
            body = json.dumps(ApiError(status, message, code=code).body()).encode()
            self.transport.write(
                STATUS_LINE[status]
                + b"content-type: application/json\r\nconnection: close\r\n"
                + b"content-length: %d\r\n\r\n" % len(body)
                + body
            )
            self.transport.write_eof()
            self.loop.call_later(_LINGER_SECONDS, self.transport.close)

        def _waiting(self) -> list[RequestResponseCycle]:
            """Requests without a whole reply, oldest first."""
            return [cycle for cycle in self._open_cycles if not cycle.response_complete]

        def _end_cycles(self) -> list[RequestResponseCycle]:
            """Tells all requests that their client has gone, and returns those that had no whole reply."""
            waiting = self._waiting()
            self._open_cycles = []
            self.pipeline.clear()
            for cycle in waiting:
                cycle.disconnected = True
                cycle.waiting_for_100_continue = False  # it would be written, whoever is there
                cycle.message_event.set()
            return waiting

        def _start_deadline(self) -> None:
            self._deadline = self.loop.call_later(receive_seconds, self._too_late)

        def _stop_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _too_late(self) -> None:
            self._deadline = None
            refused(408, "head_timeout", self.client[0] if self.client else None)
            self.transport.close()

    return LimitedProtocol
