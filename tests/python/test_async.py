"""AsyncEngine: many requests on one event loop, none of which can hold it up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama4rt import AsyncEngine, Engine, Llama4RTError, RequestError, RequestOutput, SamplingParams


def params(**fields: Any) -> SamplingParams:
    return SamplingParams(**({"temperature": 0.0, "max_tokens": 12, "ignore_eos": True} | fields))


@pytest.fixture(scope="module")
def engine(text_engine_file: Path) -> Iterator[Engine]:
    with Engine(text_engine_file, kv_cache_memory="64MiB", max_model_len=1024) as engine:
        yield engine


def run(main: Callable[[AsyncEngine], Coroutine[Any, Any, None]], engine: Engine) -> None:
    async def body() -> None:
        await asyncio.wait_for(main(AsyncEngine(engine)), 60)
        await idle(engine)

    asyncio.run(body())


async def idle(engine: Engine) -> None:
    """Every request is gone from the native engine and from the thread."""
    deadline = time.monotonic() + 20
    while engine.stats()["running"] or engine.stats()["waiting"] or engine._thread._handlers:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def last(outputs: Any) -> RequestOutput:
    result = None
    async for output in outputs:
        result = output
    assert result is not None
    return result  # type: ignore[no-any-return]


def test_outputs_grow_to_what_generate_returns(engine: Engine) -> None:
    expected = engine.generate("Hello", params(max_tokens=30))[0]

    async def main(async_engine: AsyncEngine) -> None:
        seen: list[RequestOutput] = []
        async for output in async_engine.generate("Hello", params(max_tokens=30), request_id="r1"):
            assert output.request_id == "r1" and output.prompt == "Hello"
            if seen:
                before = seen[-1].outputs[0]
                assert output.outputs[0].text.startswith(before.text)
                assert output.outputs[0].token_ids[: len(before.token_ids)] == before.token_ids
            seen.append(output)
        assert [output.finished for output in seen] == [False] * (len(seen) - 1) + [True]
        assert seen[-1].outputs == expected.outputs
        deltas = [delta async for delta in async_engine.stream("Hello", params(max_tokens=30))]
        assert "".join(delta.text for delta in deltas) == expected.outputs[0].text

    run(main, engine)


def test_many_requests_at_once(engine: Engine) -> None:
    prompts = [f"request {i}" for i in range(50)]
    expected = [out.outputs for out in engine.generate(prompts, params())]

    async def main(async_engine: AsyncEngine) -> None:
        results = await asyncio.gather(*(last(async_engine.generate(prompt, params())) for prompt in prompts))
        assert [result.outputs for result in results] == expected

    run(main, engine)


def test_the_loop_stays_free(engine: Engine) -> None:
    """While a long text is tokenized and prompts run, a ticker keeps ticking."""

    async def main(async_engine: AsyncEngine) -> None:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            while True:
                start = time.perf_counter()
                await asyncio.sleep(0.01)
                longest = max(longest, time.perf_counter() - start)

        ticker = asyncio.create_task(tick())
        await asyncio.gather(
            *(last(async_engine.generate("x" * 900, params(max_tokens=100))) for _ in range(8))
        )
        ticker.cancel()
        assert longest < 0.5

    run(main, engine)


def test_abort_gives_a_last_output(engine: Engine) -> None:
    async def main(async_engine: AsyncEngine) -> None:
        outputs = []
        async for output in async_engine.generate("Hello", params(max_tokens=900), request_id="r1"):
            outputs.append(output)
            async_engine.abort("r1")
            async_engine.abort("r1")
            async_engine.abort("unknown")
        assert outputs[-1].finished and outputs[-1].outputs[0].finish_reason == "abort"
        assert len(outputs[-1].outputs[0].token_ids) < 900
        async_engine.abort("r1")  # it has ended

    run(main, engine)


def test_abort_before_the_prompt_is_ready(engine: Engine) -> None:
    async def main(async_engine: AsyncEngine) -> None:
        task = asyncio.create_task(last(async_engine.generate("x" * 2000 + "y", params(), request_id="long")))
        await asyncio.sleep(0)
        async_engine.abort("long")
        try:
            output = await task
            assert output.outputs[0].finish_reason in ("abort", "length")
        except RequestError:
            pass  # 2001 bytes are too many tokens for this engine

    run(main, engine)


def test_cancelling_the_task_ends_the_request(engine: Engine) -> None:
    async def main(async_engine: AsyncEngine) -> None:
        task = asyncio.create_task(last(async_engine.generate("Hello", params(max_tokens=None))))
        while not engine.stats()["running"]:
            await asyncio.sleep(0.001)
        start = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(engine)
        assert time.perf_counter() - start < 2

    run(main, engine)


def test_leaving_the_loop_ends_the_request(engine: Engine) -> None:
    async def main(async_engine: AsyncEngine) -> None:
        async for _ in async_engine.generate("Hello", params(max_tokens=None)):
            break
        stream = async_engine.stream("Hello", params(max_tokens=None))
        await anext(stream)
        await stream.aclose()

    run(main, engine)


def test_errors_come_before_the_first_output(engine: Engine) -> None:
    async def main(async_engine: AsyncEngine) -> None:
        for prompt in ("", [], [10**6], [5] * 2000, "x" * 10**7):
            with pytest.raises(RequestError):
                await last(async_engine.generate(prompt, params()))
        first = async_engine.generate("Hello", params(max_tokens=400), request_id="same")  # runs on
        await anext(first)
        with pytest.raises(RequestError, match="'same' is running"):
            await last(async_engine.generate("Hello", params(), request_id="same"))
        assert (await last(first)).finished
        assert (await last(async_engine.generate("Hello", params(), request_id="same"))).finished

    run(main, engine)


def test_close_ends_readers_with_an_error(text_engine_file: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(text_engine_file, max_model_len=2048, kv_cache_memory="64MiB") as async_engine:
            stream = async_engine.stream("Hello", params(max_tokens=None))
            await anext(stream)
        with pytest.raises(Llama4RTError, match="closed"):
            async for _ in stream:
                pass
        with pytest.raises(Llama4RTError, match="closed"):
            await last(async_engine.generate("Hello"))

    asyncio.run(main())


def test_a_closed_loop_ends_its_requests(engine: Engine) -> None:
    async def main() -> None:
        stream = AsyncEngine(engine).stream("Hello", params(max_tokens=None))
        await anext(stream)
        leaked.append(stream)

    leaked: list[Any] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()  # without shutting its generators down
    asyncio.run(idle(engine))


def test_cancel_storm_leaks_nothing(engine: Engine) -> None:
    async def main(async_engine: AsyncEngine) -> None:
        async def one(i: int) -> None:
            stream = async_engine.stream(f"storm {i}", params(max_tokens=40))
            async for delta in stream:
                if i % 3 == 0 or (i % 3 == 1 and delta.token_ids and delta.token_ids[0] % 3 == 0):
                    break
            await stream.aclose()

        for start in range(0, 120, 40):
            await asyncio.gather(*(one(i) for i in range(start, start + 40)))
        assert not async_engine._active and not async_engine._aborted_early

    run(main, engine)
