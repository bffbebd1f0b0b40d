"""Slices of time: when a machine is quiet for only a minute at a time, measuring waits for the next minute."""

from __future__ import annotations

import sys
import time


class Gate:
    """Without `seconds`, everything runs through. With it, at most so many seconds of measuring, then a line on stdin
    is waited for; programs stay loaded meanwhile.
    """

    def __init__(self, seconds: float | None) -> None:
        self._slice = seconds
        self._end = 0.0  # of the running slice, on the monotonic clock
        self._took: dict[str, float] = {}

    def enter(self, what: str) -> None:
        """Returns when there is time for `what`, as long as it took last time."""
        if self._slice is None:
            return
        needed = 1.2 * self._took.get(what, 0.0)
        if time.monotonic() + min(needed, 0.9 * self._slice) > self._end:
            print(f"paused before {what} ({needed:.0f} s)", file=sys.stderr, flush=True)
            if not sys.stdin.readline():
                raise SystemExit("stdin ended while measuring was paused")
            self._end = time.monotonic() + self._slice

    def took(self, what: str, seconds: float) -> None:
        self._took[what] = seconds

    def close(self) -> None:
        """The rest of a slice does not outlive what comes next, which may load programs."""
        self._end = 0.0
