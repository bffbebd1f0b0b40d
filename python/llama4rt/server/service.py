"""Service: what all endpoints share: the engine, the limits, the names, who is let in."""

import asyncio
import logging
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama4rt import _core
from llama4rt.engine.async_engine import AsyncEngine
from llama4rt.server.api_errors import ApiError
from llama4rt.server.metrics import Metrics
from llama4rt.server.server_options import ServerOptions

log = logging.getLogger("llama4rt.server")


class Service:
    """One per application. All of it runs on the event loop's thread."""

    def __init__(self, engine: AsyncEngine, options: ServerOptions) -> None:
        self.engine = engine
        self.options = options
        self.model_names = options.served_model_names or (_printable(Path(engine.path).stem),)
        self.created = int(time.time())
        self.fingerprint = _fingerprint(engine)
        self.metrics = Metrics(engine.stats, self.model_names[0])
        self.draining = False
        self._room = engine.max_num_seqs + options.max_waiting
        self._admitted = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[Any]] = set()  # that run requests; to be cancelled at the end

    @property
    def model(self) -> str:
        return self.model_names[0]

    def check_model(self, name: str | None) -> str:
        """The name to answer with; a request without one means the only model there is."""
        if name is None:
            return self.model
        if name not in self.model_names:
            raise ApiError(
                404, f"the model {name!r:.200} does not exist; there is {', '.join(self.model_names)}",
                param="model", code="model_not_found",
            )  # fmt: skip
        return name

    def check_open(self) -> None:
        if self.draining:
            raise ApiError(
                503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "5"}
            )

    def admit(self, outputs: int) -> "Admission":
        """Room for so many outputs, or 429 at once: nobody waits in a queue that has no end."""
        self.check_open()
        if self._admitted + outputs > self._room:
            raise ApiError(
                429,
                f"{self._admitted} outputs are running or waiting and this request asks for {outputs} more; "
                f"the limit is {self._room}. Try again later",
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        self._admitted += outputs
        self.metrics.admitted.set(self._admitted)
        self._idle.clear()
        return Admission(self, outputs)

    def leave(self, outputs: int) -> None:
        self._admitted -= outputs
        self.metrics.admitted.set(self._admitted)
        if self._admitted == 0:
            self._idle.set()

    def remember(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, seconds: float) -> bool:
        """Refuses what is new and waits for what runs. False: some was still running, and has been cancelled."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except (asyncio.TimeoutError, TimeoutError):
            self.abort_all()
            return False
        return True

    def abort_all(self) -> None:
        self.draining = True
        for task in list(self._tasks):
            task.cancel("the server is shutting down")

    def healthy(self) -> str | None:
        """None, or what is wrong."""
        try:
            self.engine.check_usable()
        except Exception as error:
            return str(error)
        return None


@dataclass
class Admission:
    """The room one request takes. release() gives it back, once."""

    service: Service
    outputs: int
    released: bool = False

    def release(self) -> None:
        if not self.released:
            self.released = True
            self.service.leave(self.outputs)


@dataclass
class RequestLog:
    """What the log says of one request: numbers and names, never its text."""

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    details: dict[str, Any] = field(default_factory=dict)


def _printable(name: str) -> str:
    """A file's name as a client can be told it: it need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def _fingerprint(engine: AsyncEngine) -> str:
    """Names the engine file and the build: equal ones give equal tokens for equal seeds."""
    metadata = _core.EngineFile(engine.path).metadata
    text = metadata.get("checksums", "") + metadata.get("header_checksum", "") + _core.version()
    return f"fp_{_core.xxh64(text.encode()):016x}"
