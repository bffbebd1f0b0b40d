"""POST /v1/completions, with echo and logprobs as evaluation harnesses use them."""

import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llama4rt.engine.outputs import Delta, Progress, TokenLogprobs
from llama4rt.errors import RequestError
from llama4rt.server.api_errors import ApiError
from llama4rt.server.constraints import structured_output
from llama4rt.server.generated_reply import GeneratedReply, StreamedUsage, prompt_progress, respond
from llama4rt.server.http import parsed
from llama4rt.server.logprobs import LogprobsWriter, plain_prompt_logprobs
from llama4rt.server.open_json import MAX_TOKENS, prompts
from llama4rt.server.protocol import CompletionRequest
from llama4rt.server.sampling_fields import from_request_error, sampling_params, wanted_tokens
from llama4rt.server.service import Service
from llama4rt.server.sse import DONE, TextLine, data_line
from llama4rt.server.truncation import truncated
from llama4rt.text.detokenizer import TextOffsets, unfinished_bytes
from llama4rt.text.prompt_builder import PreparedPrompt

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionEndpoint:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: Request) -> "Response | ASGIApp":
        self._service.check_open()
        body = await parsed(request, CompletionRequest, self._service)
        return await respond(
            self._service, request, CompletionReply(self._service, body), stream=bool(body.stream)
        )


