"""From a response's input items and tools to the chat API's messages and tools."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from llama4rt.server.api_errors import ApiError
from llama4rt.server.open_json import json_value
from llama4rt.server.protocol import (
    Body,
    CalledFunction,
    ChatMessage,
    FunctionDefinition,
    InputItem,
    NamedFunction,
    NamedTool,
    Part,
    ResponsesRequest,
    ResponseTool,
    ResponseToolChoice,
    Tool,
    ToolCall,
)

# A custom tool takes a text. For the model it is a function with one argument.
CUSTOM_ARGUMENT = "input"
_CUSTOM_PARAMETERS = {
    "type": "object",
    "properties": {CUSTOM_ARGUMENT: {"type": "string"}},
    "required": [CUSTOM_ARGUMENT],
}


def input_messages(
    body: ResponsesRequest, before: Sequence[InputItem] = ()
) -> tuple[list[ChatMessage], list[str]]:
    """The messages, and where each stands in the request. before: items that were kept."""
    messages: list[ChatMessage] = []
    places: list[str] = []
    if body.instructions is not None:
        messages.append(ChatMessage(role="system", content=body.instructions))
        places.append("instructions")
    for i, item in enumerate(before):
        _add_item(messages, item, f"previous.{i}")
        places += [f"previous.{i}"] * (len(messages) - len(places))
    if isinstance(body.input, str):
        messages.append(ChatMessage(role="user", content=body.input))
        return messages, [*places, "input"]
    for i, item in enumerate(body.input):
        _add_item(messages, item, f"input.{i}")
        places += [f"input.{i}"] * (len(messages) - len(places))
    return messages, places


def kept_form(given: Any, where: str) -> Any:
    """What a client said, as it hears it again: without fields that are null."""
    if isinstance(given, list):
        return [kept_form(item, where) for item in given]
    if isinstance(given, Raw | UnsetType):
        return json_value(given, where)
    if not isinstance(given, Body):
        return given
    values = zip(given.__struct_encode_fields__, given.__struct_fields__, strict=True)
    found = {name: kept_form(getattr(given, field), where) for name, field in values}
    return {name: value for name, value in found.items() if value is not None}


def chat_of_items(items: Sequence[InputItem], where: str) -> list[ChatMessage]:
    """ApiError 400 for an item that has no words in the chat API."""
    messages: list[ChatMessage] = []
    for i, item in enumerate(items):
        _add_item(messages, item, f"{where}.{i}")
    return messages


def custom_tools(body: ResponsesRequest) -> frozenset[str]:
    """The names of those that take a text."""
    return frozenset(
        tool.name for tool in body.tools or () if tool.type == "custom" and tool.name is not None
    )


def tools_and_choice(body: ResponsesRequest) -> tuple[list[Tool], Any]:
    tools = [_tool(tool, f"tools.{i}") for i, tool in enumerate(body.tools or ())]
    choice = body.tool_choice
    if not isinstance(choice, ResponseToolChoice):
        return tools, choice
    if choice.type == "allowed_tools":
        return _allowed(tools, choice)
    if choice.type not in ("function", "custom") or choice.name is None:
        raise ApiError(
            400,
            f"tool_choice: {choice.type!r:.40} is not supported; a function's name is",
            param="tool_choice",
        )
    return tools, NamedTool(type="function", function=NamedFunction(name=choice.name))


def _allowed(tools: list[Tool], choice: ResponseToolChoice) -> tuple[list[Tool], Any]:
    """Those that the model may call now; of the others it hears nothing."""
    names = [tool.name for tool in choice.tools or ()]
    known = {tool.function.name for tool in tools}
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None or not names:
        what = "no tools" if not names else f"{unknown!r:.80}, which is not among the tools"
        raise ApiError(400, f"tool_choice: allowed_tools names {what}", param="tool_choice")
    return [tool for tool in tools if tool.function.name in names], choice.mode or "auto"


def _add_item(messages: list[ChatMessage], item: InputItem, where: str) -> None:
    if item.type == "message":
        role = _given(item.role, where, "role")
        if not 1 <= len(role) <= 64:
            raise ApiError(
                400, f"{where}.role: has {len(role)} characters; it must have 1 to 64", param="input"
            )
        messages.append(ChatMessage(role=role, content=_content(item.content, where)))
    elif item.type in ("function_call", "custom_tool_call"):
        # As text it is one string of JSON; msgspec.Raw is what a chat's body has here.
        said = item.arguments
        if item.type == "custom_tool_call":
            said = msgspec.json.encode({CUSTOM_ARGUMENT: item.input or ""}).decode()
        arguments = UNSET if said is None else Raw(msgspec.json.encode(said))
        function = CalledFunction(name=_given(item.name, where, "name"), arguments=arguments)
        call = ToolCall(id=item.call_id, type="function", function=function)
        last = messages[-1] if messages else None
        if last is not None and last.role == "assistant" and last.tool_calls:
            last.tool_calls.append(call)  # calls of one turn
        else:
            messages.append(ChatMessage(role="assistant", tool_calls=[call]))
    elif item.type in ("function_call_output", "custom_tool_call_output"):
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
    if part.type in ("input_text", "output_text", "text", "refusal"):
        return part
    if part.type == "input_file":
        return Part(type="text", text=_file_text(part, where))
    if part.type != "input_image":
        raise ApiError(
            400,
            f"{where}: a part of type {part.type!r:.80}; known are 'input_text', 'input_image', 'input_file' and "
            "'output_text'",
            param="input",
        )
    if not isinstance(part.image_url, str):
        raise ApiError(400, f"{where}: an input_image needs an image_url", param="input")
    return Part(type="image_url", image_url=part.image_url)


def _file_text(part: Part, where: str) -> str:
    """A file of text, which comes as a data: URL or as base64; nothing else is read."""
    name = part.filename or ""
    if part.file_data is None:
        raise ApiError(
            400,
            f"{where}: an input_file needs file_data: the server keeps no files and fetches none",
            param="input",
        )
    head, _, data = part.file_data.rpartition(",")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{where}: file_data is not base64", param="input") from None
    if content.startswith(b"%PDF") or "application/pdf" in head or name.endswith(".pdf"):
        raise ApiError(400, f"{where}: is a PDF; send its text, or its pages as pictures", param="input")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ApiError(
            400, f"{where}: is not a text in UTF-8; other files are not read", param="input"
        ) from None
    return f"{name}\n\n{text}" if name else text


def _tool(tool: ResponseTool, where: str) -> Tool:
    if tool.type not in ("function", "custom"):
        raise ApiError(
            400,
            f"{where}: type {tool.type!r:.40} is not supported; 'function' and 'custom' are",
            param="tools",
        )
    if tool.name is None:
        raise ApiError(400, f"{where}.name: is missing", param="tools")
    if tool.type == "custom":
        if tool.format is not None and tool.format.type != "text":
            raise ApiError(
                400, f"{where}.format: {tool.format.type!r:.40} is not supported; 'text' is", param="tools"
            )
        parameters: Any = Raw(msgspec.json.encode(_CUSTOM_PARAMETERS))
        function = FunctionDefinition(name=tool.name, description=tool.description, parameters=parameters)
        return Tool(type="function", function=function)
    function = FunctionDefinition(
        name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
    )
    return Tool(type="function", function=function)
