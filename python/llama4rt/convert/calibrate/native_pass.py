"""Native work on a layer: on a thread of its own, so that Ctrl-C is heard at once."""

import threading
from collections.abc import Callable
from typing import TypeVar

from llama4rt import _core

_POLL = 0.1  # seconds between two looks at the work: how fast Ctrl-C acts
_Result = TypeVar("_Result")


def on_a_thread(
    calibration: _core.Calibration, work: Callable[[], _Result], advance: Callable[[int], None]
) -> _Result:
    """work: calibration.run or .measure; advance(weights) as they are done. What either raises is raised."""
    result: list[_Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="calibration")
    thread.start()
    done = 0

    def look() -> None:
        nonlocal done
        now = calibration.weights_done
        advance(now - done)
        done = now

    try:
        while thread.is_alive():
            thread.join(_POLL)
            look()
        look()
    finally:
        if thread.is_alive():
            calibration.cancel()
            thread.join()
    if failed:
        raise failed[0]
    return result[0]


__all__ = ["on_a_thread"]
