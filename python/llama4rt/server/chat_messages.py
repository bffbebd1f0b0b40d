"""OpenAI's messages as chat templates and the picture reader take them.

Over the network a picture is a URL and nothing else: paths and objects of this machine are for its own programs.
"""

from collections.abc import Sequence
from typing import Any

from llama4rt.server.api_errors import ApiError
from llama4rt.server.open_json import call_arguments, json_object, size_of
from llama4rt.server.protocol import ChatMessage, ChatRequest, Part, Prediction, TokenizeRequest, Tool

_TEMPLATE_ROLES = {"developer": "system", "function": "tool"}
_ROLES = ("system", "user", "assistant", "tool", "ipython")


def plain_messages(
    messages: list[ChatMessage], *, max_messages: int, max_images: int
) -> list[dict[str, Any]]:
    """ApiError 400 naming the message, for parts of unknown type and for too many messages or images."""
    if len(messages) > max_messages:
        raise ApiError(
            400, f"there are {len(messages)} messages; at most {max_messages} are allowed", param="messages"
        )
    plain = [_plain(message, i) for i, message in enumerate(messages)]
    images = sum(
        part["type"] == "image_url"
        for message in plain
        if isinstance(message["content"], list)
        for part in message["content"]
    )
    if images > max_images:
        raise ApiError(
            400, f"the request has {images} images; at most {max_images} are allowed", param="messages"
        )
    return plain


def plain_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools as they came, without fields that are null."""
    plain = []
    for i, tool in enumerate(tools):
        function: dict[str, Any] = {"name": tool.function.name}
        if tool.function.description is not None:
            function["description"] = tool.function.description
        parameters = json_object(tool.function.parameters, f"tools.{i}.function.parameters")
        if parameters is not None:
            function["parameters"] = parameters
        if tool.function.strict is not None:
            function["strict"] = tool.function.strict
        plain.append({"type": tool.type, "function": function})
    return plain


def template_options(body: ChatRequest | TokenizeRequest, tools: Sequence[Tool]) -> dict[str, Any]:
    """What Engine.prepare_chat takes beside the messages."""
    return {
        "tools": plain_tools(tools) or None,
        "add_generation_prompt": body.add_generation_prompt,
        "continue_final_message": body.continue_final_message is True,
        "options": json_object(body.chat_template_kwargs, "chat_template_kwargs"),
    }


def predicted_text(prediction: Prediction) -> str:
    """What a client expects the reply to be like."""
    if isinstance(prediction.content, str):
        return prediction.content
    for i, part in enumerate(prediction.content):
        if part.type != "text" or part.text is None:
            raise ApiError(
                400,
                f"prediction.content[{i}] is of type {part.type!r:.40}; it must be text",
                param="prediction",
            )
    return "".join(part.text or "" for part in prediction.content)


def text_size(body: ChatRequest | TokenizeRequest, tools: Sequence[Tool]) -> int:
    """Characters of text that a template may write, calls, tools and its variables too, to refuse what cannot fit
    before anything is made of it. Blanks between the parts of JSON count as text.
    """
    size = size_of(body.chat_template_kwargs)
    if isinstance(body, ChatRequest) and body.prediction is not None:
        size += len(predicted_text(body.prediction))
    for tool in tools:
        size += len(tool.function.description or "") + size_of(tool.function.parameters)
    for message in body.messages or ():
        size += len(message.name or "") + len(message.tool_call_id or "")
        if isinstance(message.content, str):
            size += len(message.content)
        elif message.content is not None:
            size += sum(len(part.text or part.refusal or "") for part in message.content)
        for call in message.tool_calls or ():
            size += len(call.id or "") + len(call.function.name) + size_of(call.function.arguments)
    return size


def _plain(message: ChatMessage, i: int) -> dict[str, Any]:
    role = _TEMPLATE_ROLES.get(message.role, message.role)
    where = f"messages.{i}"
    if role not in _ROLES:
        raise ApiError(
            400, f"{where}.role: {role!r:.80} is not known; known are {', '.join(_ROLES)}", param="messages"
        )
    if message.content is None and role in ("system", "user"):
        raise ApiError(400, f"{where}.content: is missing", param="messages")
    if role == "tool" and isinstance(message.content, list):
        content: Any = "".join(_text(part, where, j) for j, part in enumerate(message.content))
    elif isinstance(message.content, list):
        content = [_part(part, where, j) for j, part in enumerate(message.content)]
    else:
        content = message.content
    plain: dict[str, Any] = {"role": role, "content": content}
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": call_arguments(
                        call.function.arguments, f"messages.{i}.tool_calls.{j}.function.arguments"
                    )
                    or {},
                },
            }
            for j, call in enumerate(message.tool_calls)
        ]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        plain["name"] = message.name
    return plain


def _part(part: Part, where: str, j: int) -> dict[str, Any]:
    if part.type == "image_url":
        url = (
            part.image_url.url
            if part.image_url is not None and not isinstance(part.image_url, str)
            else part.image_url
        )
        if url is None:
            raise ApiError(
                400, f"{where}.content.{j}: a part of type 'image_url' has no image_url", param="messages"
            )
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "text", "text": _text(part, where, j)}


def _text(part: Part, where: str, j: int) -> str:
    if part.type in ("text", "input_text", "output_text") and part.text is not None:
        return part.text
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    raise ApiError(
        400,
        f"{where}.content.{j}: a part of type {part.type!r:.80}; known are 'text' with a text, and 'image_url'",
        param="messages",
    )
