"""Log-probabilities in the two forms of OpenAI's API."""

from collections.abc import Sequence
from typing import Any

from llama4rt.engine.outputs import TokenLogprobs
from llama4rt.text.tokenizer import Tokenizer

_LOWEST = -9999.0  # JSON has no infinity: what a probability of 0 is called by vLLM too


class LogprobsWriter:
    """Turns token ids into the texts that clients see."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def token(self, token_id: int) -> str:
        return self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")

    def chat(self, entries: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
        """Entries of choices[].logprobs.content."""
        return [
            {
                **self._entry(entry.token_id, entry.logprob),
                "top_logprobs": [self._entry(token_id, logprob) for token_id, logprob in entry.top],
            }
            for entry in entries
        ]

    def completion(
        self, entries: Sequence[tuple[int, TokenLogprobs | None]], with_top: bool, offsets: Sequence[int]
    ) -> dict[str, Any]:
        """choices[].logprobs of /v1/completions. entries: (token id, its log-probabilities); None for the first token
        of a prompt. offsets: where each begins in the text.
        """
        return {
            "tokens": [self.token(token_id) for token_id, _ in entries],
            "token_logprobs": [None if entry is None else _finite(entry.logprob) for _, entry in entries],
            "top_logprobs": [
                None if entry is None else self._top(entry) for _, entry in entries
            ] if with_top else None,
            "text_offset": list(offsets),
        }  # fmt: skip

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        """The best tokens, and the one that stands there if it is not among them."""
        top = {self.token(token_id): _finite(logprob) for token_id, logprob in reversed(entry.top)}
        top.setdefault(self.token(entry.token_id), _finite(entry.logprob))
        return top

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token_id)
        return {"token": data.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(data)}


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST)


def plain_prompt_logprobs(entries: Sequence[TokenLogprobs | None]) -> list[Any]:
    """vLLM's form: for each prompt token {token id: {"logprob"}}, null for the first."""
    return [
        None if entry is None else {
            str(token_id): {"logprob": max(logprob, _LOWEST)}
            for token_id, logprob in [*entry.top, (entry.token_id, entry.logprob)]
        }
        for entry in entries
    ]  # fmt: skip
