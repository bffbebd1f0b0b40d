"""POST /v1/completions, with echo and logprobs as evaluation harnesses use them."""

import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llama4rt.errors import RequestError
from llama4rt.outputs import Delta, Progress, TokenLogprobs
from llama4rt.prompt_builder import PreparedPrompt
from llama4rt.server.chat import plain_prompt_logprobs, progress
from llama4rt.server.constraints import structured_output
from llama4rt.server.errors import ApiError
from llama4rt.server.http import dumps, json_reply, parsed
from llama4rt.server.job import Job
from llama4rt.server.logprobs import LogprobsWriter
from llama4rt.server.protocol import CompletionRequest
from llama4rt.server.sampling import from_request_error, sampling_params
from llama4rt.server.service import Service, new_id
from llama4rt.server.sse import DONE, EventStream, unless_disconnected

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionEndpoint:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: Request) -> "Response | ASGIApp":
        self._service.check_open()
        body = await parsed(request, CompletionRequest)
        completion = Completion(self._service, body)
        if not body.stream:
            reply = await unless_disconnected(self._service, request.receive, completion.run())
            request.state.details.update(completion.details())
            return json_reply(reply)
        await unless_disconnected(self._service, request.receive, completion.start())
        request.state.details.update(completion.details())
        return EventStream(
            self._service, completion.lines(), completion.close, lambda error: _line(error.body())
        )


