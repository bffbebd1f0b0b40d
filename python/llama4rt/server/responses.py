"""POST /v1/responses: OpenAI's newer API over the chat endpoint, without what the server would have to remember.

`previous_response_id`, `conversation` and `background` are refused: there is no store. Items go in as `input`, come out
as `output`; a stream is the sequence of events that OpenAI's clients put together again.
"""

import time
from collections.abc import AsyncGenerator
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llama4rt.server.api_errors import ApiError, of_validation
from llama4rt.server.chat_completions import ChatReply
from llama4rt.server.generated_reply import respond
from llama4rt.server.http import dumps, parsed
from llama4rt.server.protocol import ChatRequest, ResponsesRequest
from llama4rt.server.service import Service, new_id

_STATEFUL = ("previous_response_id", "conversation", "background")


class ResponsesEndpoint:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: Request) -> "Response | ASGIApp":
        self._service.check_open()
        body = await parsed(request, ResponsesRequest)
        chat = ChatReply(self._service, chat_request(body))
        form = _ResponseForm(self._service, body)
        return await respond(
            self._service,
            request,
            chat,
            stream=bool(body.stream),
            whole=form.whole,
            lines=form.events(chat),
            error_line=form.failed,
        )


def chat_request(body: ResponsesRequest) -> ChatRequest:
    """The same question in the words of the chat API. ApiError 400 for what has no words there."""
    for name in _STATEFUL:
        if getattr(body, name):
            raise ApiError(
                400, f"{name} is not supported: this server keeps nothing between requests", param=name
            )
    messages: list[dict[str, Any]] = []
    if body.instructions is not None:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        for i, item in enumerate(body.input):
            _add_item(messages, item, i)
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": messages,
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "seed": body.seed,
        "logprobs": body.top_logprobs is not None or None,
        "top_logprobs": body.top_logprobs,
        "stream": body.stream,
        "tools": [_tool(tool, i) for i, tool in enumerate(body.tools or ())] or None,
        "tool_choice": _tool_choice(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _format((body.text or {}).get("format")),
    }
    try:
        return ChatRequest.model_validate(
            {name: value for name, value in fields.items() if value is not None}
        )
    except ValidationError as error:
        raise of_validation(error) from None


def _add_item(messages: list[dict[str, Any]], item: dict[str, Any], i: int) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        content = item.get("content")
        if isinstance(content, list):
            content = [_part(part, f"input[{i}]") for part in content]
        messages.append({"role": item.get("role"), "content": content})
    elif kind == "function_call":
        call = {
            "id": item.get("call_id"),
            "type": "function",
            "function": {"name": item.get("name"), "arguments": item.get("arguments")},
        }
        last = messages[-1] if messages else {}
        if last.get("role") == "assistant" and last.get("tool_calls"):
            last["tool_calls"].append(call)  # calls of one turn
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    elif kind == "function_call_output":
        output = item.get("output")
        if isinstance(output, list):
            output = [_part(part, f"input[{i}]") for part in output]
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
    elif kind != "reasoning":
        raise ApiError(400, f"input[{i}]: an item of type {kind!r:.40} is not supported", param="input")


def _part(part: Any, where: str) -> Any:
    if isinstance(part, dict) and part.get("type") == "input_image":
        if not isinstance(part.get("image_url"), str):
            raise ApiError(400, f"{where}: an input_image needs an image_url", param="input")
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    return part


def _tool(tool: dict[str, Any], i: int) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise ApiError(
            400, f"tools[{i}]: type {tool.get('type')!r:.40} is not supported; 'function' is", param="tools"
        )
    names = ("name", "description", "parameters", "strict")
    return {
        "type": "function",
        "function": {name: tool[name] for name in names if tool.get(name) is not None},
    }


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _format(value: Any) -> Any:
    if not isinstance(value, dict) or value.get("type") != "json_schema":
        return value
    return {"type": "json_schema", "json_schema": {k: v for k, v in value.items() if k != "type"}}


