"""GeneratedReply: what endpoints that generate have in common: one request's reply, whole or as events."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llama4rt.engine.outputs import Progress
from llama4rt.engine.sampling_params import SamplingParams
from llama4rt.errors import RequestError
from llama4rt.server.api_errors import ApiError
from llama4rt.server.generation import Generation
from llama4rt.server.http import json_reply
from llama4rt.server.protocol import StreamOptions
from llama4rt.server.sampling_fields import from_request_error
from llama4rt.server.service import Service, new_id
from llama4rt.server.sse import EVENTS, EventStream, Wire, data_line, unless_disconnected
from llama4rt.text.prompt_builder import PreparedPrompt
from llama4rt.text.tokenizer import Tokenizer, require_tokenizer


class GeneratedReply(ABC):
    """The reply to one request. Whoever starts it closes it."""

    def __init__(self, service: Service, model: str | None, prefix: str) -> None:
        self._service = service
        self._model = service.check_model(model)
        self._id = new_id(prefix)
        self._created = int(time.time())
        self._generation: Generation | None = None

    @abstractmethod
    async def start(self) -> None:
        """ApiError for anything wrong with the request; afterwards its tokens are on their way."""

    @abstractmethod
    async def collected(self) -> dict[str, Any]:
        """All of it, when it has come, as one object. start() comes first."""

    @abstractmethod
    def lines(self) -> AsyncGenerator[bytes, None]:
        """What comes, as server-sent events. start() comes first."""

    @property
    def generation(self) -> Generation:
        assert self._generation is not None, "start() comes first"
        return self._generation

    async def run(self) -> dict[str, Any]:
        """The whole reply."""
        await self.start()
        try:
            return await self.collected()
        finally:
            self.close()

    def close(self) -> None:
        if self._generation is not None:
            self._generation.close()

    def usage(self) -> dict[str, Any]:
        return self.generation.usage()

    def details(self) -> dict[str, Any]:
        """For the log."""
        if self._generation is None:
            return {}
        counts = ("prompt_tokens", "output_tokens")
        return {name: getattr(self._generation, name) for name in counts}

    async def _start_generation(self, prompts: Sequence[PreparedPrompt], params: SamplingParams) -> None:
        # Takes room, which its start or close gives back.
        adapter = self._service.adapter_of(self._model)
        self._generation = Generation(self._service, prompts, replace(params, adapter=adapter))
        try:
            await self._generation.start()
        except RequestError as error:
            raise from_request_error(error) from None

    def _tokenizer(self, why: str) -> Tokenizer:
        """ApiError 400 when the engine file has none."""
        try:
            return require_tokenizer(self._service.engine.tokenizer, why)
        except RequestError as error:
            raise from_request_error(error) from None

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": self._service.fingerprint,
            **self.not_enforced(),
        }

    def not_enforced(self) -> dict[str, Any]:
        """What a schema with "x-llama4rt-relaxed" does without, as a field of the reply, if there is any."""
        structured = None if self._generation is None else self._generation.params.structured
        if structured is None or not structured.not_enforced:
            return {}
        return {"x_llama4rt_not_enforced": list(structured.not_enforced)}


async def respond(
    service: Service,
    request: Request,
    reply: GeneratedReply,
    *,
    stream: bool,
    whole: Callable[[dict[str, Any]], dict[str, Any]] = lambda found: found,
    keep: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] | None = None,
    lines: AsyncGenerator[bytes, None] | None = None,
    error_line: Callable[[ApiError], bytes] = lambda error: data_line(error.body()),
    wire: Wire = EVENTS,
) -> "Response | ASGIApp":
    """Runs a reply for its client. `whole` and `lines` give it another form than its own; `keep` has the whole one
    before it goes out.
    """

    def close() -> None:
        reply.close()
        request.state.details.update(reply.details())

    if not stream:
        try:
            found = await unless_disconnected(service, request.receive, reply.run())
        finally:
            close()
        answer = whole(found)
        return json_reply(answer if keep is None else await keep(answer))
    await unless_disconnected(service, request.receive, reply.start())
    return EventStream(service, reply.lines() if lines is None else lines, close, error_line, wire)


class StreamedUsage:
    """The `usage` field of a stream's chunks, as the request's stream_options want it."""

    def __init__(self, options: StreamOptions | None, usage: Callable[[], dict[str, Any]]) -> None:
        self.at_end = options is not None and bool(options.include_usage)
        self.in_each = options is not None and bool(options.continuous_usage_stats)
        self._usage = usage

    def field(self) -> dict[str, Any]:
        if self.in_each:
            return {"usage": self._usage()}
        return {"usage": None} if self.at_end else {}


def prompt_progress(event: Progress, started: float) -> dict[str, Any]:
    """llama.cpp's field of that name."""
    return {
        "prompt_progress": {
            "total": event.total,
            "cache": event.cached,
            "processed": event.processed,
            "time_ms": round((time.perf_counter() - started) * 1000),
        }
    }
