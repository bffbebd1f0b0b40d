"""Inbox: what the engine thread hands to a coroutine, without making either wait for the other."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Inbox(Generic[_T]):
    """Belongs to the loop that runs when it is made. put() is for any thread, wait() for one coroutine of the loop.

    However many items come before the loop gets to them, it is woken once.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[_T] = deque()
        self._some = asyncio.Event()
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
            self._loop.call_soon_threadsafe(self._wake)

    async def wait(self) -> list[_T]:
        """All items that have come, at least one; oldest first."""
        while not self._items:
            await self._some.wait()
            self._some.clear()
        items = []
        while self._items:
            items.append(self._items.popleft())
        return items

    def _wake(self) -> None:
        self._woken = False  # before the items are taken: what comes later wakes again
        self._some.set()
