"""Fields of other servers and of OpenAI's own that have no meaning here: refused by name, or ignored with a reason.

What is obeyed is a member of a class of protocol. A field in none of the three is unknown. docs/serving.md says the
same in words; tests/python/test_server_fields.py holds the lists of the OpenAI SDK, vLLM and llama-server against it.
"""

import difflib
import functools
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from llama4rt.server.anthropic import protocol as anthropic
from llama4rt.server.api_errors import ApiError, of_msgspec
from llama4rt.server.llama_cpp.protocol import LlamaCompletionRequest
from llama4rt.server.ollama import protocol as ollama
from llama4rt.server.protocol import (
    Body,
    ChatRequest,
    CompletionRequest,
    ResponsesRequest,
    TokenizeRequest,
    field_names,
)

_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`")
_MAX_NEUTRAL = 64  # bytes of a value that may say "not at all"

# name -> (why it is refused, values beside null that ask for nothing)
Refused = Mapping[str, tuple[str, tuple[Any, ...]]]

_NO_SAMPLER = "there is no such sampler"
_ONE_FORM = "replies have one form"

_REFUSED_SAMPLING: Refused = {
    # vLLM's
    "use_beam_search": ("there is no beam search", (False,)),
    "length_penalty": ("there is no beam search", (1,)),
    "watermarking": ("there is no watermark", (False,)),
    "truncation_side": ("prompts are cut on the left", ("left",)),
    "logprob_token_ids": ("use logprobs with top_logprobs", ([],)),
    "cache_salt": ("the prefix cache is shared by all requests", ()),
    "priority": ("all requests have the same", (0,)),
    "prompt_embeds": ("a prompt is text or token ids", ([],)),
    "mm_processor_kwargs": ("pictures are read as the checkpoint says", ({},)),
    "media_io_kwargs": ("pictures are read as the checkpoint says", ({},)),
    "kv_transfer_params": ("one process computes a request", ({},)),
    "ec_transfer_params": ("one process computes a request", ({},)),
    "vllm_xargs": ("there are no extensions", ({},)),
    "logits_processors": ("there are no extensions", ([],)),
    "repetition_detection": ("use repetition_penalty, and max_tokens", ()),
    "thinking_token_budget": ("the model does not reason apart from its answer", (-1,)),
    "return_tokens_as_token_ids": ("logprobs name tokens by their text and bytes", (False,)),
    "return_token_ids": ("use /tokenize", (False,)),
    "stream_interval": ("what is ready is sent", (1,)),
    "routed_experts_prompt_start": ("experts are not returned", (0,)),
    "guided_whitespace_pattern": ("JSON is written in one way", ()),
    # llama.cpp's
    "dynatemp_range": (_NO_SAMPLER, (0,)),
    "dry_multiplier": (_NO_SAMPLER, (0,)),
    "xtc_probability": (_NO_SAMPLER, (0,)),
    "mirostat": (_NO_SAMPLER, (0,)),
    "top_n_sigma": (_NO_SAMPLER, (-1,)),
    "tfs_z": (_NO_SAMPLER, (1,)),
    "adaptive_target": (_NO_SAMPLER, (-1,)),
    "samplers": ("their order is fixed", ()),
    "min_keep": ("samplers leave one token at least", (0, 1)),
    "repeat_last_n": ("repetition_penalty counts the whole context", (-1,)),
    "penalize_nl": ("repetition_penalty counts every token", (True,)),
    "n_indent": ("use guided_grammar", (0,)),
    "n_probs": ("use logprobs", (0,)),
    "post_sampling_probs": ("logprobs are the model's own", (False,)),
    "t_max_predict_ms": ("use max_tokens", (0, -1)),
    "return_tokens": ("use /tokenize", (False,)),
    "timings_per_token": ("/metrics has times", (False,)),
    "response_fields": (_ONE_FORM, ([],)),
    "sse_ping_interval": ("the server's heartbeat is for all streams", ()),
    "lora": ("there are no adapters", ([],)),
    "image_data": ("pictures are parts of messages", ([],)),
    "multimodal_data": ("pictures are parts of messages", ([],)),
    "reasoning_format": ("the model does not reason apart from its answer", ("none", "auto")),
    "reasoning_control": ("the model does not reason apart from its answer", (False,)),
    # Ollama's
    "options": ("its members are fields of the request itself, such as temperature", ({},)),
    "format": ("use response_format", ("",)),
    "think": ("the model does not reason apart from its answer", (False,)),
    "num_predict": ("use max_tokens", (-1,)),
    "num_ctx": ("llama4rt serve --max-model-len sets it", ()),
}
_REFUSED_CHAT: Refused = {
    "functions": ("use tools", ([],)),
    "function_call": ("use tool_choice", ()),
    "audio": ("there is no audio output", ()),
    "modalities": ("the output is text", (["text"],)),
    "moderation": ("nothing is moderated", ()),
    "web_search_options": ("there is no web search", ()),
    "reasoning_effort": ("the model does not reason apart from its answer", ("none",)),
    "verbosity": ("ask for it in a message", ("medium",)),
    "chat_template": ("the template belongs to the model", ()),
    "documents": ("write them into a message", ([],)),
    "echo": ("the reply is the new message", (False,)),
    "add_special_tokens": ("the template writes them", (False,)),
    "return_prompt_text": ("use /tokenize", (False,)),
}
_REFUSED_COMPLETION: Refused = {
    "suffix": ("the model continues, it does not fill in", ("",)),
    "add_special_tokens": ("a prompt of token ids is taken as it is", (True,)),
}
_REFUSED_RESPONSES: Refused = {
    "background": ("a request runs while its client waits", (False,)),
    "background_options": ("a request runs while its client waits", ()),
    "prompt": ("this server keeps no prompts", ()),
    "context_management": ("a context that is full ends the answer", ([],)),
    "access_programs": ("there are no programs", ([],)),
    "image": ("there is no picture output", ()),
    "moderation": ("nothing is moderated", ()),
    "reasoning": (
        "the model does not reason apart from its answer",
        ({}, {"effort": None}, {"effort": "none"}, {"effort": None, "summary": None}),
    ),
    "truncation": ("use truncate_prompt_tokens", ("disabled",)),
    "enable_response_messages": (_ONE_FORM, (False,)),
    "previous_input_messages": ("use previous_response_id", ([],)),
    "previous_response": ("use previous_response_id", ()),
}
_REFUSED_TOKENIZE: Refused = {
    "chat_template": _REFUSED_CHAT["chat_template"],
    "mm_processor_kwargs": _REFUSED_SAMPLING["mm_processor_kwargs"],
}
_IGNORED_SAMPLING: Mapping[str, str] = {
    "user": "nothing is done by user",
    "safety_identifier": "nothing is done by user",
    "request_id": "the header x-request-id names a request",
    "session_id": "requests are independent",
    "service_tier": "there is one",
    "store": "nothing is stored",
    "prompt_cache_key": "prefixes are found by their content",
    "prompt_cache_retention": "prefixes stay while there is room",
    "prompt_cache_options": "prefixes stay while there is room",
    "spaces_between_special_tokens": "the tokenizer puts none",
    "include_reasoning": "the model does not reason apart from its answer",
    "guided_decoding_backend": "there is one",
    "return_token_offsets": "of vLLM's render endpoints only",
    "return_mm_kwargs": "of vLLM's render endpoints only",
    "cache_prompt": "the prefix cache does not change answers",
    "n_cache_reuse": "the prefix cache does not change answers",
    "id_slot": "there are no slots",
    "keep_alive": "the model stays",
    "n_keep": "a context that is full ends the answer",
    "n_discard": "a context that is full ends the answer",
    "dynatemp_exponent": "without meaning where dynatemp_range is 0",
    "dry_base": "without meaning where dry_multiplier is 0",
    "dry_allowed_length": "without meaning where dry_multiplier is 0",
    "dry_penalty_last_n": "without meaning where dry_multiplier is 0",
    "dry_sequence_breakers": "without meaning where dry_multiplier is 0",
    "xtc_threshold": "without meaning where xtc_probability is 0",
    "mirostat_tau": "without meaning where mirostat is 0",
    "mirostat_eta": "without meaning where mirostat is 0",
    "adaptive_decay": "without meaning without adaptive_target",
}
_IGNORED_CHAT = {**_IGNORED_SAMPLING, "metadata": "nothing is stored"}
_IGNORED_RESPONSES = {
    **{name: why for name, why in _IGNORED_SAMPLING.items() if name != "store"},
    "max_tool_calls": "of OpenAI's own tools, of which there are none",
}

REFUSED: Mapping[type[Body], Refused] = {
    ChatRequest: {**_REFUSED_SAMPLING, **_REFUSED_CHAT},
    CompletionRequest: {**_REFUSED_SAMPLING, **_REFUSED_COMPLETION},
    ResponsesRequest: {**_REFUSED_SAMPLING, **_REFUSED_RESPONSES},
    TokenizeRequest: _REFUSED_TOKENIZE,
    LlamaCompletionRequest: {**_REFUSED_SAMPLING, **_REFUSED_COMPLETION},
    anthropic.MessagesRequest: anthropic.REFUSED,
    anthropic.CountTokensRequest: anthropic.REFUSED,
    ollama.OllamaChatRequest: ollama.REFUSED,
    ollama.OllamaGenerateRequest: ollama.REFUSED,
}
IGNORED: Mapping[type[Body], Mapping[str, str]] = {
    ChatRequest: _IGNORED_CHAT,
    CompletionRequest: _IGNORED_SAMPLING,
    ResponsesRequest: _IGNORED_RESPONSES,
    LlamaCompletionRequest: _IGNORED_SAMPLING,
    anthropic.MessagesRequest: anthropic.IGNORED,
    anthropic.CountTokensRequest: anthropic.IGNORED,
    ollama.OllamaChatRequest: ollama.IGNORED,
    ollama.OllamaGenerateRequest: ollama.IGNORED,
}


def check(
    kind: type[Body], data: bytes, members: Sequence[tuple[bytes, int, int]], *, strict: bool
) -> list[str]:
    """The names that nobody knows. members: (name as JSON, begin and end of the value in data) of the outermost object.

    ApiError 400 for what is refused, and with `strict` for what is unknown.
    """
    unknown = []
    refused, ignored = REFUSED.get(kind, {}), IGNORED.get(kind, {})
    for key, begin, end in members:
        name = str(_decoded(key, ""))
        if name in kind.__struct_encode_fields__ or name in ignored:
            continue
        if name not in refused:
            unknown.append(name)
            continue
        why, neutral = refused[name]
        if end - begin <= _MAX_NEUTRAL:
            value = _decoded(data[begin:end], name)
            if value is None or any(type(value) is type(n) and value == n for n in neutral):
                continue
            if isinstance(value, float) and any(value == n for n in neutral if type(n) is int):
                continue
        raise ApiError(400, f"{name} is not supported: {why}", param=name)
    if unknown and strict:
        known = [*kind.__struct_encode_fields__, *refused, *ignored]
        raise ApiError(
            400, f"unknown field {unknown[0]!r:.80}{nearest(unknown[0], known)}", param=unknown[0][:80]
        )
    return unknown


def _decoded(data: bytes, where: str) -> Any:
    """Also what msgspec passed over because nobody wanted it."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise of_msgspec(error, where) from None


def inner_hint(error: Exception) -> str:
    """A hint for msgspec's error about a field of an inner object, or nothing."""
    found = _UNKNOWN.search(str(error)[:500])
    return nearest(found.group(1), field_names()) if found else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an error, or nothing."""
    found = difflib.get_close_matches(name[:64], list(known), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


@functools.cache
def decoder(kind: type[Body], strict: bool) -> "msgspec.json.Decoder[Any]":
    """Reads a body. strict: objects inside it may have no fields that nobody knows; check() looks at the outermost."""
    return msgspec.json.Decoder(_strict_inside(kind) if strict else kind)


@functools.cache
def _strict_inside(kind: type[Body], outermost: bool = True) -> type[Body]:
    """`kind` as a class of its own whose members' classes know no other fields."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields: list[tuple[str, Any, Any]] = []
    for info in msgspec.structs.fields(kind):
        default = {} if info.required else {"default": info.default}
        own = msgspec.field(name=info.encode_name, **default)
        fields.append((info.name, _strict_type(hints[info.name]), own))
    made = msgspec.defstruct(
        kind.__name__, fields, bases=(kind,), kw_only=True, forbid_unknown_fields=not outermost
    )
    return typing.cast("type[Body]", made)


def _strict_type(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Body):
        return _strict_inside(annotation, False)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return functools.reduce(
            lambda kind, more: Annotated[kind, more], arguments[1:], _strict_type(arguments[0])
        )
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(lambda a, b: a | b, map(_strict_type, arguments))
    if origin is list:
        return list[_strict_type(arguments[0])]  # type: ignore[misc]
    return annotation