class _ResponseForm:
    """One response, whole or as events."""

    def __init__(self, service: Service, body: ResponsesRequest) -> None:
        self._body = body
        self._model = service.check_model(body.model)
        self._id = new_id("resp")
        self._created = int(time.time())
        self._number = 0

    def whole(self, reply: dict[str, Any]) -> dict[str, Any]:
        choice = reply["choices"][0]
        message = choice["message"]
        output: list[dict[str, Any]] = []
        if message.get("content"):
            item = _message(new_id("msg"), message["content"])
            if choice["logprobs"] is not None:
                item["content"][0]["logprobs"] = choice["logprobs"]["content"]
            output.append(item)
        for call in message.get("tool_calls") or ():
            output.append(
                _call(new_id("fc"), call["id"], call["function"]["name"], call["function"]["arguments"])
            )
        response = self._response(output, choice["finish_reason"], reply["usage"])
        if "x_llama4rt_not_enforced" in reply:
            response["x_llama4rt_not_enforced"] = reply["x_llama4rt_not_enforced"]
        return response

    async def events(self, chat: ChatReply) -> AsyncGenerator[bytes, None]:
        yield self._event("response.created", response=self._response([], None, None))
        yield self._event("response.in_progress", response=self._response([], None, None))
        items = _Items(self)
        reason = None
        async for deltas in chat.deltas():
            lines = []
            for delta, finished in deltas:
                reason = finished or reason
                lines += items.take(delta)
            if lines:
                yield b"".join(lines)
        yield b"".join(items.close())
        final = self._response(items.done, reason, chat.usage()) | chat.not_enforced()
        yield self._event(
            "response.incomplete" if reason == "length" else "response.completed", response=final
        )

    def failed(self, error: ApiError) -> bytes:
        return self._event("error", message=error.message, code=error.code, param=error.param)

    def event(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, **fields)

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
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": body.text or {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_p": body.top_p,
            "metadata": body.metadata or {},
            "usage": None if usage is None else {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
        }  # fmt: skip


class _Items:
    """The items of a stream, one open at a time."""

    def __init__(self, form: _ResponseForm) -> None:
        self._form = form
        self._open: dict[str, Any] | None = None
        self._call_index = -1
        self.done: list[dict[str, Any]] = []

    def take(self, delta: dict[str, Any]) -> list[bytes]:
        lines: list[bytes] = []
        if delta.get("content"):
            if self._open is None or self._open["type"] != "message":
                lines += self.close() + self._begin(_message(new_id("msg"), "", "in_progress"))
            item = self._item()
            item["content"][0]["text"] += delta["content"]
            lines.append(
                self._say("response.output_text.delta", content_index=0, delta=delta["content"], logprobs=[])
            )
        for piece in delta.get("tool_calls", ()):
            if piece["index"] != self._call_index:
                self._call_index = piece["index"]
                call = _call(new_id("fc"), piece["id"], piece["function"]["name"], "", "in_progress")
                lines += self.close() + self._begin(call)
            text = piece["function"].get("arguments")
            if text:
                self._item()["arguments"] += text
                lines.append(self._say("response.function_call_arguments.delta", delta=text))
        return lines

    def close(self) -> list[bytes]:
        if self._open is None:
            return []
        item = self._open
        item["status"] = "completed"
        if item["type"] == "message":
            part = item["content"][0]
            lines = [
                self._say("response.output_text.done", content_index=0, text=part["text"], logprobs=[]),
                self._say("response.content_part.done", content_index=0, part=part),
            ]
        else:
            fields = {"arguments": item["arguments"], "name": item["name"]}
            lines = [self._say("response.function_call_arguments.done", **fields)]
        lines.append(self._form.event("response.output_item.done", output_index=len(self.done), item=item))
        self.done.append(item)
        self._open = None
        return lines

    def _begin(self, item: dict[str, Any]) -> list[bytes]:
        self._open = item
        shown = {**item, "content": []} if item["type"] == "message" else item
        lines = [self._form.event("response.output_item.added", output_index=len(self.done), item=shown)]
        if item["type"] == "message":
            lines.append(self._say("response.content_part.added", content_index=0, part=item["content"][0]))
        return lines

    def _item(self) -> dict[str, Any]:
        assert self._open is not None
        return self._open

    def _say(self, kind: str, **fields: Any) -> bytes:
        return self._form.event(kind, item_id=self._item()["id"], output_index=len(self.done), **fields)


def _message(item_id: str, text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": [part]}


def _call(item_id: str, call_id: str, name: str, arguments: str, status: str = "completed") -> dict[str, Any]:
    return {
        "id": item_id, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments,
        "status": status,
    }  # fmt: skip
