"""AsyncRequests: requests of an engine on event loops, which never wait for the model.

Events come from the engine thread through call_soon_threadsafe, and long texts and pictures are read in worker threads.
Cancelling the task that reads a request, or leaving its loop, ends the request.

When something dies:
- The engine's thread, or the engine in it (memory ran out, two steps in a row failed): each reader gets Llama4RTError
  within about a second, and so does each later call; open the engine anew.
- The event loop, closed with requests still running: the engine ends them at their next token and goes on. Requests of
  other loops notice nothing, and this may be used in a new loop; it belongs to no loop.
"""

import asyncio
import itertools
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from llama4rt.engine.async_inbox import Inbox, bell_of
from llama4rt.engine.engine_thread import Handler
from llama4rt.engine.opened_engine import OpenedEngine
from llama4rt.engine.outputs import Delta, OutputBuilder, Progress, RequestOutput
from llama4rt.engine.prepared_request import PreparedRequest
from llama4rt.engine.request_tracker import Deliver
from llama4rt.engine.sampling_params import SamplingParams
from llama4rt.engine.score_handler import MAX_IN_FLIGHT
from llama4rt.errors import RequestError
from llama4rt.text.chat_data import Message
from llama4rt.text.prompt_builder import Images, PreparedPrompt, Prompt, PromptWithPictures
from llama4rt.workers.client import Client, current_client, run_in_context, working_for

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llama4rt import _core
    from llama4rt.text.chat_data import ConversationOptions

_T = TypeVar("_T")
Prepared = Callable[[], Coroutine[Any, Any, PreparedRequest]]

_WATCH_SECONDS = 1.0
_LONG_TEXT_CHARS = 2000  # about a millisecond of tokenizing


@dataclass(frozen=True, eq=False)
class Running:
    """A request that AsyncRequests.start has submitted."""

    request: PreparedRequest
    name: str
    hold: Callable[[bool], None]  # pauses it, or lets it go on
    close: Callable[[], None]  # frees what it holds, ended or not; more than once is harmless


