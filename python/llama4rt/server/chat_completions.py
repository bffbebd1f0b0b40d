"""POST /v1/chat/completions"""

import re
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llama4rt.engine.outputs import Delta, Progress
from llama4rt.engine.sampling_params import SamplingParams
from llama4rt.errors import RequestError
from llama4rt.server.api_errors import ApiError
from llama4rt.server.calls.tool_shaper import ToolShaper
from llama4rt.server.chat_messages import plain_messages, predicted_text, template_options, text_size
from llama4rt.server.constraints import call_beside, forced_call, structured_output
from llama4rt.server.generated_reply import GeneratedReply, StreamedUsage, prompt_progress, respond
from llama4rt.server.http import parsed
from llama4rt.server.logprobs import LogprobsWriter, plain_prompt_logprobs
from llama4rt.server.protocol import ChatRequest
from llama4rt.server.sampling_fields import from_request_error, sampling_params, wanted_tokens
from llama4rt.server.service import Service
from llama4rt.server.shaping import PlainShaper, Shaper, joined_message
from llama4rt.server.sse import DONE, TextLine, data_line
from llama4rt.server.truncation import truncated
from llama4rt.text.prompt_builder import PreparedPrompt

_MESSAGE = re.compile(r"\bmessages\.(\d+)")


class ChatEndpoint:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: Request) -> "Response | ASGIApp":
        self._service.check_open()
        body = await parsed(request, ChatRequest, self._service)
        return await respond(self._service, request, ChatReply(self._service, body), stream=bool(body.stream))


@dataclass(frozen=True)
class Piece:
    """What one event of the engine adds to a message. logprobs: of its tokens, whose text may come later."""

    deltas: list[dict[str, Any]]
    logprobs: list[dict[str, Any]]
    reason: str | None
    stopped_by: int | str | None  # the token, or the stop string, with the reason


class ChatReply(GeneratedReply):
    """One conversation being answered."""

    def __init__(self, service: Service, body: ChatRequest, places: Sequence[str] = ()) -> None:
        """places: where the messages stand in the request that the client sent, if that is another."""
        super().__init__(service, body.model, "chatcmpl-")
        self._body = body
        self._places = places
        # That the model hears of, and whose calls are read.
        self._tools = () if body.tool_choice == "none" else tuple(body.tools or ())
        self._max_tokens = wanted_tokens(
            body, None, max_completion_tokens=body.max_completion_tokens, max_tokens=body.max_tokens
        )
        self._shapers: list[Shaper] = []
        self._logprobs: LogprobsWriter | None = None

    async def start(self) -> None:
        _refuse(self._body)
        prompt = await self.prepared()
        if self._body.logprobs:
            self._logprobs = LogprobsWriter(self._tokenizer("logprobs"))
        params = self._params()
        self._shapers = [self._shaper() for _ in range(params.n)]
        await self._start_generation([prompt], params)

    # --- before ---------------------------------------------------------------------------------------------

    async def prepared(self) -> PreparedPrompt:
        """The conversation as the template writes it."""
        try:
            return await self._prompt()
        except ApiError as error:
            if self._places:
                error.message = _MESSAGE.sub(self._place, error.message)
            raise

    def _place(self, found: re.Match[str]) -> str:
        i = int(found[1])
        return self._places[i] if i < len(self._places) else found[0]

    async def _prompt(self) -> PreparedPrompt:
        body, options = self._body, self._service.options
        engine = self._service.engine
        tokenizer = self._tokenizer("chat")
        check_text_size(text_size(body, self._tools), tokenizer.max_token_bytes, engine.max_model_len)
        messages = plain_messages(
            body.messages, max_messages=options.max_messages, max_images=options.max_images
        )
        try:
            prompt = await engine.prepare_chat(messages, **template_options(body, self._tools))
        except RequestError as error:
            raise from_request_error(error) from None
        return truncated(prompt, body.truncate_prompt_tokens, self._max_tokens, engine.max_model_len)

    def _params(self) -> SamplingParams:
        body = self._body
        more: dict[str, Any] = {}
        if body.prediction is not None:
            more["prediction"] = predicted_text(body.prediction)
        structured = structured_output(body, body.response_format)
        forced = forced_call(body)
        if forced is not None:
            # A response_format is for text, and there will be none: so OpenAI. The guided_ fields are for all there is.
            form = body.response_format
            if structured is not None and (form is None or form.type == "text"):
                raise ApiError(
                    400, "tool_choice forces a call; the reply can have no other form", param="tool_choice"
                )
            # A forced call always parses: nothing but its grammar ends it.
            more |= {"stop": (), "stop_token_ids": ()}
            structured = forced
        elif self._tools:
            # <|python_start|> says something; the shaper drops the others.
            more["skip_special_tokens"] = False
            if structured is not None and self._has_form():
                structured = structured.or_json(call_beside(body))
        return sampling_params(
            body,
            max_tokens=self._max_tokens,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            structured=structured,
            **more,
        )

    def _shaper(self) -> Shaper:
        if not self._tools:
            return PlainShaper()
        names = [tool.function.name for tool in self._tools]
        tokenizer = self._tokenizer("chat")
        return ToolShaper(
            names,
            tokenizer.special_pattern,
            single=self._body.parallel_tool_calls is False,
            only_first=self._has_form(),
        )

    def _has_form(self) -> bool:
        """Whether a response_format says how text must look."""
        form = self._body.response_format
        return form is not None and form.type != "text"

    # --- the reply ------------------------------------------------------------------------------------------

    async def collected(self) -> dict[str, Any]:
        generation = self.generation
        deltas: list[list[dict[str, Any]]] = [[] for _ in self._shapers]
        logprobs: list[list[dict[str, Any]]] = [[] for _ in self._shapers]
        reasons: list[str | None] = [None] * len(self._shapers)
        prompt_logprobs: Any = None
        async for events in generation.events():
            for index, event in events:
                if not isinstance(event, Delta):
                    continue
                shaped, reason = self._shaped(index, event)
                deltas[index] += shaped
                reasons[index] = reason or reasons[index]
                if self._logprobs is not None and event.logprobs:
                    logprobs[index] += self._logprobs.chat(event.logprobs)
                if event.prompt_logprobs is not None:
                    prompt_logprobs = plain_prompt_logprobs(event.prompt_logprobs)
        reply: dict[str, Any] = {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": i,
                    "message": joined_message(deltas[i]),
                    "logprobs": {"content": logprobs[i], "refusal": None}
                    if self._logprobs is not None
                    else None,
                    "finish_reason": reasons[i],
                }
                for i in range(len(deltas))
            ],
            "usage": self.usage(),
        }
        if prompt_logprobs is not None:
            reply["prompt_logprobs"] = prompt_logprobs
        return reply

    async def lines(self) -> AsyncGenerator[bytes, None]:
        streamed = StreamedUsage(self._body.stream_options, self.usage)
        head = self._head("chat.completion.chunk")
        chunks = _Chunks(head, len(self._shapers), streamed)
        started = time.perf_counter()
        async for events in self.generation.events():
            for index, event in events:
                if isinstance(event, Progress):
                    chunks.add({"choices": []}, prompt_progress(event, started))
                    continue
                deltas, reason = self._shaped(index, event)
                logprobs = None
                if self._logprobs is not None and event.logprobs:
                    logprobs = {"content": self._logprobs.chat(event.logprobs), "refusal": None}
                    deltas = deltas or [{"content": ""}]
                chunks.add_deltas(index, deltas, logprobs, reason)
            lines = chunks.take()
            if lines:
                yield lines
        if streamed.at_end:
            yield data_line({**head, "choices": [], "usage": self.usage()})
        yield DONE

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """What comes of a chat with one output, for other forms of it."""
        async for events in self.generation.events():
            out: list[Piece] = []
            for index, event in events:
                if isinstance(event, Delta):
                    deltas, reason = self._shaped(index, event)
                    logprobs = [] if self._logprobs is None else self._logprobs.chat(event.logprobs or ())
                    out.append(Piece(deltas, logprobs, reason, event.stop_reason))
            yield out

    def _shaped(self, index: int, event: Delta) -> tuple[list[dict[str, Any]], str | None]:
        shaper = self._shapers[index]
        deltas = shaper.push(event.text)
        if event.finish_reason is None:
            return deltas, None
        rest, reason = shaper.finish(event.finish_reason)
        return deltas + rest, reason


