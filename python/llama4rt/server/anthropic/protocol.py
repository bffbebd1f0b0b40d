"""What Anthropic's clients may send."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, field

from llama4rt.server.protocol import (
    MAX_STOP,
    MAX_TOKEN_ID,
    Body,
    Ignored,
    JsonObject,
    JsonSchema,
    StopText,
    Temperature,
    TopP,
)

ToolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,128}(?![\s\S])")]


class Source(Body, kw_only=True):
    """Of a picture or a document."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class ResultBlock(Body, kw_only=True):
    """One piece of a tool's result, or of the system prompt."""

    type: str
    text: str | None = None
    source: Source | None = None
    title: str | None = None
    context: Ignored = UNSET
    citations: Ignored = UNSET
    cache_control: Ignored = UNSET


class Block(ResultBlock, kw_only=True):
    """One piece of a message."""

    id: str | None = None
    name: str | None = None
    input: JsonObject = UNSET
    tool_use_id: str | None = None
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None
    thinking: Ignored = UNSET
    signature: Ignored = UNSET
    data: Ignored = UNSET
    caller: Ignored = UNSET


class InputMessage(Body, kw_only=True):
    role: Literal["user", "assistant"]
    content: str | list[Block]


class MessageTool(Body, kw_only=True):
    name: ToolName
    type: str | None = None
    description: str | None = None
    input_schema: JsonObject = UNSET
    strict: bool | None = None
    cache_control: Ignored = UNSET
    input_examples: Ignored = UNSET
    defer_loading: Ignored = UNSET
    allowed_callers: Ignored = UNSET
    eager_input_streaming: Ignored = UNSET


class ToolChoice(Body, kw_only=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Body, kw_only=True):
    type: Literal["json_schema"]
    schema_: JsonSchema = field(default=UNSET, name="schema")
    name: Ignored = UNSET


class OutputConfig(Body, kw_only=True):
    format: OutputFormat | None = None
    effort: Ignored = UNSET


class CountTokensRequest(Body, kw_only=True):
    """POST /v1/messages/count_tokens"""

    model: str
    messages: Annotated[list[InputMessage], Meta(min_length=1)]
    system: str | list[ResultBlock] | None = None
    tools: Annotated[list[MessageTool], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: JsonObject = UNSET
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # its older place


class MessagesRequest(CountTokensRequest, kw_only=True):
    """POST /v1/messages"""

    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKEN_ID)]
    stop_sequences: Annotated[list[StopText], Meta(max_length=MAX_STOP)] | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MAX_TOKEN_ID)] | None = None
    top_p: TopP | None = None


# As known_fields has them: name -> (why it is refused, values beside null that ask for nothing)
REFUSED: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "mcp_servers": ("the server calls no other servers; the client does", ([],)),
    "container": ("there are no containers", ()),
}
IGNORED: Mapping[str, str] = {
    "metadata": "nothing is stored",
    "service_tier": "there is one",
    "inference_geo": "the server is where it is",
    "context_management": "a context that is full is refused, with both numbers",
    "cache_control": "prefixes are found by their content",
    "betas": "a header of Anthropic's",
    "speed": "there is one",
    "diagnostics": "the log and /metrics have them",
    "user_profile_id": "nothing is done by user",
    "workspace_id": "nothing is done by user",
}
