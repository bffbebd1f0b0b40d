"""What a request demands of its output's form: response_format, vLLM's guided_* fields, tools that must be called."""

from dataclasses import replace
from typing import Any

from msgspec import Raw, UnsetType

from llama4rt.errors import RequestError
from llama4rt.server.api_errors import ApiError
from llama4rt.server.open_json import given, json_object, json_value
from llama4rt.server.protocol import ChatRequest, NamedTool, ResponseFormat, Sampling, Tool
from llama4rt.structured import StructuredOutput
from llama4rt.structured.keywords import RELAXED
from llama4rt.structured.relaxing import asks_to_relax, relaxed

_GUIDED = {
    "json": "guided_json",
    "regex": "guided_regex",
    "choice": "guided_choice",
    "grammar": "guided_grammar",
}

_MAX_CALLS = 16  # of one forced answer


def structured_output(body: Sampling, response_format: ResponseFormat | None) -> StructuredOutput | None:
    """What the text must follow, from whichever field says so. ApiError 400 when two do, or when it is refused."""
    asked: dict[str, tuple[str, Any]] = {}  # field -> (kind, value)
    for kind, name in _GUIDED.items():
        value = _value(getattr(body, name))
        if value is not None:
            asked[name] = (kind, value)
    for kind, name in (("json", "json_schema"), ("grammar", "grammar")):  # llama.cpp's
        value = _value(getattr(body, name))
        if value is not None and value != "":
            asked[name] = (kind, value)
    for kind, value in (json_object(body.structured_outputs, "structured_outputs") or {}).items():
        if value is None or value is False:
            continue
        if kind not in (*_GUIDED, "json_object"):
            raise ApiError(400, f"structured_outputs: {kind!r:.40} is not known", param="structured_outputs")
        asked[f"structured_outputs.{kind}"] = (kind, value)
    if response_format is not None and response_format.type != "text":
        asked["response_format"] = _of_format(response_format)
    if not asked:
        return None
    if len(asked) > 1:
        raise ApiError(
            400, f"{' and '.join(asked)} are given; only one of them can be", param=next(iter(asked))
        )
    (name, (kind, value)), *_ = asked.items()
    if isinstance(value, Raw):
        value = json_value(value, name)
    try:
        return _made(kind, value)
    except RequestError as error:
        raise ApiError(400, str(error), param=name) from None


def forced_call(body: ChatRequest) -> StructuredOutput | None:
    """For tool_choice "required" or one tool's name: one call, complete within max_tokens, whatever form
    response_format wants for text. When "required" comes with parallel_tool_calls: true, one call or a list of them, as
    the model likes.
    """
    if body.tool_choice in (None, "none", "auto"):
        return None
    tools = body.tools or []
    if not tools:
        raise ApiError(400, "tool_choice asks for a call, and there are no tools", param="tool_choice")
    if isinstance(body.tool_choice, NamedTool):
        name = body.tool_choice.function.name
        tools = [tool for tool in tools if tool.function.name == name]
        if not tools:
            raise ApiError(
                400, f"tool_choice names {name!r:.80}, which is not among the tools", param="tool_choice"
            )
    not_enforced: list[str] = []
    parameters = {f"tool_{i}": _parameters(tool, i, not_enforced) for i, tool in enumerate(tools)}
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.function.name},
                "parameters": {"$ref": f"#/$defs/tool_{i}"},
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for i, tool in enumerate(tools)
    ]
    one: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    schema = {**one, "$defs": parameters}
    if body.tool_choice == "required" and body.parallel_tool_calls:
        some = {"type": "array", "items": {"$ref": "#/$defs/call"}, "minItems": 1, "maxItems": _MAX_CALLS}
        schema = {"anyOf": [{"$ref": "#/$defs/call"}, some], "$defs": {**parameters, "call": one}}
    try:
        output = StructuredOutput.json_schema(schema, complete=True)
        return replace(output, not_enforced=tuple(not_enforced)) if not_enforced else output
    except RequestError as error:
        raise ApiError(400, str(error), param="tools") from None


def call_beside(body: ChatRequest) -> dict[str, Any]:
    """For tool_choice "auto" beside a response_format: the schema of a call that may come instead of the text, as in
    OpenAI's API. Of the arguments it says what "auto" says without a response_format: nothing.
    """
    call = {
        "type": "object",
        "properties": {
            "name": {"enum": list(dict.fromkeys(tool.function.name for tool in body.tools or ()))},
            "parameters": {"type": "object"},
        },
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }
    if not body.parallel_tool_calls:
        return call
    return {"anyOf": [call, {"type": "array", "items": call, "minItems": 1, "maxItems": _MAX_CALLS}]}


def _parameters(tool: Tool, i: int, not_enforced: list[str]) -> dict[str, Any]:
    """The schema of its arguments. What a relaxed one does without is added to not_enforced."""
    schema = dict(
        json_object(tool.function.parameters, f"tools.{i}.function.parameters") or {"properties": {}}
    )
    for name in ("$schema", "$id"):
        schema.pop(name, None)
    if schema.setdefault("type", "object") != "object":
        raise ApiError(
            400,
            f"tools.{i}: parameters have type {schema['type']!r:.40}; it must be 'object'",
            param="tools",
        )
    try:
        if asks_to_relax(schema):
            schema, left_out = relaxed(schema)
            not_enforced += [f"{what} of {tool.function.name}" for what in left_out]
        schema.pop(RELAXED, None)
    except RequestError as error:
        raise ApiError(400, f"tools.{i}: {error}", param="tools") from None
    if "properties" in schema:  # the function takes no others
        schema.setdefault("additionalProperties", False)
    moved = _moved(schema, f"#/$defs/tool_{i}")
    assert isinstance(moved, dict)
    return moved


def _moved(value: Any, base: str, depth: int = 0) -> Any:
    """A schema whose references into itself hold under `base`."""
    if depth > 64:
        raise ApiError(400, "the parameters are nested deeper than 64", param="tools")
    if isinstance(value, dict):
        return {
            key: base + item[1:] if key == "$ref" and isinstance(item, str) and item.startswith("#")
            else _moved(item, base, depth + 1)
            for key, item in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [_moved(item, base, depth + 1) for item in value]
    return value


def _of_format(response_format: ResponseFormat) -> tuple[str, Any]:
    kind, own = response_format.type, given(response_format.schema_)
    if own is not None and kind not in ("json_object", "json_schema"):
        raise ApiError(
            400, f"response_format of type {kind!r} has no use for a schema", param="response_format"
        )
    if kind == "json_object":
        return ("json_object", True) if own is None else ("json", own)
    value: Any = getattr(response_format, kind)
    if kind == "json_schema":
        if value is not None:
            value = given(value.schema_)
        if value is not None and own is not None:
            raise ApiError(400, "response_format has two schemas", param="response_format")
        value = own if value is None else value
    if value is None:
        raise ApiError(400, f"response_format of type {kind!r} has no {kind}", param="response_format")
    return {"json_schema": "json"}.get(kind, kind), value


def _value(field: Any) -> Any:
    return given(field) if isinstance(field, Raw | UnsetType) else field


def _made(kind: str, value: Any) -> StructuredOutput:
    if kind == "json_object":
        return StructuredOutput.json_object()
    if kind == "json":
        return StructuredOutput.json_schema(value)
    if kind == "regex":
        return StructuredOutput.regex(value)
    if kind == "choice":
        return StructuredOutput.choice(value)
    return StructuredOutput.grammar(value)
