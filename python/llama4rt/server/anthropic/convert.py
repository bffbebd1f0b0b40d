"""From Anthropic's messages to the chat endpoint's."""

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from llama4rt.server.anthropic.protocol import (
    Block,
    CountTokensRequest,
    InputMessage,
    MessagesRequest,
    MessageTool,
    OutputFormat,
    ResultBlock,
    Source,
)
from llama4rt.server.api_errors import ApiError
from llama4rt.server.open_json import json_value
from llama4rt.server.protocol import (
    CalledFunction,
    ChatMessage,
    ChatRequest,
    FunctionDefinition,
    JsonSchemaFormat,
    NamedFunction,
    NamedTool,
    Part,
    ResponseFormat,
    Tool,
    ToolCall,
)

_THINKING = ("thinking", "redacted_thinking")
# Where known blocks belong, for those that stand elsewhere.
_PLACES = {
    "image": "a message of the user and in the result of a tool",
    "tool_use": "a message of the assistant",
    "tool_result": "a message of the user",
}


def chat_request(body: CountTokensRequest) -> tuple[ChatRequest, list[str]]:
    """The same question in the words of the chat API, and where each of its messages came from. ApiError 400 for what
    has no words there.
    """
    messages: list[ChatMessage] = []
    places: list[str] = []
    system = _system(body)
    if system:
        messages.append(ChatMessage(role="system", content=system))
        places.append("system")
    for i, message in enumerate(body.messages):
        _add(messages, message, f"messages.{i}")
        places += [f"messages.{i}"] * (len(messages) - len(places))
    if len(messages) == bool(system):  # blocks of thinking are dropped, and there was nothing else
        raise ApiError(
            400,
            "messages: hold only blocks of thinking; the model needs a text or a picture",
            param="messages",
        )
    last = messages[-1]
    chat = ChatRequest(
        model=body.model,
        messages=messages,
        # An answer that the client began is gone on with.
        continue_final_message=(last.role == "assistant" and not last.tool_calls) or None,
        tools=[_tool(tool, f"tools.{i}") for i, tool in enumerate(body.tools or ())] or None,
        response_format=_format(body),
    )
    choice = body.tool_choice
    if choice is not None and chat.tools:
        chat.parallel_tool_calls = False if choice.disable_parallel_tool_use else None
        chat.tool_choice = _tool_choice(choice.type, choice.name)
    if isinstance(body, MessagesRequest):
        chat.max_tokens = body.max_tokens
        chat.stop = body.stop_sequences or None
        chat.stream = body.stream
        chat.temperature, chat.top_p, chat.top_k = body.temperature, body.top_p, body.top_k
    return chat, places


def ignored(body: CountTokensRequest) -> list[str]:
    """What the client asked for and does not get, and why, for people."""
    thinking = json_value(body.thinking, "thinking")
    wanted = isinstance(thinking, dict) and thinking.get("type") not in (None, "disabled")
    return ["thinking: the model does not reason apart from its answer"] if wanted else []


def _system(body: CountTokensRequest) -> str:
    if body.system is None or isinstance(body.system, str):
        return body.system or ""
    return "\n\n".join(_text(block, f"system.{i}", param="system") for i, block in enumerate(body.system))


def _add(messages: list[ChatMessage], message: InputMessage, where: str) -> None:
    """Results of tools are messages of their own."""
    if isinstance(message.content, str):
        messages.append(ChatMessage(role=message.role, content=message.content))
        return
    if message.role == "assistant":
        messages.append(_assistant(message.content, where))
        return
    parts: list[Part] = []
    for j, block in enumerate(message.content):
        place = f"{where}.content.{j}"
        if block.type == "tool_result":
            if parts:
                messages.append(ChatMessage(role="user", content=parts))
            text, parts = _result(block, place)
            messages.append(ChatMessage(role="tool", tool_call_id=block.tool_use_id, content=text))
        elif block.type not in _THINKING:
            parts.append(_part(block, place))
    if parts or not message.content:
        messages.append(ChatMessage(role="user", content=parts or ""))


