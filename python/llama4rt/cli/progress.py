"""The progress bar of a build."""

from collections.abc import Callable
from typing import Any


class ProgressBar:
    """A bar with the time left, on a terminal only."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
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
                total=total, unit="B", unit_scale=True, unit_divisor=1000, desc="building", leave=False
            )
        self._bar.update(done - self._done)
        self._done = done
