"""ChildPool: a few children of one kind, and a fair queue before them."""

import threading
import time

from llama4rt.errors import Llama4RTError, RequestError
from llama4rt.workers.child_process import ChildAbandoned, ChildLimits, ChildProcess
from llama4rt.workers.client import Client, current_client
from llama4rt.workers.round_robin import RoundRobin

_POLL_SECONDS = 0.05


class ChildrenBusy(RequestError):
    """This client has too much waiting, or waited too long. The server says 429."""


class ChildPool:
    """Safe to use from many threads: call() blocks the calling one. Clients take turns, whatever each has waiting."""

    def __init__(
        self,
        module: str,
        count: int,
        limits: ChildLimits,
        what: str,
        *,
        setup: bytes = b"",
        wait_seconds: float = 30.0,
        max_waiting: int = 64,
    ) -> None:
        """module, limits, what, setup: as ChildProcess. max_waiting: messages of one client."""
        self._children = [ChildProcess(module, limits, what, setup) for _ in range(count)]
        self._idle = list(self._children)
        self._what = what
        self._wait_seconds = wait_seconds
        self._max_waiting = max_waiting
        self._turns: RoundRobin[_Ticket] = RoundRobin()
        self._lock = threading.Lock()  # guards _idle, _turns and _closed
        self._closed = False

    def call(self, message: bytes) -> bytes:
        """As ChildProcess.call, for the client of this context; ChildrenBusy when no child was free in time."""
        client = current_client()
        child = self._take(client)
        try:
            return child.call(message, client)
        finally:
            self._give(child)

    def start(self) -> None:
        """Starts one child before the first call needs it."""
        child = self._take(current_client())
        try:
            child.start()
        finally:
            self._give(child)

    def start_all(self) -> None:
        """Starts all children. Those that wait for their start are busy meanwhile."""
        taken: list[ChildProcess] = []
        try:
            for _ in self._children:
                taken.append(self._take(current_client()))
            while taken:
                taken[-1].start()
                self._give(taken.pop())
        finally:  # none is lost where one was not free in time, or cannot start
            for child in taken:
                self._give(child)

    def close(self) -> None:
        """Ends idle children now and busy ones after their message. Safe to call more than once."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            while (ticket := self._turns.pop()) is not None:
                ticket.ready.set()
        for child in idle:
            child.close()

    def pids(self) -> list[int]:
        """Of the children that run, for tests."""
        return [pid for child in self._children if (pid := child.pid) is not None]

    def _take(self, client: Client) -> ChildProcess:
        with self._lock:
            if self._closed:
                raise Llama4RTError(f"{self._what}: the engine is closed")
            if self._idle:
                return self._idle.pop()
            if self._turns.waiting(client.name) >= self._max_waiting:
                raise ChildrenBusy(f"{self._what}: {self._max_waiting} others of this client are waiting")
            ticket = _Ticket()
            self._turns.push(client.name, ticket)
        deadline = time.monotonic() + self._wait_seconds
        while not ticket.ready.wait(_POLL_SECONDS):
            if client.gone.is_set() or time.monotonic() > deadline:
                break
        with self._lock:
            if ticket.child is not None:
                return ticket.child
            self._turns.remove(client.name, ticket)
        if self._closed:
            raise Llama4RTError(f"{self._what}: the engine is closed")
        if client.gone.is_set():
            raise ChildAbandoned(f"{self._what}: nobody waits for it any more")
        raise ChildrenBusy(f"{self._what} waited {self._wait_seconds:g} s for its turn")

    def _give(self, child: ChildProcess) -> None:
        with self._lock:
            if not self._closed:
                ticket = self._turns.pop()
                if ticket is None:
                    self._idle.append(child)
                else:
                    ticket.child = child
                    ticket.ready.set()
                return
        child.close()


class _Ticket:
    """A place in the queue; whoever gives a child back puts it here."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.child: ChildProcess | None = None