def _assistant(blocks: Sequence[Block], where: str) -> ChatMessage:
    texts: list[str] = []
    calls: list[ToolCall] = []
    for j, block in enumerate(blocks):
        place = f"{where}.content.{j}"
        if block.type == "tool_use":
            if block.name is None:
                raise ApiError(400, f"{place}.name: is missing", param="messages")
            function = CalledFunction(name=block.name, arguments=block.input)
            calls.append(ToolCall(id=block.id, type="function", function=function))
        elif block.type not in _THINKING:
            texts.append(_text(block, place))
    return ChatMessage(role="assistant", content="".join(texts), tool_calls=calls or None)


def _result(block: Block, where: str) -> tuple[str, list[Part]]:
    """(the text of a tool's result, its pictures, which the user shows behind it)."""
    given: Sequence[ResultBlock] = ()
    if isinstance(block.content, str):
        text = block.content
    else:
        given = block.content or ()
        text = "\n".join(
            _text(part, f"{where}.content.{k}") for k, part in enumerate(given) if part.type != "image"
        )
    pictures = [_part(part, f"{where}.content.{k}") for k, part in enumerate(given) if part.type == "image"]
    return (f"Error: {text}" if block.is_error else text), pictures


def _part(block: ResultBlock, where: str) -> Part:
    if block.type == "image":
        return Part(type="image_url", image_url=_picture(block.source, where))
    return Part(type="text", text=_text(block, where))


def _picture(source: Source | None, where: str) -> str:
    if source is not None and source.type == "base64" and source.data is not None:
        return f"data:{source.media_type or 'image/png'};base64,{source.data}"
    if source is not None and source.type == "url" and source.url is not None:
        return source.url
    raise ApiError(
        400,
        f"{where}: the source of an image is of type 'base64' with data, or of type 'url' with a url",
        param="messages",
    )


def _text(block: ResultBlock, where: str, param: str = "messages") -> str:
    """The text of a block where nothing else may stand."""
    if block.type == "text" and block.text is not None:
        return block.text
    source = block.source
    if block.type == "document" and source is not None and source.type == "text" and source.data is not None:
        return f"{block.title}\n\n{source.data}" if block.title else source.data
    if block.type == "document":
        raise ApiError(
            400, f"{where}: only documents of text are read; send the text of others, or pictures of their pages",
            param=param,
        )  # fmt: skip
    if block.type == "text":
        raise ApiError(400, f"{where}.text: is missing", param=param)
    place = _PLACES.get(block.type)
    raise ApiError(
        400,
        f"{where}: a block of type {block.type!r:.80}; "
        + (
            f"it may stand in {place}"
            if place is not None
            else "known are 'text', 'image', 'document', 'tool_use' and 'tool_result'"
        ),
        param=param,
    )


def _tool(tool: MessageTool, where: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise ApiError(
            400,
            f"{where}: type {tool.type!r:.80} is a tool that Anthropic's models know; give tools with an input_schema",
            param="tools",
        )
    function = FunctionDefinition(
        name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
    )
    return Tool(type="function", function=function)


def _tool_choice(kind: str, name: str | None) -> Any:
    if kind != "tool":
        return {"auto": "auto", "any": "required", "none": "none"}[kind]
    if name is None:
        raise ApiError(400, "tool_choice.name: is missing", param="tool_choice")
    return NamedTool(type="function", function=NamedFunction(name=name))


def _format(body: CountTokensRequest) -> ResponseFormat | None:
    config = body.output_config
    given: OutputFormat | None = (
        body.output_format if config is None or config.format is None else config.format
    )
    if given is None:
        return None
    if given.schema_ is UNSET:
        where = "output_format" if given is body.output_format else "output_config.format"
        raise ApiError(400, f"{where}.schema: is missing", param=where.split(".")[0])
    schema = JsonSchemaFormat(name="output", schema_=given.schema_)
    return ResponseFormat(type="json_schema", json_schema=schema)
