"""What clients may send: OpenAI's request bodies, with vLLM's and llama.cpp's extra fields by their names.

Checked here is the form; what a number may be is SamplingParams' business. msgspec reads a body in one pass and stops
at the first thing that is wrong. What may be of any form (schemas, arguments) or long (token ids) stays Raw, the bytes
as they came, until open_json has looked at its size. Fields that are not here are the business of known_fields.
"""

from functools import cache
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

MAX_STOP = 16
MAX_STOP_CHARS = 256
MAX_NEW_ITEMS = 20  # of a conversation, at once, as OpenAI has it
MAX_TOKEN_ID = 2**31 - 1


def _open(schema: dict[str, Any], description: str) -> Meta:
    """For a Raw field: what the OpenAPI document says of it."""
    return Meta(extra_json_schema=schema, description=description)


_OBJECT = {"type": ["object", "null"]}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID}}
StopText = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
TokenCount = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
# Next to 0 it would make logits infinite.
RepetitionPenalty = Annotated[float, Meta(ge=0.01, le=100)]
OutputCount = Annotated[int, Meta(ge=1, le=16)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
TokenIds = Annotated[Raw | UnsetType, _open({**_IDS, "type": ["array", "null"]}, "token ids")]
JsonObject = Annotated[Raw | UnsetType, _open(_OBJECT, "an object")]
JsonSchema = Annotated[Raw | UnsetType, _open({}, "a JSON schema: an object, true, or its text")]
# Clients send it, and nothing here follows from it.
Ignored = Annotated[Raw | UnsetType, _open({}, "not read")]


class Body(Struct, kw_only=True):
    """Of any object in a request."""


@cache
def field_names() -> frozenset[str]:
    """Of all objects in requests, as clients write them."""
    kinds = list(Body.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
    return frozenset(name for kind in kinds for name in kind.__struct_encode_fields__)


class StreamOptions(Body, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Ignored = UNSET  # streams are not padded


class JsonSchemaFormat(Body, kw_only=True):
    name: str | None = None
    description: str | None = None
    schema_: JsonSchema = field(default=UNSET, name="schema")
    strict: bool | None = None


class ResponseFormat(Body, kw_only=True):
    type: Literal["text", "json_object", "json_schema", "regex", "choice", "grammar"]
    json_schema: JsonSchemaFormat | None = None
    schema_: JsonSchema = field(default=UNSET, name="schema")  # llama.cpp's, of json_object and json_schema
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class Sampling(Body, kw_only=True):
    """Fields that all generating endpoints share."""

    model: str | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: OutputCount | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=MAX_STOP)] | None = None
    logit_bias: Annotated[
        Raw | UnsetType,
        _open(
            {"type": ["object", "null"], "additionalProperties": {"type": "number"}, "maxProperties": 300},
            "biases",
        ),
    ] = UNSET
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # vLLM's
    top_k: Annotated[int, Meta(ge=-1, le=MAX_TOKEN_ID)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: RepetitionPenalty | None = None
    min_tokens: TokenCount | None = None
    stop_token_ids: TokenIds = UNSET
    allowed_token_ids: TokenIds = UNSET
    bad_words: Annotated[list[StopText], Meta(max_length=128)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: TopLogprobs | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=MAX_TOKEN_ID)] | None = None
    guided_json: JsonSchema = UNSET
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: JsonObject = UNSET  # vLLM's newer form of the four above
    # llama.cpp's
    return_progress: bool | None = None
    typical_p: TopP | None = None
    repeat_penalty: RepetitionPenalty | None = None  # its name of repetition_penalty
    n_predict: Annotated[int, Meta(ge=-1, le=MAX_TOKEN_ID)] | None = None  # of max_tokens; -1: no limit
    n_cmpl: OutputCount | None = None  # of n
    json_schema: JsonSchema = UNSET  # of guided_json
    grammar: str | None = None  # of guided_grammar


class ImageUrl(Body, kw_only=True):
    url: str
    detail: Ignored = UNSET


class Part(Body, kw_only=True):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    file_data: str | None = None  # of an input_file
    filename: str | None = None
    detail: Ignored = UNSET
    annotations: Ignored = UNSET
    logprobs: Ignored = UNSET
    cache_control: Ignored = UNSET


class CalledFunction(Body, kw_only=True):
    name: str
    arguments: Annotated[
        Raw | UnsetType, _open({"type": ["string", "object", "null"]}, "JSON, or its text")
    ] = UNSET


class ToolCall(Body, kw_only=True):
    function: CalledFunction
    id: str | None = None
    type: str | None = None
    index: Ignored = UNSET


class ChatMessage(Body, kw_only=True):
    role: Annotated[str, Meta(min_length=1, max_length=64)]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    # An assistant's message, as it came out of a client's library.
    refusal: Ignored = UNSET
    annotations: Ignored = UNSET
    audio: Ignored = UNSET
    function_call: Ignored = UNSET
    reasoning: Ignored = UNSET
    reasoning_content: Ignored = UNSET


FunctionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}(?![\s\S])")]


