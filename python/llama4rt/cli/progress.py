"""The progress bar of long commands."""

from collections.abc import Callable
from typing import Any


class ProgressBar:
    """A bar with the time left, on a terminal only."""

    def __init__(self, shown: bool, what: str = "building", unit: str = "B") -> None:
        """what: the word in front of the bar. unit: of what is counted; "B" counts bytes, in MB and GB."""
        self._shown, self._what, self._unit = shown, what, unit
        self._bar: Any = None
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
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                unit=self._unit,
                unit_scale=self._unit == "B",
                unit_divisor=1000,
                desc=self._what,
                leave=False,
            )
        self._bar.update(done - self._done)
        self._done = done
