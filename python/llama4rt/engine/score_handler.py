"""Requests that score a prompt: what the engine thread tells of them (ScoreHandler of Engine.score,
TokenScoreHandler of Engine.score_tokens), and running many of the latter.
"""

import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llama4rt import _core
from llama4rt.engine.engine_thread import EngineThread
from llama4rt.engine.outputs import TokenScores
from llama4rt.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_IN_FLIGHT = 4096  # of one call, far below what the native engine lets wait


class _RowsHandler(ABC):
    """Collects what each chunk of a prompt brings, and puts the whole into its queue once complete."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.finished = False

    @abstractmethod
    def _take(self, event: _core.Event) -> None: ...
    @abstractmethod
    def _whole(self) -> Any: ...

    def on_event(self, event: _core.Event, stop_sequence: Any) -> None:
        self._take(event)
        if event.finish_reason == "error":
            self.fail(RequestError(event.error or "the request failed"))
        elif event.finish_reason:
            self.queue.put(self._whole())
            self.finished = True

    def fail(self, error: BaseException) -> None:
        if not self.finished:
            self.queue.put(error)
            self.finished = True


class ScoreHandler(_RowsHandler):
    """The logits of every token: a list of arrays, one for each chunk."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[NDArray[np.float32]] = []

    def _take(self, event: _core.Event) -> None:
        if event.logits is not None:
            self._rows.append(event.logits)

    def _whole(self) -> Any:
        return self._rows


class TokenScoreHandler(_RowsHandler):
    """TokenScores of the prompt."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self._first = first
        self._chunks: list[Any] = []
        self._cached = 0

    def _take(self, event: _core.Event) -> None:
        if event.scores is None:
            return
        if not self._chunks:
            self._cached = event.cached_tokens
        self._chunks.append(event.scores[1:])

    def _whole(self) -> Any:
        import numpy as np

        logprobs, top_ids, top_logprobs = map(np.concatenate, zip(*self._chunks, strict=True))
        return TokenScores(self._first, logprobs, top_ids, top_logprobs, self._cached)


def score_all(
    thread: EngineThread,
    requests: Sequence[_core.Request],
    first: int | Sequence[int],
    wait: Callable[["queue.SimpleQueue[Any]"], Any],
) -> list[TokenScores]:
    """Scores of all requests, in order. wait: takes the next item of a queue, and raises it if it is an error."""
    places = [first] * len(requests) if isinstance(first, int) else list(first)
    if len(places) != len(requests):
        raise RequestError(
            f"there are {len(requests)} prompts and `first` has {len(places)} places; give one or as many"
        )
    running: dict[int, queue.SimpleQueue[Any]] = {}  # oldest first
    done: list[TokenScores] = []

    def take_oldest() -> None:
        request_id = next(iter(running))
        done.append(wait(running[request_id]))
        del running[request_id]

    try:
        for request, place in zip(requests, places, strict=True):
            if place < 1:
                raise RequestError(
                    f"first is {place}; it must be at least 1, as the first token follows none"
                )
            if len(running) == _MAX_IN_FLIGHT:
                take_oldest()
            request.score_from = place
            handler = TokenScoreHandler(place)
            running[thread.submit(request, handler)] = handler.queue
        while running:
            take_oldest()
    except BaseException:  # Ctrl-C too
        for request_id in running:
            thread.abandon(request_id)
        raise
    return done
