"""POST /v1/messages and /v1/messages/count_tokens."""

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llama4rt.server.anthropic.blocks import StreamedBlocks
from llama4rt.server.anthropic.convert import chat_request, ignored
from llama4rt.server.anthropic.protocol import CountTokensRequest, MessagesRequest
from llama4rt.server.chat_completions import ChatReply
from llama4rt.server.error_forms import anthropic_error
from llama4rt.server.generated_reply import respond
from llama4rt.server.http import dumps, json_reply, parsed
from llama4rt.server.service import Service, new_id
from llama4rt.server.sse import Wire

_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "abort": "end_turn"}


def event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + dumps({"type": kind, **fields}) + b"\n\n"


_WIRE = Wire(heartbeat=event("ping"))


class MessagesEndpoint:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: Request) -> "Response | ASGIApp":
        self._service.check_open()
        body = await parsed(request, MessagesRequest, self._service)
        reply = MessageReply(self._service, body)
        return await respond(
            self._service,
            request,
            reply,
            stream=bool(body.stream),
            error_line=lambda error: event("error", error=anthropic_error(error)["error"]),
            wire=_WIRE,
        )

    async def count(self, request: Request) -> Response:
        """Tokens of the same message, as the template writes it."""
        body = await parsed(request, CountTokensRequest, self._service)
        prompt = await ChatReply(self._service, *chat_request(body)).prepared()
        return json_reply({"input_tokens": len(prompt.token_ids)})


class MessageReply(ChatReply):
    """A chat's reply in Anthropic's form."""

    def __init__(self, service: Service, body: MessagesRequest) -> None:
        super().__init__(service, *chat_request(body))
        self._message_id = new_id("msg_")
        self._ignored = ignored(body)

    async def collected(self) -> dict[str, Any]:
        blocks = StreamedBlocks(event)
        reason, stopped_by = "stop", None
        async for pieces in self.pieces():
            for piece in pieces:
                blocks.take(piece.deltas)
                if piece.reason is not None:
                    reason, stopped_by = piece.reason, piece.stopped_by
        blocks.close()
        return {**self._message(blocks.done, reason, stopped_by), "usage": self._usage()}

    async def lines(self) -> AsyncGenerator[bytes, None]:
        start = {**self._message([], None, None), "usage": {**self._usage(), "output_tokens": 0}}
        yield event("message_start", message=start)
        blocks = StreamedBlocks(event)
        reason, stopped_by = "stop", None
        async for pieces in self.pieces():
            lines = b""
            for piece in pieces:
                lines += blocks.take(piece.deltas)
                if piece.reason is not None:
                    reason, stopped_by = piece.reason, piece.stopped_by
            if lines:
                yield lines
        end = {name: self._message([], reason, stopped_by)[name] for name in ("stop_reason", "stop_sequence")}
        yield (
            blocks.close() + event("message_delta", delta=end, usage=self._usage()) + event("message_stop")
        )

    def _message(
        self, content: list[dict[str, Any]], reason: str | None, stopped_by: int | str | None
    ) -> dict[str, Any]:
        sequence = stopped_by if reason == "stop" and isinstance(stopped_by, str) else None
        stop = None if reason is None else "stop_sequence" if sequence is not None else _STOPS[reason]
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": sequence,
            **({"x_llama4rt_ignored": self._ignored} if self._ignored else {}),
            **self.not_enforced(),
        }

    def _usage(self) -> dict[str, int]:
        """input_tokens are those that the prefix cache did not have, as Anthropic counts them."""
        generation = self.generation
        cached = generation.cached_tokens
        return {
            "input_tokens": generation.prompt_tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": generation.output_tokens,
        }
