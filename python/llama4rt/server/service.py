"""Service: what all endpoints share: the engine, the limits, the names, who is let in."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama4rt import _core
from llama4rt.engine.async_engine import AsyncEngine
from llama4rt.server.api_errors import ApiError
from llama4rt.server.metrics import Metrics
from llama4rt.server.server_options import ServerOptions
from llama4rt.workers.client import current_client

if TYPE_CHECKING:
    from llama4rt.server.kept.store import ResponseStore

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
        self.responses: ResponseStore | None = None  # that are kept; build_app opens it
        self._room = engine.max_num_seqs + options.max_waiting
        self._admitted = 0
        self._admitted_by_client: Counter[str] = Counter()
        # Ending a request takes locks that the engine's thread holds, too: thousands of clients that leave at once
        # must not make the event loop wait for each.
        self._endings = ThreadPoolExecutor(1, "llama4rt-endings")
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[Any]] = set()  # that run requests; to be cancelled at the end

    @property
    def model(self) -> str:
        return self.model_names[0]

    def check_model(self, name: str | None) -> str:
        """The name to answer with; a request without one means the only model there is."""
        if name is None or name in self.model_names:
            return (
                name or self.model
            )  # nobody who means the model itself waits for an adapter that is being read
        names = self.all_names()
        if name not in names:
            raise ApiError(
                404, f"the model {name!r:.200} does not exist; there is {', '.join(names)}",
                param="model", code="model_not_found",
            )  # fmt: skip
        return name

    def all_names(self) -> tuple[str, ...]:
        """The model's own, and its adapters': each is a model to clients."""
        own = self.model_names
        return (*own, *(name for name in self.engine.adapters if name not in own))

    def adapter_of(self, name: str) -> str | None:
        """The adapter that a model of this name is; None: the model as it is."""
        return None if name in self.model_names else name

    def check_open(self) -> None:
        if self.draining:
            raise ApiError(
                503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "5"}
            )

    def admit(self, outputs: int) -> "Admission":
        """Room for so many outputs of the current client, or 429 at once: nobody waits in a queue that has no end.

        One client may take all of the room while it is alone. When another comes, that one is let in beyond it, up to
        an equal share.
        """
        self.check_open()
        client = current_client().name
        own = self._admitted_by_client[client]
        most = self.options.max_streams_per_client
        if most is not None and own + outputs > most:
            raise _too_many(f"{own} outputs of this client", outputs, most)
        share = self._room // len(self._admitted_by_client.keys() | {client})
        if self._admitted + outputs > self._room and own + outputs > share:
            raise _too_many(f"{self._admitted} outputs", outputs, self._room)
        self._admitted += outputs
        self._admitted_by_client[client] += outputs
        self.metrics.admitted.set(self._admitted)
        self._idle.clear()
        return Admission(self, client, outputs)

    def leave(self, client: str, outputs: int) -> None:
        self._admitted -= outputs
        self._admitted_by_client[client] -= outputs
        if not self._admitted_by_client[client]:
            del self._admitted_by_client[client]
        self.metrics.admitted.set(self._admitted)
        if self._admitted == 0:
            self._idle.set()

    def end(self, closings: Sequence[Callable[[], None]], admission: "Admission") -> None:
        """Calls them beside the event loop, then gives the room back."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            for close in closings:
                with contextlib.suppress(Exception):  # an engine that is closed has nothing left to end
                    close()
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(admission.release)

        try:
            self._endings.submit(work)
        except RuntimeError:  # no thread can be started, or the interpreter ends
            work()

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

    def probed(self, path: str, wrong: str | None) -> tuple[int, dict[str, str]]:
        """Status and answer of /health: whether requests can be answered at all, also while the server drains; or of
        /ready: whether new ones are welcome. wrong: why nothing can be answered. For any thread.
        """
        if path == "/ready" and self.draining:
            return 503, {"status": "draining"}
        if wrong is not None:
            return 503, {"status": "failed"}
        return 200, {"status": "ok" if path == "/health" else "ready"}


@dataclass
class Admission:
    """The room one request takes. release() gives it back, once."""

    service: Service
    client: str
    outputs: int
    released: bool = False

    def release(self) -> None:
        if not self.released:
            self.released = True
            self.service.leave(self.client, self.outputs)


def _too_many(what: str, outputs: int, limit: int) -> ApiError:
    return ApiError(
        429,
        f"{what} are running or waiting and this request asks for {outputs} more; the limit is {limit}. "
        "Try again later",
        code="rate_limit_exceeded",
        headers={"Retry-After": "1"},
    )


def _printable(name: str) -> str:
    """A file's name as a client can be told it: it need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


def _fingerprint(engine: AsyncEngine) -> str:
    """Names the engine file and the build: equal ones give equal tokens for equal seeds."""
    metadata = _core.EngineFile(engine.path).metadata
    text = metadata.get("checksums", "") + metadata.get("header_checksum", "") + _core.version()
    return f"fp_{_core.xxh64(text.encode()):016x}"
