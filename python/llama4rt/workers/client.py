"""For whom a thread or task works: whose turn it is where work waits, and whether anybody still wants the result.

The server sets it for each HTTP request; it goes along with the context (asyncio.to_thread copies that, run_in_context
does it for an executor). Without a server everything belongs to one client who never leaves.
"""

import asyncio
import contextlib
import contextvars
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(eq=False, frozen=True)
class Client:
    """name: an address, or a digest of an API key. gone: set once nobody waits for the result any more."""

    name: str
    gone: threading.Event = field(default_factory=threading.Event)

    @property
    def number(self) -> int:
        """Equal for equal names, in 0 .. 2^56: how the native engine knows the client."""
        return int.from_bytes(hashlib.blake2b(self.name.encode(), digest_size=7).digest(), "little")


_LOCAL = Client("local")
_current: contextvars.ContextVar[Client] = contextvars.ContextVar("llama4rt_client", default=_LOCAL)


def current_client() -> Client:
    """The client of this context; the local one where nobody has said."""
    return _current.get()


@contextlib.contextmanager
def working_for(client: Client) -> Iterator[None]:
    """Everything done inside is done for `client`."""
    token = _current.set(client)
    try:
        yield
    finally:
        _current.reset(token)


def run_in_context(executor: Executor, call: Callable[[], _T]) -> "asyncio.Future[_T]":
    """loop.run_in_executor, for the client of this context. Cancelling the future ends the work too: for its children
    the client has gone.
    """
    context = contextvars.copy_context()
    client = current_client()
    part = Client(client.name, _Either(client.gone))
    context.run(_current.set, part)
    with working_for(part):  # an executor that shares its threads among clients asks in submit()
        future = asyncio.get_running_loop().run_in_executor(executor, context.run, call)
    future.add_done_callback(lambda done: part.gone.set() if done.cancelled() else None)
    return future


class _Either(threading.Event):
    """Set by itself, or with another event."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()
