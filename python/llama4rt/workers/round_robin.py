"""RoundRobin: a queue that serves its clients in turn, however much one of them has put in."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class RoundRobin(Generic[_T]):
    """Not thread-safe: whoever shares one holds a lock. Items of one client keep their order."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[_T]] = (
            OrderedDict()
        )  # none is empty; the first one's turn is next

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def waiting(self, client: str) -> int:
        """How many items of one client wait."""
        return len(self._queues.get(client, ()))

    def push(self, client: str, item: _T) -> None:
        self._queues.setdefault(client, deque()).append(item)

    def pop(self, may: Callable[[str, _T], bool] = lambda client, item: True) -> _T | None:
        """The first item of the next client whose first item `may` go; that client comes last afterwards."""
        for client, queue in self._queues.items():
            if may(client, queue[0]):
                item = queue.popleft()
                self._queues.move_to_end(client)
                if not queue:
                    del self._queues[client]
                return item
        return None

    def remove(self, client: str, item: _T) -> bool:
        """Takes an item out before its turn; False when it has gone."""
        queue = self._queues.get(client)
        if queue is None or item not in queue:
            return False
        queue.remove(item)
        if not queue:
            del self._queues[client]
        return True
