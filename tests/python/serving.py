"""A real uvicorn in a thread, over an engine of the test's own, for tests of the server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from llama4rt import AsyncEngine, Engine
from llama4rt.demo import engine_path
from llama4rt.server import ServerOptions, build_app
from llama4rt.server.uvicorn_server import Server

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
    "max_tokens": 8,
}
# To the end of the context, whatever the limit of the model itself is: more is cut to it.
ENDLESS = HELLO | {"ignore_eos": True, "max_tokens": 1_000_000, "stream": True}


def engine_fixture(**options: Any) -> Any:
    """A module's fixture of the demo model, one thread computing."""

    @pytest.fixture(scope="module")
    def engine() -> Iterator[Engine]:
        with Engine(engine_path(), **({"num_threads": 1, "kv_cache_memory": "256MiB"} | options)) as engine:
            yield engine

    return engine


class RunningServer:
    """url, engine, and the application's own Service."""

    def __init__(self, engine: Engine, options: ServerOptions) -> None:
        self.engine = engine
        self.service: Any = None
        self._listening = threading.Event()
        self._port = 0
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

        def make() -> Any:
            self._loop = asyncio.get_running_loop()
            app = build_app(AsyncEngine(engine), options)
            self.service = app.service
            return app

        self.server = Server(make, options, host="127.0.0.1", port=0, ready=self._is_ready)
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> RunningServer:
        self._thread.start()
        assert self._listening.wait(60), "the server did not start"
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        assert self._loop is not None
        self.call(self.server.stop)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def call(self, function: Any) -> None:
        """Calls it in the server's loop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function)

    def processor_seconds(self) -> float:
        """What the server's thread has used so far."""
        assert self._thread.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    def wait_idle(self, seconds: float = 20) -> None:
        """Nobody is let in, nothing runs, and every block is free."""
        deadline = time.monotonic() + seconds
        while True:
            stats = self.engine.stats()
            used = sum(group["used"] for group in stats["blocks"].values())
            left = (
                stats["running"],
                stats["waiting"],
                used,
                self.service._admitted,
                len(self.engine._thread._handlers),
            )
            if not any(left):
                return
            assert time.monotonic() < deadline, left
            time.sleep(0.005)

    def _is_ready(self, port: int) -> None:
        self._port = port
        self._listening.set()

    def _run(self) -> None:
        try:
            self.server.run()  # as the command line does, with uvloop
        except BaseException as error:
            self._failure = error
        finally:
            self._listening.set()


@contextlib.contextmanager
def running_server(engine: Engine, **options: Any) -> Iterator[RunningServer]:
    """Serves `engine` until the block ends; then every request must be gone and every block be free."""
    server = RunningServer(engine, ServerOptions(**({"drain_seconds": 10.0} | options))).start()
    try:
        yield server
        server.wait_idle()
    finally:
        server.stop()


def address(server: RunningServer) -> tuple[str, int]:
    return "127.0.0.1", int(server.url.rpartition(":")[2])


def received(connection: socket.socket) -> bytes:
    """Until the other side closes."""
    out = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            out += piece
    return out


def metric_of(text: str, name: str) -> float:
    """Summed over its labels. text: what /metrics says."""
    return sum(float(m) for m in re.findall(rf"^llama4rt:{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))


def metric(server: RunningServer, name: str) -> float:
    return metric_of(httpx2.get(server.url + "/metrics", timeout=60).text, name)


def post(server: RunningServer, path: str, body: Any, **more: Any) -> httpx2.Response:
    if isinstance(body, (bytes, str)):
        more["headers"] = {"content-type": "application/json", **more.get("headers", {})}
        return httpx2.post(server.url + path, content=body, timeout=60, **more)
    return httpx2.post(server.url + path, json=body, timeout=60, **more)
