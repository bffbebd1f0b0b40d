"""Checked copies of what a caller gives a chat template: messages, tools, options."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from llama4rt.errors import RequestError
from llama4rt.text.tokenizer import without_lone_surrogates

Message = Mapping[str, object]


class ChatOptions(TypedDict, total=False):
    """How messages and tools become a prompt; ChatTemplate.encode says what each does."""

    add_generation_prompt: bool | None
    continue_final_message: bool
    options: Mapping[str, object] | None


class ConversationOptions(ChatOptions, total=False):
    """What Engine.chat and its kin take beside the messages."""

    tools: Sequence[Mapping[str, object]] | None


_ROLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_MESSAGES = 100_000
_MAX_DEPTH = 32
# What a template is given in any case.
RESERVED_OPTIONS = frozenset(
    {"messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize"}
)


def plain_messages(messages: Any) -> list[dict[str, Any]]:
    """Checked copies of the messages, in the form that templates expect.

    `content` is there and not None; an empty `tool_calls` is left out (templates drop such a message whole);
    the arguments of a call are an object even when they came as OpenAI's JSON text; image parts have type
    "image".
    """
    _check_is_list(messages)
    if not messages:
        raise RequestError("messages must be a non-empty list of {'role': ..., 'content': ...}")
    if len(messages) > _MAX_MESSAGES:
        raise RequestError(f"there are {len(messages)} messages; at most {_MAX_MESSAGES} are allowed")
    plain = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping):
            raise RequestError(
                f"{where} is a {type(message).__name__}; it must be a dict with role and content"
            )
        role = message.get("role")
        if not isinstance(role, str) or not _ROLE.fullmatch(role):
            raise RequestError(f"{where}: role is {role!r:.80}; it must be a name such as 'user'")
        copy = {key: plain_data(value, where) for key, value in message.items()}
        copy["content"] = _plain_content(copy.get("content"), role, where)
        calls = copy.pop("tool_calls", None)
        if calls:
            copy["tool_calls"] = _plain_calls(calls, where)
        plain.append(copy)
    return plain


def conversations_of(messages: Sequence[Message | Sequence[Message]]) -> list[Sequence[Message]]:
    """One conversation or several, as a list of them; none for an empty list."""
    _check_is_list(messages)
    several: Any = messages if messages and not isinstance(messages[0], Mapping) else [messages]
    return list(several) if messages else []


def _check_is_list(messages: object) -> None:
    """The mistakes of a first program are answered with what would be right."""
    if isinstance(messages, Mapping):
        raise RequestError(
            "messages is one message; it must be a list of them: [{'role': ..., 'content': ...}]"
        )
    if isinstance(messages, str):
        raise RequestError(
            "messages is a text; it must be a list such as [{'role': 'user', 'content': TEXT}] (generate takes a text)"
        )
    if not isinstance(messages, Sequence) or isinstance(messages, bytes):
        raise RequestError(
            f"messages is a {type(messages).__name__}; it must be a list of {{'role': ..., 'content': ...}}"
        )


def _plain_content(content: Any, role: str, where: str) -> Any:
    if content is None:
        return ""
    if isinstance(content, str) or role in ("tool", "ipython"):  # tool results are any JSON
        return content
    if not isinstance(content, list):
        raise RequestError(
            f"{where}: content is a {type(content).__name__}; it must be a string or a list of parts"
        )
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(part)
        elif kind in ("image", "image_url"):
            parts.append({**part, "type": "image"})
        else:
            raise RequestError(
                f"{where}: a content part has type {kind!r:.80}; known are 'text' with a text, and 'image'"
            )
    return parts


def _plain_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise RequestError(f"{where}: tool_calls is a {type(calls).__name__}; it must be a list")
    plain = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(f"{where}: a tool call has no function name")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            with contextlib.suppress(ValueError):  # a model can call with broken JSON: shown as it was
                arguments = json.loads(arguments or "{}")
        plain.append({**call, "function": {**function, "arguments": arguments}})
    return plain


def plain_tools(tools: Any) -> list[dict[str, Any]] | None:
    if not tools:
        return None
    if not isinstance(tools, Sequence) or isinstance(tools, (str, bytes)):
        raise RequestError(f"tools is a {type(tools).__name__}; it must be a list of JSON-schema dicts")
    for i, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise RequestError(f"tools[{i}] is a {type(tool).__name__}; it must be a JSON-schema dict")
    return [plain_data(tool, f"tools[{i}]") for i, tool in enumerate(tools)]


def plain_data(value: Any, where: str, depth: int = 0) -> Any:
    """Only JSON types reach a template: an object with methods could do more than the sandbox knows."""
    if depth > _MAX_DEPTH:
        raise RequestError(f"{where} is nested deeper than {_MAX_DEPTH}")
    if value is None or type(value) in (int, float, bool):
        return value
    if isinstance(value, str):
        return without_lone_surrogates(str.__str__(value))  # UTF-8 has to carry it
    if isinstance(value, Mapping):
        return {
            without_lone_surrogates(str(key)): plain_data(item, where, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain_data(item, where, depth + 1) for item in value]
    raise RequestError(f"{where} holds a {type(value).__name__}; only JSON values are allowed")


def plain_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """More variables for the template; those it gets anyway have arguments of their own."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise RequestError(f"chat_template_kwargs (options) is a {type(options).__name__}; it must be a dict")
    taken = sorted(RESERVED_OPTIONS & set(options))
    if taken:
        raise RequestError(f"chat_template_kwargs (options) holds {taken[0]!r}, which has a field of its own")
    plain = plain_data(dict(options), "chat_template_kwargs")
    assert isinstance(plain, dict)
    return plain
