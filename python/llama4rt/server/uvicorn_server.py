"""Runs an application under uvicorn, and ends it gracefully.

First SIGTERM or SIGINT: /ready says no, new requests get 503, running ones may end within drain_seconds; those that do
not are told and cancelled. A second signal ends them at once.
"""

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from llama4rt.server.guard import Guard
from llama4rt.server.protocol_limits import limited_protocol
from llama4rt.server.server_options import ServerOptions

_GRACE_SECONDS = 3  # for answers of cancelled requests to be written


class Server(uvicorn.Server):
    """uvicorn's, with another end. run_until_signal() for a program of its own, serve() inside another."""

    def __init__(
        self,
        make_app: Callable[[], Guard],
        options: ServerOptions,
        *,
        host: str,
        port: int,
        ready: Callable[[int], None] | None = None,
    ) -> None:
        """make_app: called on the event loop. ready: called with the port once requests are taken."""
        super().__init__(
            uvicorn.Config(
                lambda: _NOT_YET,
                factory=True,
                interface="asgi3",
                host=host,
                port=port,
                http=limited_protocol(options.max_header_bytes, options.receive_seconds),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=options.keep_alive_seconds,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                backlog=2048,
            )
        )
        self._make_app = make_app
        self._options = options
        self._ready = ready
        self._app: Guard | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
        self._app = self._make_app()
        self.config.loaded_app = self._app
        await super().startup(sockets)
        if self.started and self._ready is not None:
            listening = self.servers[0].sockets[0]
            self._ready(listening.getsockname()[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._app is None:
            self.should_exit = True
        elif self._draining is None:
            self._draining = asyncio.get_event_loop().create_task(self._drain())
        else:
            self._app.service.abort_all()
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT or self.force_exit

    def stop(self) -> None:
        """What the first signal does, from the loop's own thread."""
        self.handle_exit(signal.SIGTERM, None)

    async def _drain(self) -> None:
        assert self._app is not None
        await self._app.service.drain(self._options.drain_seconds)
        self.should_exit = True


class _NotYet:
    """startup() puts the application in its place."""

    async def __call__(self, *_: object) -> None:
        raise AssertionError("the server has not started")


_NOT_YET = _NotYet()
