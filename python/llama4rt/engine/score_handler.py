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
from llama4rt.engine.prepared_request import PreparedRequest
from llama4rt.engine.sampling_params import MAX_LOGPROBS, SamplingParams
from llama4rt.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_IN_FLIGHT = 4096  # of one call, far below what the native engine lets wait


class _RowsHandler(ABC):
    """Collects what each chunk of a prompt brings, and delivers the whole once complete, or the error."""

    def __init__(self, deliver: Callable[[Any], None]) -> None:
        self._deliver = deliver
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
            self._deliver(self._whole())
            self.finished = True

    def fail(self, error: BaseException) -> None:
        if not self.finished:
            self._deliver(error)
            self.finished = True


class ScoreHandler(_RowsHandler):
    """The logits of every token: a list of arrays, one for each chunk."""

    def __init__(self, deliver: Callable[[Any], None]) -> None:
        super().__init__(deliver)
        self._rows: list[NDArray[np.float32]] = []

    def _take(self, event: _core.Event) -> None:
        if event.logits is not None:
            self._rows.append(event.logits)

    def _whole(self) -> Any:
        return self._rows


class TokenScoreHandler(_RowsHandler):
    """TokenScores of the prompt."""

    def __init__(self, first: int, deliver: Callable[[Any], None]) -> None:
        super().__init__(deliver)
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


def score_params(top: int | None = None) -> SamplingParams:
    """top: of Engine.score_tokens; None: for Engine.score."""
    if top is not None and (
        isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= MAX_LOGPROBS
    ):
        raise RequestError(f"top is {top!r:.80}; it must be an integer in [0, {MAX_LOGPROBS}]")
    return SamplingParams(max_tokens=1, prompt_logprobs=top)


def score_request(request: PreparedRequest) -> _core.Request:
    """The native request of Engine.score."""
    request.native.return_logits = True
    request.native.use_prefix_cache = False
    return request.native


def joined_rows(rows: "list[NDArray[np.float32]]") -> "NDArray[np.float32]":
    import numpy as np

    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def places(first: int | Sequence[int], count: int) -> list[int]:
    """From where each of `count` prompts is scored."""
    found = [first] * count if isinstance(first, int) else list(first)
    if len(found) != count:
        raise RequestError(
            f"there are {count} prompts and `first` has {len(found)} places; give one or as many"
        )
    for place in found:
        if place < 1:
            raise RequestError(f"first is {place}; it must be at least 1, as the first token follows none")
    return found


def score_all(
    thread: EngineThread,
    requests: Sequence[_core.Request],
    first: int | Sequence[int],
    wait: Callable[["queue.SimpleQueue[Any]"], Any],
) -> list[TokenScores]:
    """Scores of all requests, in order. wait: takes the next item of a queue, and raises it if it is an error."""
    running: dict[int, queue.SimpleQueue[Any]] = {}  # oldest first
    done: list[TokenScores] = []

    def take_oldest() -> None:
        request_id = next(iter(running))
        done.append(wait(running[request_id]))
        del running[request_id]

    try:
        for request, place in zip(requests, places(first, len(requests)), strict=True):
            if len(running) == MAX_IN_FLIGHT:
                take_oldest()
            inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
            request.score_from = place
            running[thread.submit(request, TokenScoreHandler(place, inbox.put))] = inbox
        while running:
            take_oldest()
    except BaseException:  # Ctrl-C too
        for request_id in running:
            thread.abandon(request_id)
        raise
    return done
