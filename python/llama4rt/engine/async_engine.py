"""AsyncEngine: the same Engine for asyncio. What people call; async_requests.py says what happens behind it."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from llama4rt.engine.answering import Answering
from llama4rt.engine.async_requests import AsyncRequests, Running
from llama4rt.engine.async_sessions import AsyncSessionMethods
from llama4rt.engine.engine import Engine
from llama4rt.engine.engine_facts import EngineFacts
from llama4rt.engine.opened_engine import OpenedEngine
from llama4rt.engine.outputs import Delta, OutputBuilder, RequestOutput, TokenScores
from llama4rt.engine.prepared_request import PreparedRequest
from llama4rt.engine.request_tracker import Deliver
from llama4rt.engine.sampling_params import SamplingParams, params_for_each
from llama4rt.engine.score_handler import (
    MAX_IN_FLIGHT,
    ScoreHandler,
    TokenScoreHandler,
    joined_rows,
    places,
    score_params,
    score_request,
)
from llama4rt.errors import RequestError
from llama4rt.text.chat_data import Message, conversations_of
from llama4rt.text.prompt_builder import Images, PreparedPrompt, Prompt, prompts_with_images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from typing_extensions import Unpack

    from llama4rt.engine.option_types import EngineOptions
    from llama4rt.images.sources import ImageSource
    from llama4rt.text.chat_data import ConversationOptions

_Prepared = Callable[[], Coroutine[object, None, list[PreparedRequest]]]


class AsyncEngine(AsyncSessionMethods, EngineFacts):
    """AsyncEngine(path, **options of Engine), or AsyncEngine(engine) around an Engine that others use too.

    What Engine returns is awaited here, and what it yields is read with `async for`. Readers get Llama4RTError when the
    engine is closed or fails for good, and so do later calls. It belongs to no event loop: requests of a loop that is
    closed are ended, those of others run on. Opening takes as long as Engine's does, and a build much longer: in a
    service that runs already, `await asyncio.to_thread(AsyncEngine, path)`.
    """

    def __init__(
        self, engine: "Engine | str | os.PathLike[str] | None" = None, **options: "Unpack[EngineOptions]"
    ) -> None:
        self._owns_engine = not isinstance(engine, Engine)
        self.engine = engine if isinstance(engine, Engine) else Engine(engine, **options)
        self._requests = AsyncRequests(self.engine)

    @property
    def _opened(self) -> OpenedEngine:
        return self.engine

    # --- generation -----------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        images: Images | None = None,
        request_id: str | None = None,
    ) -> Answering:
        """Awaited, it is Engine.generate. Read with `async for`, it yields all output of its one prompt so far, again
        and again until `finished`; slow readers get larger steps. request_id: for abort; of one prompt.
        """

        async def prepared() -> list[PreparedRequest]:
            items = params_for_each(prompts_with_images(prompts, images), params)
            return [
                await self._requests.prepared(prompt, own_params, own, where)
                for (prompt, where, own), own_params in items
            ]

        return self._answering(prepared, request_id)

    async def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        images: Images | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Yields only what each step adds, like Engine.stream."""
        chosen = SamplingParams() if params is None else params
        prepared = partial(self._requests.prepared, prompt, chosen, images)
        async with aclosing(self._requests.batches(prepared, request_id)) as batches:
            async for _, _, deltas in batches:
                for delta in deltas:
                    yield delta

    def chat(
        self,
        messages: Sequence[Message | Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        request_id: str | None = None,
        **options: "Unpack[ConversationOptions]",
    ) -> Answering:
        """Awaited, it is Engine.chat. Read with `async for`, it yields the answer to one conversation as it grows."""

        async def prepared() -> list[PreparedRequest]:
            return [
                await self._requests.prepared(await self.prepare_chat(conversation, **options), own_params)
                for conversation, own_params in params_for_each(conversations_of(messages), params)
            ]

        return self._answering(prepared, request_id)

    async def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        **options: "Unpack[ConversationOptions]",
    ) -> AsyncGenerator[Delta, None]:
        """Yields the answer to one conversation as it comes, like Engine.stream_chat."""
        prompt = await self.prepare_chat(messages, **options)
        async with aclosing(self.stream(prompt, params, request_id=request_id)) as deltas:
            async for delta in deltas:
                yield delta

    def abort(self, request_id: str) -> None:
        """Ends a request: its last output has finish_reason "abort". Unknown ids are ignored."""
        self._requests.abort(request_id)

    async def start(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        deliver: Deliver,
        images: Images | None = None,
        request_id: str | None = None,
    ) -> Running:
        """Submits a request for a caller with an inbox of its own. Whatever is wrong with it is raised here.

        deliver(item) is called in the engine thread, with each Delta (and Progress, when params ask for it), then
        with None, or with the error that ended the request. The caller must close() what this returns.
        """
        chosen = SamplingParams() if params is None else params
        return await self._requests.start(
            partial(self._requests.prepared, prompt, chosen, images), deliver, request_id
        )

    # --- prompts --------------------------------------------------------------------------------------------

    async def apply_chat_template(
        self, messages: Sequence[Message], **options: "Unpack[ConversationOptions]"
    ) -> list[int]:
        """Engine.apply_chat_template beside the event loop."""
        return await self._requests.in_text_thread(
            partial(self.engine.apply_chat_template, messages, **options)
        )

    async def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Engine.encode_prompt beside the event loop."""
        return await self._requests.in_text_thread(partial(self.engine.encode_prompt, prompt))

    async def prepare(self, prompt: Prompt, *, images: Images | None = None) -> PreparedPrompt:
        """Engine.prepare beside the event loop: what generate, stream and start take as their prompt."""
        return await self._requests.prepare(prompt, images)

    async def prepare_chat(
        self, messages: Sequence[Message], **options: "Unpack[ConversationOptions]"
    ) -> PreparedPrompt:
        """Engine.prepare_chat beside the event loop: a conversation as a prompt for generate and stream."""
        return await self._requests.prepare_chat(messages, **options)

    async def load_image(self, source: "ImageSource") -> "Image":
        """Engine.load_image beside the event loop."""
        return await self._requests.in_picture_thread(partial(self.engine.load_image, source))

    # --- scores ---------------------------------------------------------------------------------------------

    async def score(self, prompt: Prompt, *, images: Images | None = None) -> "NDArray[np.float32]":
        """Engine.score."""
        request = score_request(await self._requests.prepared(prompt, score_params(), images))
        return joined_rows(await self._requests.scored(request, ScoreHandler))

    async def score_tokens(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        first: int | Sequence[int] = 1,
        top: int = 0,
        images: Images | None = None,
    ) -> list[TokenScores]:
        """Engine.score_tokens."""
        params = score_params(top)
        natives = [
            self.engine.prepare_request(await self._requests.prepare(prompt, own, where), params).native
            for prompt, where, own in prompts_with_images(prompts, images)
        ]
        room = asyncio.Semaphore(MAX_IN_FLIGHT)

        async def scored(i: int, place: int) -> TokenScores:
            natives[i].score_from = place
            async with room:
                found: TokenScores = await self._requests.scored(
                    natives[i], partial(TokenScoreHandler, place)
                )
            return found

        tasks = [
            asyncio.ensure_future(scored(i, place)) for i, place in enumerate(places(first, len(natives)))
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()  # of no effect on those that have ended

    # --- its life -------------------------------------------------------------------------------------------

    def warm_structured_output(self) -> None:
        """Engine.warm_structured_output."""
        self.engine.warm_structured_output()

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

    # --- inside ---------------------------------------------------------------------------------------------

    def _answering(self, prepared: _Prepared, request_id: str | None) -> Answering:
        async def one() -> PreparedRequest:
            requests = await prepared()
            if len(requests) != 1:
                raise RequestError(
                    f"there are {len(requests)} prompts; only one can have a request_id or be read while it grows"
                )
            return requests[0]

        async def growing() -> AsyncGenerator[RequestOutput, None]:
            builder: OutputBuilder | None = None
            async with aclosing(self._requests.batches(one, request_id)) as batches:
                async for request, name, deltas in batches:
                    if builder is None:
                        builder = OutputBuilder(
                            name, request.prompt, request.prompt_token_ids, request.params.n
                        )
                    for delta in deltas:
                        builder.add(delta)
                    yield builder.snapshot()

        async def whole() -> list[RequestOutput]:
            if request_id is None:
                return await self._requests.run_all(await prepared())
            outputs = [output async for output in growing()]  # so that abort finds it from the beginning
            return outputs[-1:]

        return Answering(whole, growing)
