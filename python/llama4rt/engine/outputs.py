"""What generation hands back: whole results (RequestOutput) and steps of a stream (Delta)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# "stop": an end token, a stop string or a grammar's end; "length": max_tokens or the context; "abort": from outside
FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log-probability of one token, and of the best ones at its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), best first


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to one output of a request.

    A token's text can come with a later Delta (half a UTF-8 character, or what may still become a stop
    string), so `text` is sometimes empty; all texts joined are exactly the output's text.
    """

    request_id: int | str
    index: int  # which of the n outputs
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None  # with the last Delta of this index
    stop_reason: int | str | None = None  # the token id or the stop string that ended it, when one did
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # with the first Delta, when asked for
    num_cached_tokens: int | None = None  # prompt tokens found in the prefix cache; with the first Delta
    guessed: int = 0  # tokens that were guessed and computed beside the latest one (docs/speculation.md)
    guessed_right: int = 0  # of those: the ones that came


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the prompt of a request is; comes before the first Delta, when SamplingParams.report_progress asks."""

    total: int  # prompt tokens
    cached: int  # found in the prefix cache
    processed: int  # done, cached ones included


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The log-probabilities of a prompt's tokens, each given all tokens before it."""

    first: int  # place in the prompt of the first one scored
    logprobs: "NDArray[np.float32]"  # [tokens]
    top_ids: "NDArray[np.int32]"  # [tokens, top] the likeliest tokens at each place, best first
    top_logprobs: "NDArray[np.float32]"  # [tokens, top]
    num_cached_tokens: int  # prompt tokens found in the prefix cache


@dataclass(slots=True)
class CompletionOutput:
    """One of a request's n outputs."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None  # one entry per token
    finish_reason: FinishReason | None = None  # None while it grows
    stop_reason: int | str | None = None


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its outputs."""

    request_id: int | str
    prompt: str | None  # None when the prompt came as token ids
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # entry 0 is None: nothing comes before it
    num_cached_tokens: int = 0
    finished: bool = False
    num_guessed_tokens: int = 0  # of all outputs: guessed, and computed to see whether they come
    num_guessed_right: int = 0  # of those: the ones that came

    @property
    def text(self) -> str:
        """Of the first output, which is the only one unless `n` asked for more."""
        return self.outputs[0].text


@dataclass(slots=True)
class _Growing:
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


class OutputBuilder:
    """Adds up Deltas of one request. Used by whoever reads them, never by two threads at once."""

    def __init__(
        self, request_id: int | str, prompt: str | None, prompt_token_ids: Sequence[int], n: int
    ) -> None:
        self._request_id = request_id
        self._prompt = prompt
        self._prompt_token_ids = list(prompt_token_ids)
        self._outputs = [_Growing() for _ in range(n)]
        self._prompt_logprobs: list[TokenLogprobs | None] | None = None
        self._num_cached_tokens = 0
        self._num_guessed_tokens = self._num_guessed_right = 0

    @property
    def finished(self) -> bool:
        return all(output.finish_reason is not None for output in self._outputs)

    def add(self, delta: Delta) -> None:
        output = self._outputs[delta.index]
        output.texts.append(delta.text)
        output.token_ids += delta.token_ids
        if delta.logprobs is not None:
            if output.logprobs is None:
                output.logprobs = []
            output.logprobs += delta.logprobs
        if delta.finish_reason is not None:
            output.finish_reason = delta.finish_reason
            output.stop_reason = delta.stop_reason
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = delta.prompt_logprobs
        self._num_guessed_tokens += delta.guessed
        self._num_guessed_right += delta.guessed_right
        if delta.num_cached_tokens is not None and delta.index == 0:
            self._num_cached_tokens = delta.num_cached_tokens

    def snapshot(self) -> RequestOutput:
        """All so far; what is returned does not change when more is added."""
        for output in self._outputs:
            output.texts = ["".join(output.texts)]
        return RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt,
            prompt_token_ids=self._prompt_token_ids,
            outputs=[
                CompletionOutput(
                    index=i,
                    text=output.texts[0],
                    token_ids=list(output.token_ids),
                    logprobs=None if output.logprobs is None else list(output.logprobs),
                    finish_reason=output.finish_reason,
                    stop_reason=output.stop_reason,
                )
                for i, output in enumerate(self._outputs)
            ],
            prompt_logprobs=self._prompt_logprobs,
            num_cached_tokens=self._num_cached_tokens,
            finished=self.finished,
            num_guessed_tokens=self._num_guessed_tokens,
            num_guessed_right=self._num_guessed_right,
        )