class Completion:
    """One request's prompts being continued."""

    def __init__(self, service: Service, body: CompletionRequest) -> None:
        self._service = service
        self._body = body
        self._model = service.check_model(body.model)
        self._id = new_id("cmpl")
        self._created = int(time.time())
        self._job: Job | None = None
        # OpenAI's way to score a text: echo it and generate nothing.
        self._only_echo = bool(body.echo) and body.max_tokens == 0

    async def start(self) -> None:
        """ApiError for anything wrong with the request; afterwards its tokens are on their way."""
        body = self._body
        _refuse(body)
        prompts = await self._prepared()
        max_tokens = _DEFAULT_MAX_TOKENS if body.max_tokens is None else max(body.max_tokens, 1)
        more: dict[str, Any] = {}
        if body.echo and body.logprobs is not None:
            more["prompt_logprobs"] = body.logprobs
        more["structured"] = structured_output(body, body.response_format)
        params = sampling_params(body, max_tokens=max_tokens, logprobs=body.logprobs, **more)
        self._job = Job(self._service, prompts, params)
        try:
            await self._job.start()
        except RequestError as error:
            raise from_request_error(error) from None

    async def run(self) -> dict[str, Any]:
        await self.start()
        try:
            return await self._collected()
        finally:
            self.close()

    def close(self) -> None:
        if self._job is not None:
            self._job.close()

    def details(self) -> dict[str, Any]:
        job = self._job
        return {} if job is None else {"prompt_tokens": job.prompt_tokens, "output_tokens": job.output_tokens}

    async def _prepared(self) -> list[PreparedPrompt]:
        prompts: Any = self._body.prompt
        if isinstance(prompts, str) or isinstance(prompts[0], int):
            prompts = [prompts]
        if len(prompts) > self._service.options.max_prompts:
            raise ApiError(
                400,
                f"there are {len(prompts)} prompts; at most {self._service.options.max_prompts} are allowed",
                param="prompt",
            )
        try:
            return [await self._service.engine.prepare(prompt) for prompt in prompts]
        except RequestError as error:
            message = from_request_error(error)
            message.param = "prompt"
            raise message from None

    # --- the answer -----------------------------------------------------------------------------------------

    async def _collected(self) -> dict[str, Any]:
        job = self._job
        assert job is not None
        choices = [_Choice(self, i) for i in range(len(job.prompts) * job.params.n)]
        prompt_logprobs: dict[int, Any] = {}
        async for events in job.events():
            for index, event in events:
                if isinstance(event, Delta):
                    choices[index].add(event)
                    if event.prompt_logprobs is not None and self._body.prompt_logprobs is not None:
                        prompt_logprobs[index] = plain_prompt_logprobs(event)
        reply = [choice.whole() for choice in choices]
        for index, value in prompt_logprobs.items():
            reply[index]["prompt_logprobs"] = value
        return {**self._head(), "choices": reply, "usage": self._usage(job)}

    async def lines(self) -> AsyncGenerator[bytes, None]:
        job, body = self._job, self._body
        assert job is not None
        options = body.stream_options
        with_usage = options is not None and bool(options.include_usage)
        usage: dict[str, Any] = {"usage": None} if with_usage else {}
        head = self._head()
        choices = [_Choice(self, i) for i in range(len(job.prompts) * job.params.n)]
        started = time.perf_counter()
        async for events in job.events():
            out = []
            for index, event in events:
                if isinstance(event, Progress):
                    out.append(_line({**head, "choices": [], **usage, **progress(event, started)}))
                    continue
                choice = choices[index]
                choice.add(event)
                piece = choice.take()
                if piece is not None:
                    out.append(_line({**head, "choices": [piece], **usage}))
            if out:
                yield b"".join(out)
        if with_usage:
            yield _line({**head, "choices": [], "usage": self._usage(job)})
        yield DONE

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
            "system_fingerprint": self._service.fingerprint,
        }

    def _usage(self, job: Job) -> dict[str, Any]:
        usage = job.usage()
        if self._only_echo:
            usage |= {"completion_tokens": 0, "total_tokens": usage["prompt_tokens"]}
        return usage

    @property
    def job(self) -> Job:
        assert self._job is not None
        return self._job

    @property
    def body(self) -> CompletionRequest:
        return self._body

    @property
    def only_echo(self) -> bool:
        return self._only_echo

    def writer(self) -> LogprobsWriter:
        tokenizer = self._service.engine.engine.tokenizer
        if tokenizer is None:
            raise ApiError(400, "logprobs need a tokenizer, and this engine file has none", param="logprobs")
        return LogprobsWriter(tokenizer)

    def echoed(self, index: int) -> str:
        prompt = self.job.prompts[index // self.job.params.n]
        if prompt.text is not None:
            return prompt.text
        tokenizer = self._service.engine.engine.tokenizer
        return tokenizer.decode(prompt.token_ids) if tokenizer is not None else ""


class _Choice:
    """One output as it grows. take() hands out what has come since the last time."""

    def __init__(self, completion: Completion, index: int) -> None:
        self._completion = completion
        self._index = index
        self._text: list[str] = []
        self._entries: list[tuple[int, TokenLogprobs | None]] = []
        self._reason: str | None = None
        self._stop_reason: int | str | None = None
        self._offset = 0  # of the text that comes next
        self._echo = bool(completion.body.echo)

    def add(self, delta: Delta) -> None:
        if self._echo:
            self._echo = False
            self._text.append(self._completion.echoed(self._index))
        if delta.prompt_logprobs is not None and self._completion.body.echo:
            ids = self._completion.job.prompts[self._index // self._completion.job.params.n].token_ids
            self._entries += list(zip(ids, delta.prompt_logprobs, strict=True))
        if delta.finish_reason is not None:
            self._reason, self._stop_reason = delta.finish_reason, delta.stop_reason
        if self._completion.only_echo:
            return
        self._text.append(delta.text)
        self._entries += [(entry.token_id, entry) for entry in delta.logprobs or ()]

    def take(self) -> dict[str, Any] | None:
        if not any(self._text) and not self._entries and self._reason is None:
            return None
        piece = self.whole()
        self._text, self._entries = [], []
        return piece

    def whole(self) -> dict[str, Any]:
        text = "".join(self._text)
        logprobs = None
        if self._completion.body.logprobs is not None:
            with_top = self._completion.body.logprobs > 0
            logprobs = self._completion.writer().completion(self._entries, with_top, self._offset)
        self._offset += len(text)
        return {
            "index": self._index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": self._reason,
            "stop_reason": self._stop_reason,
        }


def _refuse(body: CompletionRequest) -> None:
    if body.suffix:
        raise ApiError(
            400, "suffix is not supported: the model continues, it does not fill in", param="suffix"
        )
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise ApiError(
            400, f"best_of is {body.best_of} and n is {body.n or 1}; they must be equal", param="best_of"
        )
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens is 0; without echo it must be at least 1", param="max_tokens")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream to be true", param="stream_options")


def _line(value: Any) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"
