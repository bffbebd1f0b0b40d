"""Runs an application under uvicorn, behind a front door, and ends it gracefully.

First SIGTERM or SIGINT: /ready says no, new requests get 503, running ones may end within drain_seconds; those that do
not are told and cancelled. A second signal ends them at once.
"""

import asyncio
import contextlib
import resource
import signal
import socket
import uuid
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from llama4rt.errors import ConfigError
from llama4rt.server.front_door import FrontDoor
from llama4rt.server.guard import Guard
from llama4rt.server.loop_monitor import LoopMonitor
from llama4rt.server.protocol_limits import limited_protocol
from llama4rt.server.server_options import ServerOptions

GRACE_SECONDS = 2  # for answers of cancelled requests to be written
_BACKLOG = 2048
_ADOPT_AT_ONCE = 32  # connections, before the loop turns to other work
_SPARE_FILES = 64  # that connections may not take: the engine's, children's, the door's
_STUCK_SECONDS = 60.0  # without a turn of the event loop: something that no wait will mend


class Server(uvicorn.Server):
    """uvicorn's, with another beginning and end. run() for a program or thread of its own, serve() inside a loop."""

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
                http=limited_protocol(options.max_header_bytes, options.receive_seconds, self._note_refusal),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=options.keep_alive_seconds,
                timeout_graceful_shutdown=GRACE_SECONDS,
                backlog=_BACKLOG,
            )
        )
        self._make_app = make_app
        self._options = options
        self._ready = ready
        self._app: Guard | None = None
        self._door: FrontDoor | None = None
        self._monitor: LoopMonitor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arriving: set[asyncio.Task[object]] = set()
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
        self._loop = asyncio.get_running_loop()
        listening = _listen(self.config.host, self.config.port) if sockets is None else sockets
        self._app = self._make_app()
        self.config.loaded_app = self._app
        if self._options.trusted_proxies:
            trusted = list(self._options.trusted_proxies)
            self.config.loaded_app = ProxyHeadersMiddleware(self._app, trusted)  # type: ignore[arg-type]
        await super().startup([])  # no listener of its own
        metrics = self._app.service.metrics
        self._monitor = LoopMonitor(metrics.event_loop_lag.observe)
        self._door = FrontDoor(
            listening,
            self._adopt,
            self._probed,
            observe=metrics.health_latency.observe,
            new_id=lambda: uuid.uuid4().hex,
            receive_seconds=self._options.receive_seconds,
            full=self._is_full,
            refused=lambda status: metrics.refused.labels(str(status)).inc(),
        )
        port = listening[0].getsockname()[1]
        self._door.start()
        if self._ready is not None:
            self._ready(port)

    async def shutdown(self, sockets: "list[socket.socket] | None" = None) -> None:
        if self._door is not None:
            self._door.close()
        await super().shutdown([])
        if self._monitor is not None:
            self._monitor.stop()

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

    def signalled(self, sig: int) -> None:
        """What a signal does, from any thread."""
        if self._loop is None:
            self.should_exit = True
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.handle_exit, sig, None)

    def trouble(self) -> str | None:
        """None, or why this server cannot serve any more. For any thread."""
        if self._app is not None and (wrong := self._app.service.healthy()) is not None:
            return wrong
        stuck = 0.0 if self._monitor is None else self._monitor.seconds_since_beat()
        return f"the event loop has not turned for {stuck:.0f} s" if stuck > _STUCK_SECONDS else None

    async def _drain(self) -> None:
        assert self._app is not None
        await self._app.service.drain(self._options.drain_seconds)
        self.should_exit = True

    # --- for the front door, in its thread ------------------------------------------------------------------

    def _adopt(self, connections: list[socket.socket]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._adopt_some, connections)

    def _probed(self, path: str) -> tuple[int, dict[str, str]]:
        assert self._app is not None
        return self._app.service.probed(path, self.trouble())

    def _is_full(self) -> bool:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return files != resource.RLIM_INFINITY and len(self.server_state.connections) > files - _SPARE_FILES

    # --- on the loop ----------------------------------------------------------------------------------------

    def _adopt_some(self, connections: list[socket.socket]) -> None:
        assert self._loop is not None
        for connection in connections[:_ADOPT_AT_ONCE]:
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                connection.close()  # reset while it waited for us: its request is no work
                continue
            task: asyncio.Task[object] = self._loop.create_task(self._connect(connection))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)
        if len(connections) > _ADOPT_AT_ONCE:
            self._loop.call_soon(self._adopt_some, connections[_ADOPT_AT_ONCE:])

    async def _connect(self, connection: socket.socket) -> None:
        assert self._loop is not None
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except (OSError, MemoryError):  # it has been reset meanwhile
            connection.close()

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=self._loop,
        )
        return protocol

    def _note_refusal(self, status: int, code: str, client: str | None) -> None:
        if self._app is not None:
            self._app.note_refusal(status, code, client)


def _listen(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of the host. ConfigError when there is none."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            own_port = sockets[0].getsockname()[1] if sockets else port  # port 0: the same for all
            listener = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], own_port, *address[2:]))
            listener.listen(_BACKLOG)
        return sockets
    except (OSError, OverflowError, UnicodeError) as error:
        for listener in sockets:
            listener.close()
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}") from None


class _NotYet:
    """startup() puts the application in its place."""

    async def __call__(self, *_: object) -> None:
        raise AssertionError("the server has not started")


_NOT_YET = _NotYet()
