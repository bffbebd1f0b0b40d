"""LoopMonitor: how late an event loop comes to what is due, and when it last came at all."""

import asyncio
import time
from collections.abc import Callable

_PERIOD_SECONDS = 0.25


class LoopMonitor:
    """Made and stopped on the loop; seconds_since_beat() is for any thread."""

    def __init__(self, observe: Callable[[float], object]) -> None:
        """observe: called on the loop, with the seconds that it was late, a few times a second."""
        self._loop = asyncio.get_running_loop()
        self._observe = observe
        self._beat = time.monotonic()
        self._timer = self._loop.call_later(_PERIOD_SECONDS, self._tick)

    def seconds_since_beat(self) -> float:
        return time.monotonic() - self._beat

    def stop(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        now = time.monotonic()
        late, self._beat = now - self._beat - _PERIOD_SECONDS, now
        self._timer = self._loop.call_later(_PERIOD_SECONDS, self._tick)
        self._observe(max(late, 0.0))
