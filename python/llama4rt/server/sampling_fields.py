"""From a request's fields to SamplingParams."""

import re
from typing import Any

from llama4rt.engine.sampling_params import SamplingParams
from llama4rt.errors import RequestError
from llama4rt.server.api_errors import ApiError
from llama4rt.server.protocol import Sampling

_PLAIN = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "n", "min_tokens", "ignore_eos", "skip_special_tokens", "include_stop_str_in_output", "prompt_logprobs",
)  # fmt: skip
_FIRST_WORD = re.compile(r"[a-z_]+")


def sampling_params(
    body: Sampling, *, max_tokens: int | None, logprobs: int | None, **more: Any
) -> SamplingParams:
    """ApiError 400 for what is out of range."""
    fields: dict[str, Any] = {name: value for name in _PLAIN if (value := getattr(body, name)) is not None}
    if body.stop is not None:
        fields["stop"] = body.stop
    if body.stop_token_ids is not None:
        fields["stop_token_ids"] = body.stop_token_ids
    if body.logit_bias:
        fields["logit_bias"] = {_token_id(key): value for key, value in body.logit_bias.items()}
    if body.return_progress and body.stream:
        fields["report_progress"] = True
    try:
        return SamplingParams(max_tokens=max_tokens, logprobs=logprobs, **(fields | more))
    except RequestError as error:
        raise from_request_error(error) from None


def from_request_error(error: RequestError) -> ApiError:
    """The engine's own refusals: their first word is the field, where they concern one."""
    message = str(error)
    first = _FIRST_WORD.match(message)
    param = first.group() if first and first.group() in _FIELDS else None
    if "max_model_len" in message:
        return ApiError(400, message, param=param or "messages", code="context_length_exceeded")
    return ApiError(400, message, param=param)


_FIELDS = frozenset(_PLAIN) | {
    "max_tokens",
    "stop",
    "stop_token_ids",
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