class AsyncRequests:
    """Of one engine, on any number of loops."""

    def __init__(self, engine: OpenedEngine) -> None:
        self._engine = engine
        self._active: dict[str, int | None] = {}  # request id -> native id; None while its prompt is prepared
        self._aborted_early: set[str] = set()
        self._watched: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._numbers = itertools.count()

    def abort(self, request_id: str) -> None:
        native_id = self._active.get(request_id)
        if native_id is not None:
            self._engine.abort(native_id)
        elif request_id in self._active:
            self._aborted_early.add(request_id)

    async def start(self, prepared: Prepared, deliver: Deliver, request_id: str | None = None) -> Running:
        """prepared: makes the request; that it comes is known from now on."""
        name = f"request-{next(self._numbers)}" if request_id is None else request_id
        if name in self._active:
            raise RequestError(f"a request with the id {name!r:.80} is running")
        self._active[name] = None
        try:
            request = await prepared()
            native_id = self._engine.submit(request, deliver, name)
        except BaseException:
            self._forget(name)
            raise
        self._active[name] = native_id
        self._start_watch()
        if name in self._aborted_early:
            self._engine.abort(native_id)
        return Running(
            request, name, partial(self._engine.hold, native_id), partial(self._end, name, native_id)
        )

    def _end(self, name: str, native_id: int) -> None:
        self._forget(name)
        self._engine.abandon(native_id)  # of no effect when it has ended

    def _start_watch(self) -> None:
        loop = asyncio.get_running_loop()
        if loop not in self._watched:
            self._watched.add(loop)
            loop.call_later(_WATCH_SECONDS, self._watch, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """While requests run: tells them should the engine's thread have died, and wakes readers that it had no memory
        to wake.
        """
        self._engine.reap()
        bell_of(loop).wake_all()
        if self._active:
            loop.call_later(_WATCH_SECONDS, self._watch, loop)
        else:
            self._watched.discard(loop)

    def _forget(self, name: str) -> None:
        self._active.pop(name, None)
        self._aborted_early.discard(name)

    async def batches(
        self, prepared: Prepared, request_id: str | None = None
    ) -> AsyncGenerator[tuple[PreparedRequest, str, list[Delta]], None]:
        """Runs one request; yields all Deltas that have come since the last time, until it ends."""
        inbox: Inbox[Delta | Progress | BaseException | None] = Inbox()
        running = await self.start(prepared, inbox.put, request_id)
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

    async def prepared(
        self, prompt: Prompt, params: SamplingParams, images: Images | None = None, where: str = "images"
    ) -> PreparedRequest:
        """where: how errors name the list of pictures."""
        prepared = await self.prepare(prompt, images, where)
        has_grammar = isinstance(params, SamplingParams) and params.structured is not None
        if has_grammar:  # which may have to be compiled
            # Whoever cancels this has left: nothing more is compiled for him.
            client = Client(current_client().name)
            try:
                with working_for(client):
                    return await asyncio.to_thread(self._engine.prepare_request, prepared, params)
            finally:
                client.gone.set()
        return self._engine.prepare_request(prepared, params)

    async def prepare(
        self, prompt: Prompt, images: Images | None = None, where: str = "images"
    ) -> PreparedPrompt:
        prompts = self._engine.prompts
        self._engine.check_usable()
        loaded = prompts.tokenizer_loaded or not isinstance(prompt, str)
        # Of ids each is looked at.
        short = not isinstance(prompt, (str, list)) or (loaded and len(prompt) < _LONG_TEXT_CHARS)
        if images or not short:
            read = await run_in_context(
                prompts.text_threads, partial(prompts.read, prompt, images, where=where)
            )
        else:
            read = prompts.read(prompt, images, where=where)
        return await self._finished(read)

    async def prepare_chat(
        self, messages: Sequence[Message], **options: "Unpack[ConversationOptions]"
    ) -> PreparedPrompt:
        prompts = self._engine.prompts
        self._engine.check_usable()
        read = await run_in_context(prompts.text_threads, partial(prompts.read_chat, messages, **options))
        return await self._finished(read)

    async def _finished(self, prompt: PreparedPrompt | PromptWithPictures) -> PreparedPrompt:
        if isinstance(prompt, PreparedPrompt):
            return prompt
        prompts = self._engine.prompts
        finish = partial(prompts.finish, prompt, parallel=False)
        return await run_in_context(prompts.picture_threads, finish)

    async def in_text_thread(self, work: Callable[[], _T]) -> _T:
        """Work on text that may take long, beside the loop."""
        self._engine.check_usable()
        return await run_in_context(self._engine.prompts.text_threads, work)

    async def in_picture_thread(self, work: Callable[[], _T]) -> _T:
        """Work on pictures, likewise."""
        self._engine.check_usable()
        return await run_in_context(self._engine.prompts.picture_threads, work)

    # --- whole answers --------------------------------------------------------------------------------------

    async def run_all(self, requests: Sequence[PreparedRequest]) -> list[RequestOutput]:
        """Runs them together; their results in order."""
        inbox: Inbox[tuple[int, Any]] = Inbox()
        builders: list[OutputBuilder] = []
        running: dict[int, Running] = {}  # by the request's index
        try:
            while running or len(builders) < len(requests):
                while len(builders) < len(requests) and len(running) < MAX_IN_FLIGHT:
                    i, request = len(builders), requests[len(builders)]

                    async def prepared(request: PreparedRequest = request) -> PreparedRequest:
                        return request

                    running[i] = await self.start(prepared, lambda item, i=i: inbox.put((i, item)))  # type: ignore[misc]
                    builders.append(
                        OutputBuilder(
                            running[i].name, request.prompt, request.prompt_token_ids, request.params.n
                        )
                    )
                for i, item in await inbox.wait():
                    if isinstance(item, Delta):
                        builders[i].add(item)
                        continue
                    if isinstance(item, BaseException):
                        raise item
                    if item is None:
                        running.pop(i).close()
        finally:  # of no effect on those that have ended
            for left in running.values():
                left.close()
        return [builder.snapshot() for builder in builders]

    async def scored(
        self, request: "_core.Request", handler: Callable[[Callable[[Any], None]], Handler]
    ) -> Any:
        """What the handler, which is made with where to put it, has collected of a request that generates nothing."""
        inbox: Inbox[Any] = Inbox()
        name = f"request-{next(self._numbers)}"
        native_id = self._engine.thread.submit(request, handler(inbox.put))
        self._active[name] = native_id
        self._start_watch()
        try:
            item = (await inbox.wait())[0]
        finally:
            self._end(name, native_id)
        if isinstance(item, BaseException):
            raise item
        return item
