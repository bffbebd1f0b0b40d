"""From a request's fields to SamplingParams."""

import re
from typing import Any

from llama4rt.engine.prepared_request import NO_LIMIT
from llama4rt.engine.sampling_params import SamplingParams
from llama4rt.errors import RequestError
from llama4rt.server.api_errors import ApiError
from llama4rt.server.open_json import given, logit_bias, token_ids
from llama4rt.server.protocol import Sampling
from llama4rt.workers.child_pool import ChildrenBusy

_PLAIN = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed", "n", "min_tokens", "ignore_eos", "skip_special_tokens", "include_stop_str_in_output",
    "prompt_logprobs", "stop", "bad_words",
)  # fmt: skip
# llama.cpp's names
_ALIASES = {"repeat_penalty": "repetition_penalty", "n_cmpl": "n"}
_MAX_STOP_IDS = 1024
_MAX_ALLOWED_IDS = 1 << 18  # more than any vocabulary has
_PART = re.compile(r"\bmessages\[(\d+)\], part (\d+)")
_ITEM = re.compile(r"\b(messages|tools)\[(\d+)\]")
_FIRST_WORD = re.compile(r"[a-z_]+")


def sampling_params(
    body: Sampling, *, max_tokens: int | None, logprobs: int | None, **more: Any
) -> SamplingParams:
    """ApiError 400 for what is out of range."""
    if body.prompt_logprobs is not None and body.stream:  # as vLLM
        raise ApiError(
            400, "prompt_logprobs comes with whole replies; stream is true", param="prompt_logprobs"
        )
    fields: dict[str, Any] = {name: value for name in _PLAIN if (value := getattr(body, name)) is not None}
    for alias, name in _ALIASES.items():
        value = getattr(body, alias)
        if value is not None:
            _check_alone(alias, value, name, fields.setdefault(name, value))
    for name, limit in (("stop_token_ids", _MAX_STOP_IDS), ("allowed_token_ids", _MAX_ALLOWED_IDS)):
        ids = given(getattr(body, name))
        if ids is not None:
            fields[name] = token_ids(ids, name, limit)
    biases = logit_bias(body.logit_bias)
    if biases:
        fields["logit_bias"] = {_token_id(key): value for key, value in biases.items()}
    if body.return_progress and body.stream:
        fields["report_progress"] = True
    try:
        return SamplingParams(max_tokens=max_tokens, logprobs=logprobs, **(fields | more))
    except RequestError as error:
        raise from_request_error(error) from None


def wanted_tokens(body: Sampling, default: int | None, **fields: int | None) -> int | None:
    """How many tokens the answer may have, from `fields` and llama.cpp's n_predict; None: as many as the model's own
    generation config says, or else to the end of the context.
    """
    named = {name: value for name, value in fields.items() if value is not None}
    if body.n_predict is not None:
        if body.n_predict == 0:
            raise ApiError(400, "n_predict is 0; it must be -1 or at least 1", param="n_predict")
        for name, value in named.items():
            _check_alone("n_predict", body.n_predict, name, value)
        return NO_LIMIT if body.n_predict < 0 else body.n_predict
    return next(iter(named.values()), default)


def _check_alone(alias: str, value: Any, name: str, other: Any) -> None:
    if value != other:
        raise ApiError(400, f"{alias} is {value} and {name} is {other}: they mean the same", param=alias)


def from_request_error(error: RequestError) -> ApiError:
    """The engine's own refusals: their first word is the field, where they concern one."""
    message = _in_the_words_of_http(str(error))
    if isinstance(error, ChildrenBusy):
        return ApiError(429, message)
    first = _FIRST_WORD.match(message)
    param = first.group() if first and first.group() in _FIELDS else None
    if "max_model_len" in message:
        return ApiError(400, message, param=param or "messages", code="context_length_exceeded")
    return ApiError(400, message, param=param)


def _in_the_words_of_http(message: str) -> str:
    """Places as JSON has them, and options as the command line has them."""
    message = _PART.sub(r"messages.\1.content.\2", message)
    message = _ITEM.sub(r"\1.\2", message)
    return message.replace("open it with allow_image_urls=True", "llama4rt serve --allow-image-urls")


_FIELDS = frozenset(_PLAIN) | {
    "max_tokens",
    "stop_token_ids",
    "allowed_token_ids",
    "logit_bias",
    "logprobs",
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
}


def _token_id(key: str) -> int:
    if not re.fullmatch(r"\d{1,10}", key, re.ASCII):
        raise ApiError(400, f"logit_bias: the key {key!r:.40} is not a token id", param="logit_bias")
    return int(key)
