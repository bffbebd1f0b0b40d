"""Inbox: what the engine thread hands to a coroutine, without making either wait for the other.

A step of the engine fills the inboxes of all its requests; their loop is woken once for all of them
(deferred_wakeups.py).
"""

import asyncio
import weakref
from collections import deque
from typing import Any, Generic, TypeVar

from llama4rt.engine.deferred_wakeups import wake

_T = TypeVar("_T")


class Inbox(Generic[_T]):
    """Belongs to the loop that runs when it is made. put() is for any thread, wait() for one coroutine of the loop.

    However many items come before the loop gets to them, it is woken once.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._bell = bell_of(self._loop)
        self._items: deque[_T] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._woken = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: _T) -> None:
        """Raises RuntimeError once the loop is closed: nobody will read."""
        if self._loop.is_closed():
            raise RuntimeError("the event loop that waits for this request is closed")
        self._items.append(item)
        if not self._woken:
            self._woken = True
            try:
                self._bell.ring_for(self)
            except BaseException:
                self._woken = False  # the next item rings again
                raise

    async def wait(self) -> list[_T]:
        """All items that have come, at least one; oldest first."""
        while not self._items:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        items = []
        while self._items:
            items.append(self._items.popleft())
        return items

    def wake_reader(self) -> None:
        """Called by the loop, once for all items that have come."""
        self._woken = False  # before the items are taken: what comes later wakes again
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Bell:
    """Wakes one loop, once for all inboxes that something was put into meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # the loop is the key under which this is kept
        self._inboxes: deque[Inbox[Any]] = deque()
        self._rung = False

    def ring_for(self, inbox: Inbox[Any]) -> None:
        self._inboxes.append(inbox)
        if not self._rung:
            self._rung = True
            wake(self._ring)

    def _ring(self) -> None:
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self.wake_all)
        except RuntimeError:
            pass  # a loop that closes just now has nobody left to wake; the next put() says so
        except BaseException:
            self._rung = False  # nobody was woken: the next item rings again
            raise

    def wake_all(self) -> None:
        """Called by the loop: wakes the readers of all inboxes that have something."""
        self._rung = False  # before the inboxes are taken, for the same reason
        while self._inboxes:
            self._inboxes.popleft().wake_reader()


_bells: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Bell]" = weakref.WeakKeyDictionary()


def bell_of(loop: asyncio.AbstractEventLoop) -> Bell:
    """The loop's own; called in the loop's thread."""
    bell = _bells.get(loop)
    if bell is None:
        bell = _bells[loop] = Bell(loop)
    return bell
