"""How far a long command is: a bar on a terminal; of builds, a line every half minute anywhere else."""

import sys
import time
from collections.abc import Callable
from typing import Any

_SECONDS = 30.0  # between two lines


class ProgressBar:
    """What was done before this build, by one that was interrupted, counts as done and not as speed."""

    def __init__(self, shown: bool, what: str = "building", unit: str = "B") -> None:
        """what: the word in front of the bar. unit: of what is counted; "B" counts bytes, in MB and GB."""
        self._shown, self._what, self._unit = shown, what, unit
        self._bar: Any = None
        self._lines: _Lines | None = None
        self._done = 0

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def update(self) -> Callable[[int, int], None] | None:
        return self._update if self._shown else None

    def _update(self, done: int, total: int) -> None:
        if self._bar is None and self._lines is None:
            self._begin(done, total)
        elif self._lines is not None:
            self._lines.update(done)
        elif self._bar is not None:
            self._bar.update(done - self._done)
        self._done = done

    def _begin(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            self._lines = _Lines(done, total)
            return
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            initial=done,
            unit=self._unit,
            unit_scale=self._unit == "B",
            unit_divisor=1000,
            desc=self._what,
            leave=False,
        )


class _Lines:
    def __init__(self, done: int, total: int) -> None:
        self._first, self._total = done, total
        self._start = self._said = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self._said >= _SECONDS:
            self._said = now
            print(
                progress_line(done, self._first, self._total, now - self._start), file=sys.stderr, flush=True
            )


def progress_line(done: int, first: int, total: int, seconds: float) -> str:
    """done of total bytes, of which `first` were there before these seconds."""
    speed = (done - first) / seconds
    left = (total - done) / speed if speed > 0 else float("inf")
    when = f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
    return (
        f"building: {100 * done / max(1, total):.0f} % ({done / 1e9:.1f} of {total / 1e9:.1f} GB), "
        f"{speed / 1e6:.0f} MB/s, {when} left"
    )
