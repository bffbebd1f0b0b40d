"""AsyncEngine: the same Engine for asyncio.

The event loop never waits for the model: events come from the engine thread through call_soon_threadsafe, and
long texts and pictures are read in worker threads. Cancelling the task that reads a request, or leaving its loop,
ends the request.

When something dies:
- The engine's thread, or the engine in it (memory ran out, two steps in a row failed): each reader gets Llama4RTError
  within about a second, and so does each later call; open the engine anew.
- The event loop, closed with requests still running: the engine ends them at their next token and goes on. Requests of
  other loops notice nothing, and this AsyncEngine may be used in a new loop; it belongs to no loop.
"""

import asyncio
import itertools
import os
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from llama4rt.engine.async_inbox import Inbox, bell_of
from llama4rt.engine.engine import Engine, Images
from llama4rt.engine.outputs import Delta, OutputBuilder, Progress, RequestOutput
from llama4rt.engine.prepared_request import PreparedRequest
from llama4rt.engine.request_tracker import Deliver
from llama4rt.engine.sampling_params import SamplingParams
from llama4rt.errors import RequestError
from llama4rt.text.chat_data import Message
from llama4rt.text.chat_template import ChatTemplate
from llama4rt.text.prompt_builder import PreparedPrompt, Prompt, PromptWithPictures
from llama4rt.text.tokenizer import Tokenizer
from llama4rt.workers.client import Client, current_client, run_in_context, working_for

_WATCH_SECONDS = 1.0
_LONG_TEXT_CHARS = 2000  # about a millisecond of tokenizing


@dataclass(frozen=True, eq=False)
class Running:
    """A request that AsyncEngine.start has submitted."""

    request: PreparedRequest
    name: str
    hold: Callable[[bool], None]  # pauses it, or lets it go on
    close: Callable[[], None]  # frees what it holds, ended or not; more than once is harmless