def check_text_size(characters: int, max_token_bytes: int, max_model_len: int) -> None:
    """No token is longer than max_token_bytes: what cannot fit is refused before it costs anything."""
    at_least = characters // max_token_bytes
    if at_least > max_model_len:
        raise ApiError(
            400,
            f"the messages, tools and chat_template_kwargs have {characters} characters, at least {at_least} tokens; "
            f"max_model_len is {max_model_len}",
            param="messages",
            code="context_length_exceeded",
        )


def _refuse(body: ChatRequest) -> None:
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream to be true", param="stream_options")


def _choice(
    index: int, delta: dict[str, Any], reason: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


class _Chunks:
    """Writes the chunks of one stream. Content of an output that comes together goes out as one."""

    def __init__(self, head: dict[str, Any], outputs: int, streamed: StreamedUsage) -> None:
        self._head = head
        self._streamed = streamed
        self._begun: set[int] = set()
        self._content: dict[int, str] = {}  # of outputs that have no more than content to say so far
        self._lines: list[bytes] = []
        self._text_lines = [
            TextLine(lambda text, i=i: self._chunk({"choices": [_choice(i, {"content": text})]}))  # type: ignore[misc]
            for i in range(outputs)
        ]

    def add_deltas(
        self, index: int, deltas: list[dict[str, Any]], logprobs: dict[str, Any] | None, reason: str | None
    ) -> None:
        """logprobs: go with the first delta."""
        if index not in self._begun:
            self._begun.add(index)
            self.add({"choices": [_choice(index, {"role": "assistant", "content": ""})]})
        for delta in deltas:
            if logprobs is None and delta.keys() == {"content"} and not self._streamed.in_each:
                self._content[index] = self._content.get(index, "") + delta["content"]
                continue
            self._write_content(index)
            self.add({"choices": [_choice(index, delta, None, logprobs)]})
            logprobs = None
        if reason is not None:
            self._write_content(index)
            self.add({"choices": [_choice(index, {}, reason)]})

    def add(self, fields: dict[str, Any], more: dict[str, Any] | None = None) -> None:
        self._lines.append(data_line(self._chunk(fields) | (more or {})))

    def take(self) -> bytes:
        """All that has come since the last time."""
        for index in list(self._content):
            self._write_content(index)
        lines, self._lines = self._lines, []
        return b"".join(lines)

    def _write_content(self, index: int) -> None:
        text = self._content.pop(index, None)
        if text is not None:
            self._lines.append(self._text_lines[index](text))

    def _chunk(self, fields: dict[str, Any]) -> dict[str, Any]:
        return self._head | fields | self._streamed.field()