class CompletionReply(GeneratedReply):
    """One request's prompts being continued."""

    def __init__(self, service: Service, body: CompletionRequest) -> None:
        super().__init__(service, body.model, "cmpl-")
        self.body = body
        self.logprobs: LogprobsWriter | None = None
        self.prompt_logprobs: dict[int, list[TokenLogprobs | None]] = {}  # by prompt
        # OpenAI's way to score a text: echo it and generate nothing.
        self.only_echo = bool(body.echo) and body.max_tokens == 0
        self.max_tokens = wanted_tokens(body, _DEFAULT_MAX_TOKENS, max_tokens=body.max_tokens or None)

    async def start(self) -> None:
        body = self.body
        _refuse(body)
        if body.logprobs is not None:
            self.logprobs = LogprobsWriter(self._tokenizer("logprobs"))
        prepared = await self._prepared()
        max_tokens = 1 if self.only_echo else self.max_tokens
        more: dict[str, Any] = {}
        if body.echo and body.logprobs is not None:
            more["prompt_logprobs"] = body.logprobs
        more["structured"] = structured_output(body, body.response_format)
        params = sampling_params(body, max_tokens=max_tokens, logprobs=body.logprobs, **more)
        await self._start_generation(prepared, params)

    async def _prepared(self) -> list[PreparedPrompt]:
        engine, cut = self._service.engine, self.body.truncate_prompt_tokens
        given = prompts(
            self.body.prompt,
            max_prompts=self._service.options.max_prompts,
            max_tokens=engine.max_model_len if cut is None else max(MAX_TOKENS, engine.max_model_len),
        )
        try:
            prepared = [await engine.prepare(prompt) for prompt in given]
        except RequestError as error:
            message = from_request_error(error)
            message.param = "prompt"
            raise message from None
        return [truncated(p, cut, self.max_tokens, engine.max_model_len) for p in prepared]

    # --- the reply ------------------------------------------------------------------------------------------

    async def collected(self) -> dict[str, Any]:
        generation = self.generation
        choices = [_Choice(self, i) for i in range(len(generation.prompts) * generation.params.n)]
        prompt_logprobs: dict[int, Any] = {}
        async for events in generation.events():
            for index, event in events:
                if isinstance(event, Delta):
                    choices[index].add(event)
                    if event.prompt_logprobs is not None and self.body.prompt_logprobs is not None:
                        prompt_logprobs[index] = plain_prompt_logprobs(event.prompt_logprobs)
        reply = [choice.whole() for choice in choices]
        for index, value in prompt_logprobs.items():
            reply[index]["prompt_logprobs"] = value
        return {**self._head("text_completion"), "choices": reply, "usage": self.usage()}

    async def lines(self) -> AsyncGenerator[bytes, None]:
        generation = self.generation
        streamed = StreamedUsage(self.body.stream_options, self.usage)
        head = self._head("text_completion")
        choices = [_Choice(self, i) for i in range(len(generation.prompts) * generation.params.n)]
        started = time.perf_counter()

        def written(choice: _Choice) -> bytes:
            piece = choice.take()
            if piece is None:
                return b""
            if piece["logprobs"] is None and piece["finish_reason"] is None and not streamed.in_each:
                line: TextLine = texts[piece["index"]]
                return line(piece["text"])
            return data_line({**head, "choices": [piece], **streamed.field()})

        texts: list[TextLine] = [
            TextLine(lambda text, i=i: {**head, "choices": [_piece(i, text)], **streamed.field()})  # type: ignore[misc]
            for i in range(len(choices))
        ]
        async for events in generation.events():
            out = []
            changed: dict[int, _Choice] = {}
            for index, event in events:
                if isinstance(event, Progress):
                    progress = prompt_progress(event, started)
                    out.append(data_line({**head, "choices": [], **streamed.field(), **progress}))
                    continue
                choice = changed[index] = choices[index]
                choice.add(event)
                if streamed.in_each:
                    out.append(written(choice))
            out += map(written, changed.values())
            if any(out):
                yield b"".join(out)
        if streamed.at_end:
            yield data_line({**head, "choices": [], "usage": self.usage()})
        yield DONE

    def usage(self) -> dict[str, Any]:
        usage = super().usage()
        if self.only_echo:
            usage |= {"completion_tokens": 0, "total_tokens": usage["prompt_tokens"]}
        return usage

    def prompt_of(self, index: int) -> PreparedPrompt:
        return self.generation.prompts[index // self.generation.params.n]

    def echoed(self, index: int) -> str:
        """The prompt's text; without a character that its last tokens only begin, which the output brings."""
        prompt, tokenizer = self.prompt_of(index), self._service.engine.tokenizer
        if prompt.text is not None:
            return prompt.text
        if tokenizer is None:
            return ""
        skip = self.generation.params.skip_special_tokens
        text = tokenizer.decode(prompt.token_ids, skip_special_tokens=skip)
        unfinished = not self.only_echo and unfinished_bytes(tokenizer, prompt.token_ids)
        return text[:-1] if unfinished else text

    def offsets(self, index: int, *, from_prompt: bool) -> TextOffsets:
        """For the tokens of the prompt and then the output, or of the output alone, in the text that comes back."""
        prompt, tokenizer = self.prompt_of(index), self._tokenizer("logprobs")
        skipped = tokenizer.special_ids if self.generation.params.skip_special_tokens else frozenset()
        if from_prompt:
            first = prompt.token_ids[0]
            begin = tokenizer.token_bytes(first).decode("utf-8", "replace")
            if prompt.text is not None and not prompt.text.startswith(begin):
                skipped |= {first}  # begin-of-text, which the text did not say
            return TextOffsets(tokenizer, skipped)
        start = len(self.echoed(index)) if self.body.echo else 0
        return TextOffsets(tokenizer, skipped, start, unfinished_bytes(tokenizer, prompt.token_ids))


class _Choice:
    """One output as it grows. take() hands out what has come since the last time."""

    def __init__(self, completion: CompletionReply, index: int) -> None:
        self._completion = completion
        self._index = index
        self._text: list[str] = []
        self._entries: list[tuple[int, TokenLogprobs | None]] = []
        self._reason: str | None = None
        self._stop_reason: int | str | None = None
        self._offsets: TextOffsets | None = None
        self._begun = False

    def add(self, delta: Delta) -> None:
        completion = self._completion
        if not self._begun:
            self._begun = True
            self._begin(delta)
        if delta.finish_reason is not None:
            self._reason, self._stop_reason = delta.finish_reason, delta.stop_reason
        if completion.only_echo:
            return
        self._text.append(delta.text)
        self._entries += [(entry.token_id, entry) for entry in delta.logprobs or ()]

    def _begin(self, delta: Delta) -> None:
        completion = self._completion
        echoed: list[tuple[int, TokenLogprobs | None]] = []
        if completion.body.echo:
            self._text.append(completion.echoed(self._index))
            prompt = completion.prompt_of(self._index)
            # The engine says them once, with the first output of the prompt; each choice gets them.
            if delta.prompt_logprobs is not None:
                completion.prompt_logprobs[id(prompt)] = delta.prompt_logprobs
            found = completion.prompt_logprobs.get(id(prompt))
            echoed = list(zip(prompt.token_ids, found or (), strict=bool(found)))
        self._entries += echoed
        if completion.logprobs is not None:
            self._offsets = completion.offsets(self._index, from_prompt=bool(echoed))

    def take(self) -> dict[str, Any] | None:
        if not any(self._text) and not self._entries and self._reason is None:
            return None
        piece = self.whole()
        self._text, self._entries = [], []
        return piece

    def whole(self) -> dict[str, Any]:
        text = "".join(self._text)
        logprobs = None
        writer, top = self._completion.logprobs, self._completion.body.logprobs
        if writer is not None and self._offsets is not None:
            offsets = [self._offsets.push(token_id) for token_id, _ in self._entries]
            logprobs = writer.completion(self._entries, bool(top), offsets)
        return _piece(self._index, text, logprobs, self._reason, self._stop_reason)


def _piece(
    index: int,
    text: str,
    logprobs: dict[str, Any] | None = None,
    finish_reason: str | None = None,
    stop_reason: int | str | None = None,
) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
        "stop_reason": stop_reason,
    }


def _refuse(body: CompletionRequest) -> None:
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise ApiError(
            400, f"best_of is {body.best_of} and n is {body.n or 1}; they must be equal", param="best_of"
        )
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens is 0; without echo it must be at least 1", param="max_tokens")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream to be true", param="stream_options")
