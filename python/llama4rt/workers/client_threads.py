"""ClientThreads: an executor whose clients take turns, and none of which can have all threads."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from llama4rt.errors import Llama4RTError
from llama4rt.workers.client import current_client
from llama4rt.workers.round_robin import RoundRobin

_T = TypeVar("_T")


class ClientThreads(Executor):
    """Threads start when there is work and end when there is none. What runs in one must not wait for another."""

    def __init__(self, name: str, count: int, of_one_client: int) -> None:
        """name: of the threads. of_one_client: how many work for one client at once, of `count`."""
        self._name = name
        self._count = count
        self._of_one_client = of_one_client
        self._lock = threading.Lock()  # guards all below
        self._turns: RoundRobin[_Work] = RoundRobin()
        self._running: Counter[str] = Counter()  # client -> threads that work for it
        self._threads = 0
        self._closed = False

    def submit(self, call: Callable[..., _T], /, *args: Any, **options: Any) -> "Future[_T]":
        """Waits for the turn of the client of this context. RuntimeError when no thread can start."""
        client = current_client().name
        work = _Work(client, lambda: call(*args, **options))
        with self._lock:
            if self._closed:
                raise Llama4RTError("the engine is closed")
            self._turns.push(client, work)
            may_run = self._running[client] < self._of_one_client
            if not may_run or self._threads >= self._count:
                return work.future
            self._threads += 1
        try:
            threading.Thread(target=self._work, name=self._name).start()
        except RuntimeError:  # there are too many in this process
            with self._lock:
                self._threads -= 1
                if self._threads == 0 and self._turns.remove(client, work):
                    raise
        return work.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends what waits; what runs goes on. Does not wait."""
        with self._lock:
            self._closed = True
            waiting = []
            while (work := self._turns.pop()) is not None:
                waiting.append(work)
        for work in waiting:
            work.future.cancel()

    def _work(self) -> None:
        work: _Work | None = None
        while True:
            with self._lock:
                if work is not None:
                    self._running[work.client] -= 1
                work = self._turns.pop(lambda client, _: self._running[client] < self._of_one_client)
                self._running += Counter()  # forgets clients with nothing
                if work is None:
                    self._threads -= 1
                    return
                self._running[work.client] += 1
            work.run()


class _Work:
    def __init__(self, client: str, call: Callable[[], Any]) -> None:
        self.client = client
        self.future: Future[Any] = Future()
        self._call = call

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._call()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)
        del self._call  # and with it what the caller passed
