"""From Ollama's requests to the chat and completion endpoints'."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from llama4rt.server.api_errors import ApiError, of_msgspec
from llama4rt.server.known_fields import nearest
from llama4rt.server.ollama.protocol import (
    IGNORED_OPTIONS,
    REFUSED_OPTIONS,
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaMessage,
    OllamaOptions,
    OllamaRequest,
)
from llama4rt.server.open_json import json_object, json_value
from llama4rt.server.protocol import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    JsonSchemaFormat,
    Part,
    ResponseFormat,
    Sampling,
    ToolCall,
)

_PICTURES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))


def model_name(name: str, known: Sequence[str]) -> str:
    """Ollama's clients add the tag `:latest` to a name without one."""
    plain = name.removesuffix(":latest")
    return plain if name not in known and plain in known else name


def chat_request(body: OllamaChatRequest, model: str) -> ChatRequest:
    messages = [_message(message, f"messages.{i}") for i, message in enumerate(body.messages or ())]
    return ChatRequest(
        messages=messages, tools=body.tools, response_format=_format(body), **_common(body, model)
    )


def generate_chat(body: OllamaGenerateRequest, model: str) -> ChatRequest:
    """Without `raw` a prompt is what a user says."""
    if body.template:
        raise ApiError(400, "template is not supported: the template belongs to the model", param="template")
    _refuse_suffix(body)
    system = [ChatMessage(role="system", content=body.system)] if body.system else []
    user = _message(OllamaMessage(role="user", content=body.prompt, images=body.images), "prompt")
    return ChatRequest(messages=[*system, user], response_format=_format(body), **_common(body, model))


def generate_raw(body: OllamaGenerateRequest, model: str) -> CompletionRequest:
    """With `raw` it is a text to continue."""
    _refuse_suffix(body)
    if body.images:
        raise ApiError(400, "images go without raw", param="images")
    prompt = Raw(msgspec.json.encode(body.prompt or ""))
    common = {"n_predict": -1} | _common(body, model)
    return CompletionRequest(prompt=prompt, response_format=_format(body), **common)


def _common(body: OllamaRequest, model: str) -> dict[str, Any]:
    if body.think:
        raise ApiError(
            400, "think is not supported: the model does not reason apart from its answer", param="think"
        )
    if body.logprobs:
        raise ApiError(400, "logprobs is not supported: use /v1/chat/completions", param="logprobs")
    found = _options(json_object(body.options, "options") or {})
    return {"model": model, "stream": body.stream is not False, **found}


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    known = OllamaOptions.__struct_fields__
    for name, value in given.items():
        if name in REFUSED_OPTIONS:
            why, nothing = REFUSED_OPTIONS[name]
            if value is not None and value not in nothing:
                raise ApiError(400, f"options.{name} is not supported: {why}", param="options")
        elif name not in known and name not in IGNORED_OPTIONS:
            hint = nearest(name, [*known, *IGNORED_OPTIONS])
            raise ApiError(400, f"options.{name[:80]} is not supported{hint}", param="options")
    try:
        options = msgspec.convert({k: v for k, v in given.items() if k in known}, OllamaOptions)
    except msgspec.ValidationError as error:
        raise of_msgspec(error, "options") from None
    found = {name: value for name in known if (value := getattr(options, name)) is not None}
    if found.get("num_predict") == 0:
        raise ApiError(
            400, "options.num_predict is 0; it must be at least 1, or negative for no limit", param="options"
        )
    if found.get("num_predict", 0) < -1:  # -2: to the end of the context
        found["num_predict"] = -1
    if "num_predict" in found:
        found["n_predict"] = found.pop("num_predict")
    try:
        msgspec.convert(found, Sampling)  # which has the ranges
    except msgspec.ValidationError as error:
        raise of_msgspec(error, "options") from None
    return found


def _format(body: OllamaRequest) -> ResponseFormat | None:
    value = json_value(body.format, "format")
    if value is None or value == "":
        return None
    if value == "json":
        return ResponseFormat(type="json_object")
    if not isinstance(value, dict):
        raise ApiError(400, 'format: must be "json" or a JSON schema', param="format")
    return ResponseFormat(
        type="json_schema", json_schema=JsonSchemaFormat(name="format", schema_=body.format)
    )


def _message(message: OllamaMessage, where: str) -> ChatMessage:
    content: str | list[Part] | None = message.content or ""
    if message.images:
        content = [
            *(_picture(data, f"{where}.images.{j}") for j, data in enumerate(message.images)),
            *([Part(type="text", text=message.content)] if message.content else ()),
        ]
    calls = [
        ToolCall(id=call.id, type="function", function=call.function) for call in message.tool_calls or ()
    ]
    return ChatMessage(
        role=message.role,
        content=content,
        tool_calls=calls or None,
        name=message.tool_name,
        tool_call_id=message.tool_call_id,
    )


def _picture(data: str, where: str) -> Part:
    """base64 without a type, which the first bytes say."""
    if data.startswith(("data:", "http:", "https:")):
        return Part(type="image_url", image_url=data)
    try:
        start = base64.b64decode(data[:16], validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{where}: is not base64", param="images") from None
    kind = next((name for mark, name in _PICTURES if start.startswith(mark)), "png")
    return Part(type="image_url", image_url=f"data:image/{kind};base64,{data}")


def _refuse_suffix(body: OllamaGenerateRequest) -> None:
    if body.suffix:
        raise ApiError(
            400, "suffix is not supported: the model continues, it does not fill in", param="suffix"
        )
