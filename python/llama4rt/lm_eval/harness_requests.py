"""What the evaluation harness asks, answered by an Engine: log-likelihoods of continuations and of whole texts, and
texts that go on until a stop string. Meanings are those of the harness's own models; nothing here imports it.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama4rt.engine.engine import Engine
from llama4rt.engine.sampling_params import SamplingParams
from llama4rt.errors import RequestError
from llama4rt.text.tokenizer import require_tokenizer

_CONTEXTS_AT_ONCE = 64  # of them the prefix cache keeps what they share
_MAX_GEN_TOKS = 256  # the harness's default
_GENERATION = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p"}

Progress = Callable[[int], object]  # takes how many further requests are done


@dataclass(frozen=True)
class _Scored:
    """A prompt of which the tokens from `first` on are asked for."""

    ids: tuple[int, ...]
    first: int

    @property
    def context(self) -> tuple[int, ...]:
        return self.ids[: self.first]


class HarnessRequests:
    """begin_token: texts begin with the model's begin-of-text, as prompts do."""

    def __init__(self, engine: Engine, *, begin_token: bool = True) -> None:
        self._engine = engine
        self._tokenizer = require_tokenizer(engine.tokenizer, "the evaluation harness")
        self._begin_token = begin_token
        self._rendered: dict[str, list[int]] = {}  # what apply_chat_template wrote -> its tokens
        self._lengths: list[int] = []  # of those texts, longest first

    @property
    def begin_id(self) -> int:
        """What stands in front of a text that has no context: begin-of-text, or an end token where there is none."""
        begin = int(self._engine.config.get("bos_token_id", -1))
        return begin if begin >= 0 else int(self._engine.config["eos_token_ids"][0])

    def encode(self, text: str) -> list[int]:
        """Tokens of a context, or of a context and what follows it. Control tokens come from a chat template alone."""
        length = self._rendered_length(text)
        if length:
            return self._rendered[text[:length]] + self._tokenizer.encode(text[length:])
        if not text or not self._begin_token:
            return self._tokenizer.encode(text)
        return self._engine.encode_prompt(text)

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        """A conversation as text. encode() knows it again, so that its control tokens stay what they are."""
        ids = self._engine.apply_chat_template(
            list(messages),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        text = b"".join(map(self._tokenizer.token_bytes, ids)).decode("utf-8", "replace")
        if text not in self._rendered:
            self._rendered[text] = ids
            if len(text) not in self._lengths:
                self._lengths = sorted([*self._lengths, len(text)], reverse=True)
        return text

    def _rendered_length(self, text: str) -> int:
        """Characters at the front of the text that a chat template wrote."""
        return next((length for length in self._lengths if text[:length] in self._rendered), 0)

    # --- log-likelihoods ------------------------------------------------------------------------------------

    def loglikelihood(
        self, pairs: Sequence[tuple[str, str]], done: Progress | None = None
    ) -> list[tuple[float, bool]]:
        """Of each (context, continuation): log p of the continuation's tokens, and whether each of them is the
        likeliest in its place.
        """
        return self.loglikelihood_tokens([self._encode_pair(*pair) for pair in pairs], done)

    def loglikelihood_tokens(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], done: Progress | None = None
    ) -> list[tuple[float, bool]]:
        prompts = [self._prompt(list(context), list(continuation)) for context, continuation in pairs]
        found = self._score(prompts, done)
        return [found[prompt] for prompt in prompts]

    def loglikelihood_rolling(self, texts: Sequence[str], done: Progress | None = None) -> list[float]:
        """log p of all tokens of each text, each predicted once, from as much context as the model takes in windows
        that do not overlap in what they predict.
        """
        windows = [list(self._windows(self._tokenizer.encode(text))) for text in texts]
        found = self._score([window for of_text in windows for window in of_text], None)
        sums = []
        for of_text in windows:
            sums.append(sum(found[window][0] for window in of_text))
            if done:
                done(1)
        return sums

    def _windows(self, ids: list[int]) -> Iterator[_Scored]:
        """Inputs are max_model_len - 1 tokens long: their last prediction is checked too. The first is the begin token;
        of a last, shorter part the window begins that much earlier.
        """
        length = self._engine.max_model_len - 1
        if not ids:
            return
        first = min(length, len(ids))
        yield _Scored((self.begin_id, *ids[:first]), 1)
        for begin in range(first, len(ids), length):
            end = min(begin + length, len(ids))
            start = end - length - 1
            yield _Scored(tuple(ids[start:end]), begin - start)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Blanks at the end of the context belong to the continuation: tokens begin with blanks. Not those of a chat
        template, which end a turn's header.
        """
        if not context:
            ids = self._tokenizer.encode(continuation)
            if ids and ids[0] == self.begin_id:
                return ids[:1], ids[1:]
            return [self.begin_id], ids
        kept = max(len(context.rstrip()), self._rendered_length(context))
        if kept:  # all blanks: nothing would be left to condition on
            context, continuation = context[:kept], context[kept:] + continuation
        whole, front = self.encode(context + continuation), self.encode(context)
        return front, whole[len(front) :]

    def _prompt(self, context: list[int], continuation: list[int]) -> _Scored:
        if not continuation or not context:
            raise RequestError(
                "a log-likelihood needs a token of context and a token of continuation at least"
            )
        longest = self._engine.max_model_len
        if len(continuation) >= longest:
            raise RequestError(
                f"a continuation has {len(continuation)} tokens; max_model_len is {longest}, and one token of context "
                "goes before it"
            )
        ids = (context + continuation)[-longest:]  # what does not fit is cut from the front
        return _Scored(tuple(ids), len(ids) - len(continuation))

    def _score(self, prompts: Sequence[_Scored], done: Progress | None) -> dict[_Scored, tuple[float, bool]]:
        """Equal prompts are computed once. Of prompts with a common context one goes ahead, and the others find the
        context in the prefix cache.
        """
        counts: dict[_Scored, int] = {}
        by_context: dict[tuple[int, ...], list[_Scored]] = {}
        for prompt in prompts:
            if prompt not in counts:
                by_context.setdefault(prompt.context, []).append(prompt)
            counts[prompt] = counts.get(prompt, 0) + 1
        found: dict[_Scored, tuple[float, bool]] = {}
        groups = iter(by_context.values())
        while some := list(itertools.islice(groups, _CONTEXTS_AT_ONCE)):
            for batch in ([group[0] for group in some], [p for group in some for p in group[1:]]):
                if not batch:
                    continue
                scores = self._engine.score_tokens(
                    [prompt.ids for prompt in batch], first=[prompt.first for prompt in batch], top=1
                )
                for prompt, score in zip(batch, scores, strict=True):
                    greedy = score.top_ids[:, 0].tolist() == list(prompt.ids[prompt.first :])
                    found[prompt] = (float(score.logprobs.sum(dtype="float64")), greedy)
                if done:
                    done(sum(counts[prompt] for prompt in batch))
        return found

    # --- generation -----------------------------------------------------------------------------------------

    def generate_until(
        self, requests: Sequence[tuple[str, Mapping[str, Any]]], done: Progress | None = None
    ) -> list[str]:
        """Of each (context, options) the text that follows, without the stop string that ended it."""
        prompts, params = [], []
        for context, options in requests:
            own = self._sampling(options)
            ids = self.encode(context)
            room = self._engine.max_model_len - (own.max_tokens or 1)
            if room < 1:
                raise RequestError(
                    f"max_gen_toks is {own.max_tokens}; max_model_len is {self._engine.max_model_len}, and a token of "
                    "context goes before them"
                )
            prompts.append(ids[-room:])
            params.append(own)
        texts = []
        for first in range(0, len(prompts), _CONTEXTS_AT_ONCE):
            some = slice(first, first + _CONTEXTS_AT_ONCE)
            outputs = self._engine.generate(prompts[some], params[some])
            texts += [output.outputs[0].text for output in outputs]
            if done:
                done(len(outputs))
        return texts

    def _sampling(self, options: Mapping[str, Any]) -> SamplingParams:
        """do_sample false, or no word about it and no temperature, is greedy, as in the harness's other models."""
        unknown = sorted(set(options) - _GENERATION)
        if unknown:
            raise RequestError(
                f"generation option {unknown[0]!r} is not known; known are {', '.join(sorted(_GENERATION))}"
            )
        until = options.get("until") or []
        temperature = options.get("temperature")
        if options.get("do_sample") is False or temperature is None:
            temperature = 0.0 if not options.get("do_sample") else 1.0
        given = {name: options[name] for name in ("top_p", "top_k", "min_p") if options.get(name) is not None}
        return SamplingParams(
            max_tokens=int(options.get("max_gen_toks", _MAX_GEN_TOKS)),
            temperature=float(temperature),
            stop=[until] if isinstance(until, str) else [text for text in until if text],
            repetition_penalty=1.0,
            **given,
        )


__all__ = ["HarnessRequests"]