class AsyncEngine:
    """AsyncEngine(path, **options of Engine), or AsyncEngine(engine) around an Engine that others use too.

    Readers get Llama4RTError when the engine is closed or fails for good, and so do later calls. It belongs to no event
    loop: requests of a loop that is closed are ended, those of others run on.
    """

    def __init__(self, engine: "Engine | str | os.PathLike[str]", **options: Any) -> None:
        self._owns_engine = not isinstance(engine, Engine)
        self.engine = engine if isinstance(engine, Engine) else Engine(engine, **options)
        self._active: dict[str, int | None] = {}  # request id -> native id; None while its prompt is prepared
        self._aborted_early: set[str] = set()
        self._watched: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._numbers = itertools.count()

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        images: Images | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yields all output so far, again and again until `finished`; slow readers get larger steps."""
        builder: OutputBuilder | None = None
        async with aclosing(self._batches(prompt, params, images, request_id)) as batches:
            async for request, name, deltas in batches:
                if builder is None:
                    builder = OutputBuilder(name, request.prompt, request.prompt_token_ids, request.params.n)
                for delta in deltas:
                    builder.add(delta)
                yield builder.snapshot()

    async def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        images: Images | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Yields only what each step adds, like Engine.stream."""
        async with aclosing(self._batches(prompt, params, images, request_id)) as batches:
            async for _, _, deltas in batches:
                for delta in deltas:
                    yield delta

    def abort(self, request_id: str) -> None:
        """Ends a request: its last output has finish_reason "abort". Unknown ids are ignored."""
        native_id = self._active.get(request_id)
        if native_id is not None:
            self.engine.abort(native_id)
        elif request_id in self._active:
            self._aborted_early.add(request_id)

    def close(self) -> None:
        """Ends running requests (their readers get Llama4RTError) and frees the engine, if it was opened here."""
        if self._owns_engine:
            self.engine.close()

    async def __aenter__(self) -> "AsyncEngine":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    async def start(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        deliver: Deliver,
        images: Images | None = None,
        request_id: str | None = None,
    ) -> "Running":
        """Submits a request for a caller with an inbox of its own. Whatever is wrong with it is raised here.

        deliver(item) is called in the engine thread, with each Delta (and Progress, when params ask for it), then
        with None, or with the error that ended the request. The caller must close() what this returns.
        """
        name = f"request-{next(self._numbers)}" if request_id is None else request_id
        if name in self._active:
            raise RequestError(f"a request with the id {name!r:.80} is running")
        self._active[name] = None
        try:
            request = await self._prepared(prompt, params or SamplingParams(), images)
            native_id = self.engine.submit(request, deliver, name)
        except BaseException:
            self._forget(name)
            raise
        self._active[name] = native_id
        self._start_watch()
        if name in self._aborted_early:
            self.engine.abort(native_id)
        return Running(
            request, name, partial(self.engine.hold, native_id), partial(self._end, name, native_id)
        )

    def _end(self, name: str, native_id: int) -> None:
        self._forget(name)
        self.engine.abandon(native_id)  # of no effect when it has ended

    def _start_watch(self) -> None:
        loop = asyncio.get_running_loop()
        if loop not in self._watched:
            self._watched.add(loop)
            loop.call_later(_WATCH_SECONDS, self._watch, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """While requests run: tells them should the engine's thread have died, and wakes readers that it had no memory
        to wake.
        """
        self.engine.reap()
        bell_of(loop).wake_all()
        if self._active:
            loop.call_later(_WATCH_SECONDS, self._watch, loop)
        else:
            self._watched.discard(loop)

    def _forget(self, name: str) -> None:
        self._active.pop(name, None)
        self._aborted_early.discard(name)

    async def _batches(
        self, prompt: Prompt, params: SamplingParams | None, images: Images | None, request_id: str | None
    ) -> AsyncGenerator[tuple[PreparedRequest, str, list[Delta]], None]:
        """Runs one request; yields all Deltas that have come since the last time, until it ends."""
        inbox: Inbox[Delta | Progress | BaseException | None] = Inbox()
        running = await self.start(prompt, params, deliver=inbox.put, images=images, request_id=request_id)
        try:
            ended = False
            while not ended:
                items = await inbox.wait()
                deltas = [item for item in items if isinstance(item, Delta)]
                if deltas:
                    yield running.request, running.name, deltas
                for item in items:
                    if isinstance(item, BaseException):
                        raise item
                    ended = ended or item is None
        finally:
            running.close()

    async def _prepared(
        self, prompt: Prompt, params: SamplingParams, images: Images | None
    ) -> PreparedRequest:
        prepared = await self.prepare(prompt, images=images)
        has_grammar = isinstance(params, SamplingParams) and params.structured is not None
        if has_grammar:  # which may have to be compiled
            # Whoever cancels this has left: nothing more is compiled for him.
            client = Client(current_client().name)
            try:
                with working_for(client):
                    return await asyncio.to_thread(self.engine.prepare_request, prepared, params)
            finally:
                client.gone.set()
        return self.engine.prepare_request(prepared, params)

    async def prepare(self, prompt: Prompt, *, images: Images | None = None) -> PreparedPrompt:
        """Engine.prepare beside the event loop: what generate, stream and start take as their prompt."""
        prompts = self.engine.prompts
        self.engine.check_usable()
        loaded = prompts.tokenizer_loaded or not isinstance(prompt, str)
        # Of ids each is looked at.
        short = not isinstance(prompt, (str, list)) or (loaded and len(prompt) < _LONG_TEXT_CHARS)
        if images or not short:
            read = await run_in_context(prompts.text_threads, partial(prompts.read, prompt, images))
        else:
            read = prompts.read(prompt, images)
        return await self._finished(read)

    async def prepare_chat(self, messages: Sequence[Message], **options: Any) -> PreparedPrompt:
        """Engine.prepare_chat beside the event loop: a conversation as a prompt for generate and stream."""
        prompts = self.engine.prompts
        self.engine.check_usable()
        read = await run_in_context(prompts.text_threads, partial(prompts.read_chat, messages, **options))
        return await self._finished(read)

    async def _finished(self, prompt: PreparedPrompt | PromptWithPictures) -> PreparedPrompt:
        if isinstance(prompt, PreparedPrompt):
            return prompt
        prompts = self.engine.prompts
        finish = partial(prompts.finish, prompt, parallel=False)
        return await run_in_context(prompts.picture_threads, finish)

    # --- Engine's, by the same names ------------------------------------------------------------------------

    @property
    def path(self) -> str:
        return self.engine.path

    @property
    def config(self) -> dict[str, Any]:
        return self.engine.config

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.engine.tokenizer

    @property
    def chat_template(self) -> ChatTemplate:
        return self.engine.chat_template

    @property
    def max_model_len(self) -> int:
        return self.engine.max_model_len

    @property
    def max_num_seqs(self) -> int:
        return self.engine.max_num_seqs

    def check_usable(self) -> None:
        self.engine.check_usable()

    def stats(self) -> dict[str, Any]:
        return self.engine.stats()
