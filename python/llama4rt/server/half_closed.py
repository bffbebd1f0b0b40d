"""A client that has closed its sending side and may still read.

To us that looks like one that has closed its socket, and for that one nothing should be computed. They differ once
something is sent: the kernel of a closed socket answers with a reset. So the bytes that every reply begins with are
sent at once, and the rest of it when it is there.
"""

import asyncio
import select
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_BEGINNING = b"HTTP/1.1 "
_LOOK_SECONDS = 0.1

FLAG = "half_closed"  # in the state of a request's scope: whoever streams should send something soon


def begin_reply(cycle: RequestResponseCycle) -> None:
    """Sends the beginning of a reply that has not begun, or asks for more of one that has."""
    cycle.waiting_for_100_continue = False  # the client has not waited for it
    if cycle.response_started:
        cycle.scope["state"][FLAG] = True
    else:
        cycle.transport.write(_BEGINNING)
        cycle.transport = _Begun(cycle.transport)  # type: ignore[assignment]


class _Begun:
    """As much of a transport as the writer of one reply uses."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._begun = False

    def write(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            data = data.removeprefix(_BEGINNING)
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()


class ResetWatch:
    """Closes a transport whose client has answered with a reset. Nobody reads from it any more, so nobody else would
    see that before the next write.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, needed: Callable[[], bool]
    ) -> None:
        """needed: whether a reply is still on its way."""
        self._loop = loop
        self._transport = transport
        self._needed = needed
        self._again = loop.call_later(_LOOK_SECONDS, self._look)

    def stop(self) -> None:
        self._again.cancel()

    def _look(self) -> None:
        if self._transport.is_closing() or not self._needed():
            return
        if _was_reset(self._transport.get_extra_info("socket").fileno()):
            self._transport.abort()
            return
        self._again = self._loop.call_later(_LOOK_SECONDS, self._look)


def _was_reset(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)  # errors and hang-ups are told always; the end of what comes in is neither
    return bool(poll.poll(0))
