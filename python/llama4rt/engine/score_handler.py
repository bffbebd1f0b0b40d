"""ScoreHandler: what the engine thread tells of a score() request."""

import queue
from typing import TYPE_CHECKING, Any

from llama4rt import _core
from llama4rt.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ScoreHandler:
    """Collects the logits of a score() request and puts them into its queue once complete."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.finished = False
        self._rows: list[NDArray[np.float32]] = []

    def on_event(self, event: _core.Event, stop_sequence: Any) -> None:
        if event.logits is not None:
            self._rows.append(event.logits)
        if event.finish_reason == "error":
            self.fail(RequestError(event.error or "the request failed"))
        elif event.finish_reason:
            self.queue.put(self._rows)
            self.finished = True

    def fail(self, error: BaseException) -> None:
        if not self.finished:
            self.queue.put(error)
            self.finished = True
