"""OpenAI's messages as chat templates and the picture reader take them.

Over the network a picture is a URL and nothing else: paths and objects of this machine are for its own programs.
"""

from typing import Any

from llama4rt.server.api_errors import ApiError
from llama4rt.server.protocol import ChatMessage, Part

_TEMPLATE_ROLES = {"developer": "system", "function": "tool"}


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


def text_size(messages: list[dict[str, Any]]) -> int:
    """Characters of text, to refuse what cannot fit before it is tokenized."""
    size = 0
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            size += len(content)
        elif isinstance(content, list):
            size += sum(len(part.get("text") or "") for part in content)
    return size


def _plain(message: ChatMessage, i: int) -> dict[str, Any]:
    role = _TEMPLATE_ROLES.get(message.role, message.role)
    where = f"messages[{i}]"
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
                "function": {"name": call.function.name, "arguments": call.function.arguments or {}},
            }
            for call in message.tool_calls
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
                400, f"{where}, part {j}: a part of type 'image_url' has no image_url", param="messages"
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
        f"{where}, part {j}: a part of type {part.type!r:.80}; known are 'text' with a text, and 'image_url'",
        param="messages",
    )
