"""POST /v1/responses: OpenAI's newer API over the chat endpoint.

Items go in as `input`, come out as `output`; a stream is the sequence of events that OpenAI's clients put together
again. What is remembered of them is the business of kept/; `background` is refused.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llama4rt.server.api_errors import ApiError
from llama4rt.server.chat_completions import ChatReply
from llama4rt.server.generated_reply import respond
from llama4rt.server.http import dumps, parsed
from llama4rt.server.kept.turn import Turn
from llama4rt.server.known_fields import nearest
from llama4rt.server.protocol import (
    ChatRequest,
    InputItem,
    JsonSchemaFormat,
    ResponseFormat,
    ResponsesRequest,
    Sampling,
    TextFormat,
)
from llama4rt.server.response_input import custom_tools, input_messages, kept_form, tools_and_choice
from llama4rt.server.response_items import StreamedItems, call_item, message_item
from llama4rt.server.service import Service, new_id

_LOGPROBS = "message.output_text.logprobs"
# What OpenAI's API can add to a response beside them, and why there is nothing to add.
_NOTHING_TO_INCLUDE = {
    "code_interpreter_call.outputs": "there is no code interpreter",
    "computer_call_output.output.image_url": "there is no computer to use",
    "file_search_call.results": "there is no file search",
    "message.input_image.image_url": "a response holds no input",
    "reasoning.encrypted_content": "the model does not reason apart from its answer",
    "web_search_call.action.sources": "there is no web search",
    "web_search_call.results": "there is no web search",
}
_ECHOED = ("text", "tool_choice", "tools", "metadata")


class ResponsesEndpoint:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: Request) -> "Response | ASGIApp":
        self._service.check_open()
        body = await parsed(request, ResponsesRequest, self._service)
        turn = Turn(self._service.responses, body)
        await turn.read(lambda: kept_form(body.input, "input"))
        request_for_chat, places = chat_request(body, turn.before)
        chat = ChatReply(self._service, request_for_chat, places)
        form = _ResponseForm(self._service, body, turn)
        return await respond(
            self._service,
            request,
            chat,
            stream=bool(body.stream),
            whole=form.whole,
            keep=turn.keep,
            lines=form.events(chat),
            error_line=form.failed,
        )


def chat_request(body: ResponsesRequest, before: Sequence[InputItem] = ()) -> tuple[ChatRequest, list[str]]:
    """The same question in the words of the chat API, and where each of its messages came from. ApiError 400 for what
    has no words there. before: kept items that precede its own.
    """
    _refuse(body)
    messages, places = input_messages(body, before)
    tools, choice = tools_and_choice(body)
    shared = {name: getattr(body, name) for name in Sampling.__struct_fields__}
    chat = ChatRequest(
        **(shared | {"stream_options": None}),
        messages=messages,
        max_completion_tokens=body.max_output_tokens,
        logprobs=body.top_logprobs is not None or _LOGPROBS in (body.include or ()) or None,
        top_logprobs=body.top_logprobs,
        tools=tools or None,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body.text.format if body.text else None),
    )
    return chat, places


def _refuse(body: ResponsesRequest) -> None:
    """What the chat API would answer, and the form of a response has no place for."""
    if (body.n or 1) != 1 or (body.n_cmpl or 1) != 1:
        raise ApiError(400, "n is not 1; a response has one output", param="n")
    if body.prompt_logprobs is not None:
        raise ApiError(
            400, "prompt_logprobs is not supported: use /v1/chat/completions", param="prompt_logprobs"
        )
    if body.return_progress:
        raise ApiError(
            400, "return_progress is not supported: use /v1/chat/completions", param="return_progress"
        )
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream to be true", param="stream_options")
    if body.stream_options is not None and body.stream_options.continuous_usage_stats:
        raise ApiError(
            400,
            "continuous_usage_stats is not supported: the last event has the usage",
            param="stream_options",
        )
    for i, name in enumerate(body.include or ()):
        if name != _LOGPROBS and name not in _NOTHING_TO_INCLUDE:
            hint = nearest(name, [_LOGPROBS, *_NOTHING_TO_INCLUDE])
            raise ApiError(400, f"include.{i}: {name!r:.80} is not known{hint}", param="include")


def _not_included(body: ResponsesRequest) -> dict[str, Any]:
    """What the client wanted to see and there is not, as a field of the reply, if there is any."""
    names = [name for name in dict.fromkeys(body.include or ()) if name in _NOTHING_TO_INCLUDE]
    if not names:
        return {}
    return {"x_llama4rt_not_included": [f"{name}: {_NOTHING_TO_INCLUDE[name]}" for name in names]}


def _format(given: TextFormat | None) -> ResponseFormat | None:
    if given is None:
        return None
    if given.type != "json_schema":
        return ResponseFormat(type=given.type)
    schema = JsonSchemaFormat(name=given.name, schema_=given.schema_, strict=given.strict)
    return ResponseFormat(type="json_schema", json_schema=schema)


class _ResponseForm:
    """One response, whole or as events."""

    def __init__(self, service: Service, body: ResponsesRequest, turn: Turn) -> None:
        self._body = body
        self._turn = turn
        self._model = service.check_model(body.model)
        self._id = new_id("resp_")
        self._created = int(time.time())
        self._number = 0
        self._custom = custom_tools(body)
        self._echoed = {name: kept_form(getattr(body, name), name) for name in _ECHOED}
        self._echoed["text"] = self._echoed["text"] or {}

    def whole(self, reply: dict[str, Any]) -> dict[str, Any]:
        choice = reply["choices"][0]
        message = choice["message"]
        output: list[dict[str, Any]] = []
        if message.get("content"):
            item = message_item(message["content"])
            if choice["logprobs"] is not None:
                item["content"][0]["logprobs"] = choice["logprobs"]["content"]
            output.append(item)
        for call in message.get("tool_calls") or ():
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            output.append(call_item(call["id"], name, arguments, custom=name in self._custom))
        response = self._response(output, choice["finish_reason"], reply["usage"])
        if "x_llama4rt_not_enforced" in reply:
            response["x_llama4rt_not_enforced"] = reply["x_llama4rt_not_enforced"]
        return response

    async def events(self, chat: ChatReply) -> AsyncGenerator[bytes, None]:
        yield self._event("response.created", response=self._response([], None, None))
        yield self._event("response.in_progress", response=self._response([], None, None))
        items = StreamedItems(self._event, self._custom)
        reason = None
        try:
            async for pieces in chat.pieces():
                lines = []
                for piece in pieces:
                    reason = piece.reason or reason
                    lines += items.take(piece)
                if lines:
                    yield b"".join(lines)
            yield b"".join(items.close())
        except (asyncio.CancelledError, GeneratorExit):
            self._turn.keep_later(self._broken(items, "cancelled", None))
            raise
        except ApiError as error:
            self._turn.keep_later(self._broken(items, "failed", error))
            raise
        final = self._response(items.done, reason, chat.usage()) | chat.not_enforced()
        final = await self._turn.keep(final)
        yield self._event(
            "response.incomplete" if reason == "length" else "response.completed", response=final
        )

    def _broken(self, items: StreamedItems, status: str, error: ApiError | None) -> dict[str, Any]:
        """A response that has no end, with the text that had come."""
        said = None if error is None else {"code": error.code or "server_error", "message": error.told()}
        return self._response(items.broken_off(), None, None) | {"status": status, "error": said}

    def failed(self, error: ApiError) -> bytes:
        return self._event("error", message=error.message, code=error.code, param=error.param)

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = dumps({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    def _response(
        self, output: list[dict[str, Any]], reason: str | None, usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        body = self._body
        status = "in_progress" if reason is None else "incomplete" if reason == "length" else "completed"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self._model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            **self._turn.fields(),
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}} | self._echoed["text"],
            "tool_choice": self._echoed["tool_choice"] or "auto",
            "tools": self._echoed["tools"] or [],
            "top_p": body.top_p,
            "metadata": self._echoed["metadata"] or {},
            **_not_included(body),
            "usage": None if usage is None else {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
        }  # fmt: skip
