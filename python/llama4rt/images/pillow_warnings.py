"""Keeps Pillow's warnings about strangers' files to itself, in the threads that decode for us and nowhere else.

warnings.catch_warnings() changes the filters of the whole process, and two threads that use it can leave them changed
for good. Here one filter stays in place, and matches only while its own thread is inside pillow_silenced().
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_here = threading.local()


class _WhileQuiet:
    """Takes the place of a filter's compiled pattern for module names."""

    def match(self, _: str) -> bool:
        return getattr(_here, "quiet", False)


_FILTER: Any = ("ignore", None, Warning, _WhileQuiet(), 0)


def _not_quiet(_: logging.LogRecord) -> bool:
    return not getattr(_here, "quiet", False)


@contextmanager
def pillow_silenced() -> Iterator[None]:
    """Inside, this thread warns of nothing and Pillow logs nothing."""
    filters: Any = warnings.filters
    if not filters or filters[0] is not _FILTER:  # new filters go to the front, and some restore old lists
        if _FILTER in filters:
            filters.remove(_FILTER)
        filters.insert(0, _FILTER)
    logging.getLogger("PIL.TiffImagePlugin").addFilter(_not_quiet)  # of no effect when it is there
    before = getattr(_here, "quiet", False)
    _here.quiet = True
    try:
        yield
    finally:
        _here.quiet = before
