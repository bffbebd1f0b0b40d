"""SamplingParams: how one request chooses its tokens, checked when it is made.

Names and meanings are vLLM's. A field left at None takes the checkpoint's own default from its
generation_config.json, and a neutral value where that says nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from llama4rt.errors import RequestError
from llama4rt.structured.structured_output import StructuredOutput

MAX_TOKENS_DEFAULT = 256
MAX_STOP_STRINGS = 64
MAX_STOP_CHARS = 1024
MAX_STOP_IDS = 1024
MAX_ALLOWED_IDS = 1 << 18  # more than any vocabulary has
MAX_BAD_WORDS = 128
MAX_LOGPROBS = 20
MAX_N = 16
MAX_LOGIT_BIAS = 300  # entries
_INT32_MAX = 2**31 - 1
_SEED_MAX = 2**64 - 1

_P = TypeVar("_P")


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose tokens. Immutable; every field is checked at construction (RequestError)."""

    temperature: float | None = None  # 0: greedy; None: the checkpoint's default, else 1.0
    top_k: int | None = None  # 0 or -1: off; None: the checkpoint's default, else off
    top_p: float | None = None  # (0, 1]; None: the checkpoint's default, else 1.0
    min_p: float = 0.0  # [0, 1]
    typical_p: float = 1.0  # (0, 1]; 1: off. Locally typical sampling, of what the others have left
    repetition_penalty: float | None = None  # over prompt and output; None: the checkpoint's, else 1.0
    presence_penalty: float = 0.0  # [-2, 2], over output
    frequency_penalty: float = 0.0  # [-2, 2], over output
    logit_bias: Mapping[int, float] | None = None  # token id -> [-100, 100]
    allowed_token_ids: Sequence[int] | None = (
        None  # no other token may come, end tokens neither; None: all may
    )
    bad_words: Sequence[
        str
    ] = ()  # texts that do not come, as the tokenizer writes them with a blank before and without
    seed: int | None = None  # None: a different one for each request
    stop: str | Sequence[str] = ()  # text that ends the output
    stop_token_ids: Sequence[int] = ()  # beside the model's own end tokens
    min_tokens: int = 0  # neither end tokens nor stop strings count before this many tokens
    max_tokens: int | None = MAX_TOKENS_DEFAULT  # None: the checkpoint's, or to the end of the context
    ignore_eos: bool = False
    n: int = 1  # independent outputs of one prompt
    logprobs: int | None = None  # 0: of the chosen token; k: and of the k best
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    structured: StructuredOutput | None = None  # what the output must follow; see llama4rt.structured
    prediction: str | None = None  # what the output may be like: an engine that speculates is faster then
    adapter: str | None = None  # the name of a loaded adapter (Engine.load_adapter); None: the model as it is
    report_progress: bool = False  # AsyncEngine.start then delivers Progress for each chunk of a long prompt

    def __post_init__(self) -> None:
        self._check_float("temperature", 0.0, 100.0, optional=True)
        self._check_int("top_k", -1, _INT32_MAX, optional=True)
        self._check_float("top_p", 0.0, 1.0, optional=True, open_low=True)
        self._check_float("min_p", 0.0, 1.0)
        self._check_float("typical_p", 0.0, 1.0, open_low=True)
        self._check_float("repetition_penalty", 0.0, 100.0, optional=True, open_low=True)
        self._check_float("presence_penalty", -2.0, 2.0)
        self._check_float("frequency_penalty", -2.0, 2.0)
        self._check_int("seed", -(2**63), _SEED_MAX, optional=True)
        self._check_int("min_tokens", 0, _INT32_MAX)
        self._check_int("max_tokens", 1, _INT32_MAX, optional=True)
        self._check_int("n", 1, MAX_N)
        self._check_int("logprobs", 0, MAX_LOGPROBS, optional=True)
        self._check_int("prompt_logprobs", 0, MAX_LOGPROBS, optional=True)
        for name in ("ignore_eos", "skip_special_tokens", "include_stop_str_in_output", "report_progress"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} is {_show(getattr(self, name))}; it must be True or False")
        self._set("stop", self._checked_texts("stop", MAX_STOP_STRINGS, MAX_STOP_CHARS))
        self._set("stop_token_ids", self._checked_ids("stop_token_ids", MAX_STOP_IDS) or ())
        self._set("bad_words", self._checked_texts("bad_words", MAX_BAD_WORDS, MAX_STOP_CHARS))
        self._set("allowed_token_ids", self._checked_ids("allowed_token_ids", MAX_ALLOWED_IDS))
        if self.allowed_token_ids == ():
            raise RequestError("allowed_token_ids is empty; it must name at least one token, or be None")
        self._set("logit_bias", self._checked_logit_bias())
        if self.prediction is not None and not isinstance(self.prediction, str):
            raise RequestError(f"prediction is {_show(self.prediction)}; it must be None or a string")
        if self.adapter is not None and not isinstance(self.adapter, str):
            raise RequestError(f"adapter is {_show(self.adapter)}; it must be None or the name of an adapter")
        self._check_structured()
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens is {self.min_tokens}; it must not exceed max_tokens, {self.max_tokens}"
            )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple, whichever way it was given."""
        return self.stop  # type: ignore[return-value]  # __post_init__ made it a tuple

    def _check_structured(self) -> None:
        if self.structured is None:
            return
        if not isinstance(self.structured, StructuredOutput):
            raise RequestError(f"structured is {_show(self.structured)}; it must be a StructuredOutput")
        for name in ("ignore_eos", "min_tokens"):  # the grammar says where the output ends
            if getattr(self, name):
                raise RequestError(f"{name} is {getattr(self, name)}; it cannot go with structured output")
        for name in ("allowed_token_ids", "bad_words"):  # it would wait for a token that may not come
            if getattr(self, name):
                raise RequestError(
                    f"{name} cannot go with structured output, whose grammar says what may come"
                )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_int(self, name: str, low: int, high: int, *, optional: bool = False) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        number = _as_int(value)
        if number is None or not low <= number <= high:
            none = "None or " if optional else ""
            raise RequestError(f"{name} is {_show(value)}; it must be {none}an integer in [{low}, {high}]")
        self._set(name, number)

    def _check_float(
        self, name: str, low: float, high: float, *, optional: bool = False, open_low: bool = False
    ) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        number = _as_float(value)
        if number is None or not low <= number <= high or (open_low and number == low):
            none = "None or " if optional else ""
            bracket = "(" if open_low else "["
            raise RequestError(
                f"{name} is {_show(value)}; it must be {none}a number in {bracket}{low:g}, {high:g}]"
            )
        self._set(name, number)

    def _checked_texts(self, name: str, most: int, most_chars: int) -> tuple[str, ...]:
        given = getattr(self, name)
        strings = (given,) if isinstance(given, str) else given
        if strings is None:
            return ()
        if not isinstance(strings, Sequence) or isinstance(strings, (bytes, bytearray)):
            raise RequestError(f"{name} is {_show(given)}; it must be a string or a list of strings")
        if len(strings) > most:
            raise RequestError(f"{name} has {len(strings)} strings; at most {most} are allowed")
        for i, text in enumerate(strings):
            if not isinstance(text, str) or not 1 <= len(text) <= most_chars:
                what = f"{len(text)} characters long" if isinstance(text, str) else _show(text)
                raise RequestError(
                    f"{name}[{i}] is {what}; it must be a string of 1 to {most_chars} characters"
                )
        return tuple(strings)

    def _checked_ids(self, name: str, most: int) -> tuple[int, ...] | None:
        ids = getattr(self, name)
        if ids is None:
            return None
        if not isinstance(ids, Sequence) or isinstance(ids, (str, bytes, bytearray)):
            raise RequestError(f"{name} is {_show(ids)}; it must be a list of token ids")
        if len(ids) > most:
            raise RequestError(f"{name} has {len(ids)} entries; at most {most} are allowed")
        return tuple(_token_id(f"{name}[{i}]", value) for i, value in enumerate(ids))

    def _checked_logit_bias(self) -> dict[int, float] | None:
        bias = self.logit_bias
        if bias is None:
            return None
        if not isinstance(bias, Mapping):
            raise RequestError(f"logit_bias is {_show(bias)}; it must map token ids to numbers")
        if len(bias) > MAX_LOGIT_BIAS:
            raise RequestError(f"logit_bias has {len(bias)} entries; at most {MAX_LOGIT_BIAS} are allowed")
        checked = {}
        for key, value in bias.items():
            number = _as_float(value)
            if number is None or not -100 <= number <= 100:
                raise RequestError(
                    f"logit_bias[{_show(key)}] is {_show(value)}; it must be a number in [-100, 100]"
                )
            checked[_token_id("a logit_bias key", key)] = number
        return checked


def check_params(params: object) -> SamplingParams:
    """RequestError with the way to write it, for what is none."""
    if isinstance(params, SamplingParams):
        return params
    if isinstance(params, Mapping):
        inside = ", ".join(f"{name!s:.40}={_show(value)}" for name, value in list(params.items())[:3])
        raise RequestError(f"params is a dict; write SamplingParams({inside})")
    raise RequestError(f"params is a {type(params).__name__}; it must be a SamplingParams")


def params_for_each(
    prompts: Sequence[_P], params: SamplingParams | Sequence[SamplingParams] | None
) -> list[tuple[_P, SamplingParams]]:
    """One for all or one for each."""
    if params is None:
        return [(prompt, SamplingParams()) for prompt in prompts]
    if isinstance(params, SamplingParams) or not isinstance(params, (list, tuple)):
        one = check_params(params)
        return [(prompt, one) for prompt in prompts]
    if len(params) != len(prompts):
        raise RequestError(
            f"there are {len(prompts)} prompts and {len(params)} SamplingParams; give one or as many"
        )
    return [(prompt, check_params(own)) for prompt, own in zip(prompts, params, strict=True)]


@dataclass(frozen=True)
class SamplingDefaults:
    """What None means for one checkpoint; read from its generation_config.json."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None  # max_new_tokens there; None: to the end of the context

    @staticmethod
    def from_generation_config(config: Mapping[str, Any]) -> "SamplingDefaults":
        """Values out of range are an error here, at open, rather than in every request."""
        keys = {f.name: f.name for f in fields(SamplingDefaults)} | {"max_tokens": "max_new_tokens"}
        given: dict[str, Any] = {"max_tokens": None}  # not SamplingParams' own default
        given |= {name: config[key] for name, key in keys.items() if config.get(key) is not None}
        try:
            params = SamplingParams(**given)
        except RequestError as error:
            raise RequestError(f"generation_config.json: {error}") from None
        if config.get("do_sample") is False:  # transformers then ignores the temperature
            params = SamplingParams(**{**given, "temperature": 0.0})
        return SamplingDefaults(
            **{name: getattr(params, name) for name in keys if getattr(params, name) is not None}
        )


def _as_int(value: Any) -> int | None:
    """The exact int of an int-like (numpy integers too), or None. A bool is not a number here."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if (
        not hasattr(value, "__index__")
        or isinstance(value, bool)
        or type(value).__name__ in ("bool", "bool_")
    ):
        return None
    try:
        return int(value.__index__())
    except TypeError:
        return None


def _as_float(value: Any) -> float | None:
    """A finite float of a number, or None."""
    if isinstance(value, (bool, str, bytes)) or type(value).__name__ in ("bool_", "complex"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _token_id(name: str, value: Any) -> int:
    number = _as_int(value)
    if number is None or not 0 <= number <= _INT32_MAX:
        raise RequestError(f"{name} is {_show(value)}; it must be a token id, an integer of at least 0")
    return number


def _show(value: Any) -> str:
    """A short, safe repr: a huge int or a hostile object does not fill the message."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
