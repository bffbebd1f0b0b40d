"""Turns the native events of one request into Deltas: text, stop strings, log-probabilities.

Lives in the engine thread; the reader of the Deltas lives elsewhere and gets them through `deliver`.
"""

from collections.abc import Callable, Sequence
from typing import cast

from llama4rt._core import Event
from llama4rt.engine.outputs import Delta, FinishReason, Progress, TokenLogprobs
from llama4rt.engine.sampling_params import SamplingParams
from llama4rt.errors import Llama4RTError, NumericError
from llama4rt.structured.guide import Guide
from llama4rt.text.detokenizer import Detokenizer, unfinished_bytes
from llama4rt.text.tokenizer import Tokenizer

# A Delta, Progress before the first one, the error that ended the request, or None after the last Delta.
Deliver = Callable[[Delta | Progress | BaseException | None], object]


class RequestTracker:
    """One running request."""

    def __init__(
        self,
        params: SamplingParams,
        tokenizer: Tokenizer | None,
        prompt_token_ids: Sequence[int],
        deliver: Deliver,
        name: str | None = None,
        guides: Sequence[Guide] = (),
    ) -> None:
        self.deliver = deliver
        self._name = name
        self._guides = guides
        self._params = params
        self._prompt_token_ids = prompt_token_ids
        self._text = [self._detokenizer(tokenizer) for _ in range(params.n)]
        self._open = set(range(params.n))
        self._told = False  # of the end
        self._started: set[int] = set()
        self._tokens_are_plain = params.logprobs is None

    @property
    def finished(self) -> bool:
        """The reader has been told of the end."""
        return self._told

    def on_event(self, event: Event, stop_sequence: Callable[[int, int], None]) -> None:
        """Delivers what the event means. stop_sequence(request id, index) is called when a stop string was found."""
        index = event.index
        if index not in self._open:
            return  # it ended at a stop string, and this is what was computed meanwhile
        token_id = event.only_token
        if token_id >= 0 and index in self._started and self._tokens_are_plain:
            self._deliver_token(event, index, token_id, stop_sequence)
        else:
            self._deliver_other(event, index, stop_sequence)

    def _deliver_token(
        self, event: Event, index: int, token_id: int, stop_sequence: Callable[[int, int], None]
    ) -> None:
        """What most events are, with as little work as possible."""
        if self._guides:
            self._guides[index].advance([token_id])
        detokenizer = self._text[index]
        text, stopped_by = "", None
        if detokenizer is not None:
            text, stopped_by = detokenizer.push(token_id), detokenizer.stopped_by
        request_id = event.request_id if self._name is None else self._name
        if stopped_by is None:
            self.deliver(Delta(request_id, index, text, [token_id]))
            return
        stop_sequence(event.request_id, index)
        self._open.discard(index)
        self.deliver(Delta(request_id, index, text, [token_id], None, "stop", stopped_by))
        if not self._open:
            self._end(None)

    def _deliver_other(self, event: Event, index: int, stop_sequence: Callable[[int, int], None]) -> None:
        """First and last events, those with log-probabilities, progress and errors."""
        if event.prompt_computed >= 0:
            total = len(self._prompt_token_ids)
            self.deliver(Progress(total, event.cached_tokens, event.prompt_computed))
            return
        if event.finish_reason == "error":
            kind = NumericError if event.not_finite else Llama4RTError
            grammar = next((guide.failure for guide in self._guides if guide.failure is not None), None)
            self.fail(grammar or kind(event.error or "the request failed"))
            return
        token_ids = event.token_ids
        if self._guides and token_ids and not event.finish_reason:
            self._guides[index].advance(token_ids)  # first: the mask behind them is wanted in the next step
        text_of = self._text[index]
        text = ""
        if text_of:
            text, shown = _text_until_stop(text_of, token_ids)
            token_ids = token_ids[:shown]
        finish_reason = cast("FinishReason | None", event.finish_reason or None)
        stop_reason: int | str | None = event.stop_token_id if event.stop_token_id >= 0 else None
        if finish_reason is not None and text_of:
            text += text_of.finish()
        if text_of and text_of.stopped_by is not None:
            if finish_reason is None:
                stop_sequence(event.request_id, index)
            finish_reason, stop_reason = "stop", text_of.stopped_by
        if finish_reason is not None:
            self._open.discard(index)
        first = index not in self._started
        self._started.add(index)
        self.deliver(
            Delta(
                request_id=self._name if self._name is not None else event.request_id,
                index=index,
                text=text,
                token_ids=token_ids,
                logprobs=self._logprobs(event, len(token_ids)),
                finish_reason=finish_reason,
                stop_reason=stop_reason,
                prompt_logprobs=self._prompt_logprobs(event),
                num_cached_tokens=event.cached_tokens if first else None,
                guessed=event.guessed,
                guessed_right=event.guessed_right,
            )
        )
        if not self._open:
            self._end(None)

    def fail(self, error: BaseException) -> None:
        """Ends the request from outside: the engine failed or was closed."""
        self._open.clear()
        if not self._told:
            self._end(error)

    def _end(self, last: BaseException | None) -> None:
        self.deliver(last)
        self._told = True  # after it: where there is no memory to deliver, this is tried again

    def _detokenizer(self, tokenizer: Tokenizer | None) -> Detokenizer | None:
        if tokenizer is None:
            return None
        params = self._params
        return Detokenizer(
            tokenizer,
            stop=params.stop_strings,
            min_tokens=params.min_tokens,
            include_stop=params.include_stop_str_in_output,
            skip_special_tokens=params.skip_special_tokens,
            before=unfinished_bytes(tokenizer, self._prompt_token_ids),
        )

    def _logprobs(self, event: Event, count: int) -> list[TokenLogprobs] | None:
        if self._params.logprobs is None:
            return None
        return [
            TokenLogprobs(token_id, logprob, tuple(top))
            for token_id, (logprob, top) in zip(event.token_ids[:count], event.logprobs[:count], strict=True)
        ]

    def _prompt_logprobs(self, event: Event) -> list[TokenLogprobs | None] | None:
        if event.prompt_logprobs is None:
            return None
        entries: list[TokenLogprobs | None] = [None]
        for token_id, (logprob, top) in zip(self._prompt_token_ids[1:], event.prompt_logprobs, strict=True):
            entries.append(TokenLogprobs(token_id, logprob, tuple(top)))
        return entries


def _text_until_stop(text_of: Detokenizer, token_ids: Sequence[int]) -> tuple[str, int]:
    """The text of a step's tokens and how many of them belong to it: what comes behind a stop string was chosen too
    early.
    """
    texts = []
    for token_id in token_ids:
        texts.append(text_of.push(token_id))
        if text_of.stopped_by is not None:
            break
    return "".join(texts), len(texts)
