"""How far a calibrated build is: one count of bytes for what it calibrates and for what it writes."""

from collections.abc import Callable

_BYTES = 2  # of a weight of a layer in memory


class CalibratedProgress:
    def __init__(self, report: Callable[[int, int], None], weights: int, source_bytes: int) -> None:
        """weights: that calibration counts; source_bytes: of everything that is written."""
        self._report = report
        self._calibrated, self._written = 0, 0
        self._source_bytes = source_bytes
        self._total = _BYTES * weights + source_bytes

    def calibrated(self, weights: int) -> None:
        if weights:
            self._calibrated += _BYTES * weights
            self._say()

    def written(self, done: int, total: int) -> None:
        """As EngineBuild reports it, whose codes count less than the numbers they were made from."""
        self._written = self._source_bytes * done // max(1, total)
        self._say()

    def _say(self) -> None:
        self._report(min(self._calibrated + self._written, self._total), self._total)


__all__ = ["CalibratedProgress"]
