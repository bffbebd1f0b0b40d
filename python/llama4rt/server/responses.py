"""POST /v1/responses: OpenAI's newer API over the chat endpoint, without what the server would have to remember.

`previous_response_id`, `conversation` and `background` are refused: there is no store. Items go in as `input`, come out
as `output`; a stream is the sequence of events that OpenAI's clients put together again.
"""

import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llama4rt.server.api_errors import ApiError
from llama4rt.server.chat_completions import ChatReply
from llama4rt.server.generated_reply import respond
from llama4rt.server.http import dumps, parsed
from llama4rt.server.open_json import json_value
from llama4rt.server.protocol import (
    Body,
    CalledFunction,
    ChatMessage,
    ChatRequest,
    FunctionDefinition,
    InputItem,
    JsonSchemaFormat,
    NamedFunction,
    NamedTool,
    Part,
    ResponseFormat,
    ResponsesRequest,
    ResponseTool,
    ResponseToolChoice,
    Sampling,
    TextFormat,
    Tool,
    ToolCall,
)
from llama4rt.server.service import Service, new_id

_LOGPROBS = "message.output_text.logprobs"
_ECHOED = ("text", "tool_choice", "tools", "metadata")


class ResponsesEndpoint:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: Request) -> "Response | ASGIApp":
        self._service.check_open()
        body = await parsed(request, ResponsesRequest, self._service)
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
    if (body.n or 1) != 1 or (body.n_cmpl or 1) != 1:
        raise ApiError(400, "n is not 1; a response has one output", param="n")
    messages: list[ChatMessage] = []
    if body.instructions is not None:
        messages.append(ChatMessage(role="system", content=body.instructions))
    if isinstance(body.input, str):
        messages.append(ChatMessage(role="user", content=body.input))
    else:
        for i, item in enumerate(body.input):
            _add_item(messages, item, f"input.{i}")
    shared = {name: getattr(body, name) for name in Sampling.__struct_fields__}
    return ChatRequest(
        **(shared | {"stream_options": None}),
        messages=messages,
        max_completion_tokens=body.max_output_tokens,
        logprobs=body.top_logprobs is not None or _LOGPROBS in (body.include or ()) or None,
        top_logprobs=body.top_logprobs,
        tools=[_tool(tool, f"tools.{i}") for i, tool in enumerate(body.tools or ())] or None,
        tool_choice=_tool_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body.text.format if body.text else None),
    )


def _add_item(messages: list[ChatMessage], item: InputItem, where: str) -> None:
    if item.type == "message":
        role = _given(item.role, where, "role")
        if not 1 <= len(role) <= 64:
            raise ApiError(
                400, f"{where}.role: has {len(role)} characters; it must have 1 to 64", param="input"
            )
        messages.append(ChatMessage(role=role, content=_content(item.content, where)))
    elif item.type == "function_call":
        # As text it is one string of JSON; msgspec.Raw is what a chat's body has here.
        arguments = UNSET if item.arguments is None else Raw(msgspec.json.encode(item.arguments))
        function = CalledFunction(name=_given(item.name, where, "name"), arguments=arguments)
        call = ToolCall(id=item.call_id, type="function", function=function)
        last = messages[-1] if messages else None
        if last is not None and last.role == "assistant" and last.tool_calls:
            last.tool_calls.append(call)  # calls of one turn
        else:
            messages.append(ChatMessage(role="assistant", tool_calls=[call]))
    elif item.type == "function_call_output":
        content = _content(item.output, where)
        messages.append(ChatMessage(role="tool", tool_call_id=item.call_id, content=content))
    elif item.type != "reasoning":
        raise ApiError(400, f"{where}: an item of type {item.type!r:.40} is not supported", param="input")


def _given(value: str | None, where: str, name: str) -> str:
    if value is None:
        raise ApiError(400, f"{where}.{name}: is missing", param="input")
    return value


def _content(content: "str | list[Part] | None", where: str) -> "str | list[Part] | None":
    if not isinstance(content, list):
        return content
    return [_part(part, f"{where}.{j}") for j, part in enumerate(content)]


def _part(part: Part, where: str) -> Part:
    if part.type != "input_image":
        return part
    if not isinstance(part.image_url, str):
        raise ApiError(400, f"{where}: an input_image needs an image_url", param="input")
    return Part(type="image_url", image_url=part.image_url)


def _tool(tool: ResponseTool, where: str) -> Tool:
    if tool.type != "function":
        raise ApiError(400, f"{where}: type {tool.type!r:.40} is not supported; 'function' is", param="tools")
    if tool.name is None:
        raise ApiError(400, f"{where}.name: is missing", param="tools")
    function = FunctionDefinition(
        name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
    )
    return Tool(type="function", function=function)


def _tool_choice(choice: Any) -> Any:
    if not isinstance(choice, ResponseToolChoice):
        return choice
    if choice.type != "function" or choice.name is None:
        raise ApiError(
            400,
            f"tool_choice: {choice.type!r:.40} is not supported; a function's name is",
            param="tool_choice",
        )
    return NamedTool(type="function", function=NamedFunction(name=choice.name))


def _format(given: TextFormat | None) -> ResponseFormat | None:
    if given is None:
        return None
    if given.type != "json_schema":
        return ResponseFormat(type=given.type)
    schema = JsonSchemaFormat(name=given.name, schema_=given.schema_, strict=given.strict)
    return ResponseFormat(type="json_schema", json_schema=schema)


def _echo(given: Any, where: str) -> Any:
    """What a client said, as it hears it again: without fields that are null."""
    if isinstance(given, list):
        return [_echo(item, where) for item in given]
    if isinstance(given, Raw | UnsetType):
        return json_value(given, where)
    if not isinstance(given, Body):
        return given
    values = zip(given.__struct_encode_fields__, given.__struct_fields__, strict=True)
    found = {name: _echo(getattr(given, field), where) for name, field in values}
    return {name: value for name, value in found.items() if value is not None}


class _ResponseForm:
    """One response, whole or as events."""

    def __init__(self, service: Service, body: ResponsesRequest) -> None:
        self._body = body
        self._model = service.check_model(body.model)
        self._id = new_id("resp")
        self._created = int(time.time())
        self._number = 0
        self._echoed = {name: _echo(getattr(body, name), name) for name in _ECHOED}
        self._echoed["text"] = self._echoed["text"] or {}

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
            "text": {"format": {"type": "text"}} | self._echoed["text"],
            "tool_choice": self._echoed["tool_choice"] or "auto",
            "tools": self._echoed["tools"] or [],
            "top_p": body.top_p,
            "metadata": self._echoed["metadata"] or {},
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
