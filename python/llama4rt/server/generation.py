"""Generation: the outputs behind one HTTP request, as one stream of (output index, Delta)."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from llama4rt.engine.async_inbox import Inbox
from llama4rt.engine.async_requests import Running
from llama4rt.engine.outputs import Delta, Progress
from llama4rt.engine.sampling_params import SamplingParams
from llama4rt.errors import NumericError, RequestError
from llama4rt.server.api_errors import ApiError
from llama4rt.server.service import Service
from llama4rt.text.prompt_builder import PreparedPrompt

_BLOCKED_SECONDS = 1.0  # in one write; then a request is paused, however little waits

Event = tuple[int, "Delta | Progress"]


class Generation:
    """Outputs are numbered prompt by prompt: the j-th of prompt i is i * n + j.

    start() raises whatever is wrong with the request, before a byte of the answer has been sent. close() frees all of
    it; whoever starts one closes it.
    """

    def __init__(self, service: Service, prompts: Sequence[PreparedPrompt], params: SamplingParams) -> None:
        self.prompts = prompts
        self.params = params
        self.prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        self.cached_tokens = 0
        self.output_tokens = 0
        self.guessed_tokens = self.guessed_right = 0
        self._service = service
        self._inbox: Inbox[tuple[int, Any]] = Inbox()
        self._running: list[Running] = []
        self._started = time.perf_counter()
        self._last: dict[int, float] = {}  # when an output had its latest token
        self._admission = service.admit(len(prompts) * params.n)
        self._closed = False
        self._held = False
        self._handed_out = math.inf  # since when the reader has been busy with what it was given
        self._holding: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._max_unread = service.options.max_unread_tokens * len(prompts) * params.n

    async def start(self) -> "Generation":
        try:
            for i, prompt in enumerate(self.prompts):
                running = await self._service.engine.start(
                    prompt,
                    self.params,
                    deliver=partial(self._deliver, i),
                )
                self._running.append(running)
        except BaseException:
            self.close()
            raise
        return self

    def _deliver(self, i: int, item: Any) -> None:
        """Called in the engine thread."""
        self._inbox.put((i, item))
        if not self._held and isinstance(item, Delta) and self._is_behind():
            self._held = True
            self._loop.call_soon_threadsafe(self._pause)

    def _is_behind(self) -> bool:
        """Whether the client is: its socket has been full for a while, or so much waits for it."""
        blocked = time.monotonic() - self._handed_out
        return blocked > _BLOCKED_SECONDS or len(self._inbox) >= self._max_unread

    def _pause(self) -> None:
        """The client reads too slowly: others have its places meanwhile."""
        if self._closed or not self._is_behind():
            self._held = False
            return
        self._service.metrics.paused.inc()
        for running in self._running:
            running.hold(True)
        self._holding = self._loop.call_later(self._service.options.paused_seconds, self._give_up)

    def _go_on(self) -> None:
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
            self._held = False
            for running in self._running:
                running.hold(False)

    def _give_up(self) -> None:
        """It has not read on: the engine keeps nothing for it any longer. What has come can still be read."""
        self._holding = None
        self._service.metrics.slow_readers.inc()
        for running in self._running:
            running.close()
        self._inbox.put((0, SlowReader()))

    async def events(self) -> AsyncIterator[list[Event]]:
        """All that has come since the last time, until every output has ended.

        Raises ApiError when the engine failed.
        """
        open_prompts = len(self.prompts)
        while open_prompts:
            events: list[Event] = []
            failure: BaseException | None = None
            items = await self._inbox.wait()
            self._go_on()
            now = time.perf_counter()
            for i, item in items:
                if isinstance(item, Delta):
                    index = i * self.params.n + item.index
                    self._count(index, item, now)
                    events.append((index, item))
                elif item is None:
                    open_prompts -= 1
                elif isinstance(item, BaseException):
                    failure = item
                else:
                    events.append((i * self.params.n, item))
            if events:
                self._handed_out = time.monotonic()
                yield events
                self._handed_out = math.inf
            if failure is not None:
                raise self._as_api_error(failure)
        now = time.perf_counter()
        self._service.metrics.e2e_latency.observe(now - self._started)
        self._service.metrics.prompt_length.observe(self.prompt_tokens)
        self._service.metrics.output_length.observe(self.output_tokens)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._holding is not None:
                self._holding.cancel()
            self._service.end([running.close for running in self._running], self._admission)

    def _count(self, index: int, delta: Delta, now: float) -> None:
        metrics = self._service.metrics
        if delta.num_cached_tokens and delta.index == 0:
            self.cached_tokens += delta.num_cached_tokens
        self.guessed_tokens += delta.guessed
        self.guessed_right += delta.guessed_right
        if delta.token_ids:
            self.output_tokens += len(delta.token_ids)
            before = self._last.get(index)
            if before is None:
                metrics.time_to_first_token.observe(now - self._started)
            else:  # tokens that came together share the time
                for _ in delta.token_ids:
                    metrics.inter_token_latency.observe((now - before) / len(delta.token_ids))
            self._last[index] = now
        if delta.finish_reason is not None:
            metrics.finished.labels(delta.finish_reason).inc()

    def usage(self) -> dict[str, Any]:
        """With what became of guesses, in OpenAI's words for predicted outputs, where there were any."""
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.prompt_tokens + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.guessed_tokens:
            usage["completion_tokens_details"] = {
                "accepted_prediction_tokens": self.guessed_right,
                "rejected_prediction_tokens": self.guessed_tokens - self.guessed_right,
            }
        return usage

    def _as_api_error(self, failure: BaseException) -> ApiError:
        if isinstance(failure, SlowReader):
            return ApiError(
                408,
                f"the client did not read; at most {self._service.options.max_unread_tokens} tokens of an output wait "
                f"for it. The request was paused, and ended after {self._service.options.paused_seconds:g} s",
                code="slow_reader",
            )
        if isinstance(failure, NumericError):
            return ApiError(
                500, "the model's output is not a number; the request was ended", code="numeric_error"
            )
        if isinstance(failure, RequestError):  # its grammar could not go on
            return ApiError(400, str(failure))
        return ApiError(500, "the engine failed while the request was running", code="engine_error")


class SlowReader(Exception):
    """Too many tokens have waited too long for the client."""