class FunctionDefinition(Body, kw_only=True):
    name: FunctionName
    description: str | None = None
    parameters: JsonObject = UNSET
    strict: bool | None = None


class Tool(Body, kw_only=True):
    type: Literal["function"]
    function: FunctionDefinition
    cache_control: Ignored = UNSET


class NamedFunction(Body, kw_only=True):
    name: str


class NamedTool(Body, kw_only=True):
    type: Literal["function"]
    function: NamedFunction


class Prediction(Body, kw_only=True):
    type: Literal["content"]
    content: str | list[Part]


class ChatRequest(Sampling, kw_only=True):
    """POST /v1/chat/completions"""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKEN_ID)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKEN_ID)] | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: JsonObject = UNSET
    prediction: Prediction | None = None


PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {**_IDS, "minItems": 1},
        {"type": "array", "items": {**_IDS, "minItems": 1}, "minItems": 1},
    ]
}


class CompletionRequest(Sampling, kw_only=True):
    """POST /v1/completions"""

    prompt: Annotated[Raw, _open(PROMPT_SCHEMA, "a text, texts, token ids, or lists of token ids")]
    max_tokens: TokenCount | None = None
    echo: bool | None = None
    logprobs: TopLogprobs | None = None
    best_of: OutputCount | None = None
    response_format: ResponseFormat | None = None


class InputItem(Body, kw_only=True):
    """One of a response's `input`: a message, a call, or what a call gave."""

    type: str = "message"
    role: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None
    input: str | None = None  # of a custom tool's call
    id: Ignored = UNSET
    status: Ignored = UNSET
    phase: Ignored = UNSET
    summary: Ignored = UNSET
    encrypted_content: Ignored = UNSET


class CustomFormat(Body, kw_only=True):
    """Of the text that a custom tool takes."""

    type: str
    syntax: Ignored = UNSET
    definition: Ignored = UNSET


class ResponseTool(Body, kw_only=True):
    type: str
    format: CustomFormat | None = None
    name: FunctionName | None = None
    description: str | None = None
    parameters: JsonObject = UNSET
    strict: bool | None = None


class AllowedTool(Body, kw_only=True):
    type: str
    name: str | None = None


class ResponseToolChoice(Body, kw_only=True):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None  # with tools: of type "allowed_tools"
    tools: list[AllowedTool] | None = None


class TextFormat(Body, kw_only=True):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: JsonSchema = field(default=UNSET, name="schema")
    strict: bool | None = None


class TextOptions(Body, kw_only=True):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None  # OpenAI's default, and the only one there is


class ConversationName(Body, kw_only=True):
    id: str


class ResponsesRequest(Sampling, kw_only=True):
    """POST /v1/responses"""

    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKEN_ID)] | None = None
    top_logprobs: TopLogprobs | None = None
    include: list[str] | None = None
    text: TextOptions | None = None
    tools: Annotated[list[ResponseTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: JsonObject = UNSET  # comes back
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationName | None = None


class ConversationRequest(Body, kw_only=True):
    """POST /v1/conversations, and of one, whose items have a path of their own"""

    items: Annotated[list[InputItem], Meta(max_length=MAX_NEW_ITEMS)] | None = None
    metadata: JsonObject = UNSET


class ConversationItems(Body, kw_only=True):
    """POST /v1/conversations/{id}/items"""

    items: Annotated[list[InputItem], Meta(min_length=1, max_length=MAX_NEW_ITEMS)]


class TokenizeRequest(Body, kw_only=True):
    """POST /tokenize: a text, or a conversation as the chat template writes it"""

    model: str | None = None
    content: str | None = None  # llama.cpp's form of prompt, with the two below; its reply is llama.cpp's
    add_special: bool | None = None
    with_pieces: bool | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: JsonObject = UNSET
    return_token_strs: bool | None = None


class DetokenizeRequest(Body, kw_only=True):
    """POST /detokenize"""

    model: str | None = None
    tokens: Annotated[Raw, _open({**_IDS, "maxItems": 1 << 19}, "token ids")]
