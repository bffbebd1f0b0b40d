"""AsyncEngine: many requests on one event loop, none of which can hold it up."""

from __future__ import annotations

import asyncio
import threading
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


def test_abort_before_the_prompt_is_ready(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as soon as there is a request to end."""

    async def main(async_engine: AsyncEngine) -> None:
        prepare = async_engine._requests.prepare

        async def aborted_meanwhile(*args: Any, **options: Any) -> Any:
            async_engine.abort("early")
            return await prepare(*args, **options)

        before = engine.stats()["generated_tokens"]
        with monkeypatch.context() as patched:
            patched.setattr(async_engine._requests, "prepare", aborted_meanwhile)
            output = await last(async_engine.generate("Hello", params(max_tokens=900), request_id="early"))
        assert output.outputs[0].finish_reason == "abort"
        assert engine.stats()["generated_tokens"] - before < 450
        again = await last(
            async_engine.generate("Hello", params(), request_id="early")
        )  # the id is free again
        assert again.outputs[0].finish_reason == "length"

    slowly(engine, monkeypatch)
    run(main, engine)


@pytest.mark.parametrize("way", ["cancel", "break", "aclose"])
def test_a_reader_that_leaves_ends_the_request(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Left to itself each request would go on for 900 tokens and 2.7 s."""

    async def main(async_engine: AsyncEngine) -> None:
        before = engine.stats()["generated_tokens"]
        if way == "cancel":
            task = asyncio.create_task(last(async_engine.generate("Hello", params(max_tokens=900))))
            while not engine.stats()["running"]:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif way == "break":
            async for _ in async_engine.generate("Hello", params(max_tokens=900)):
                break
        else:
            stream = async_engine.stream("Hello", params(max_tokens=900))
            await anext(stream)
            await stream.aclose()
        await idle(engine)
        assert engine.stats()["generated_tokens"] - before < 450
        assert not async_engine._requests._active

    slowly(engine, monkeypatch)
    run(main, engine)


def slowly(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take three milliseconds, so that tests can tell who ends a request."""

    class SlowCore:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def step(self) -> Any:
            time.sleep(0.003)
            return core.step()

    core = engine._thread._core
    monkeypatch.setattr(engine._thread, "_core", SlowCore())


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
        assert not async_engine._requests._active and not async_engine._requests._aborted_early

    run(main, engine)


# --- what dies --------------------------------------------------------------------------------------------------------


def test_readers_hear_that_the_engines_thread_died(
    text_engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where it could tell nobody: it dies without a word and without releasing anything."""

    async def main() -> None:
        async_engine = AsyncEngine(text_engine_file, max_model_len=2048, kv_cache_memory="64MiB")
        slowly(async_engine.engine, monkeypatch)
        streams = [async_engine.stream("Hello", params(max_tokens=None)) for _ in range(3)]
        for stream in streams:
            await anext(stream)
        thread = async_engine.engine._thread
        with monkeypatch.context() as patched:
            patched.setattr(thread, "_release", lambda: None)
            patched.setattr(thread, "_dispatch", lambda events: 1 / 0)
            while thread._runs():
                await asyncio.sleep(0.01)
        for stream in streams:
            with pytest.raises(Llama4RTError, match="the engine failed"):
                async for _ in stream:
                    pass
        with pytest.raises(Llama4RTError, match="opened anew"):
            await last(async_engine.generate("Hello"))
        await asyncio.to_thread(async_engine.close)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_wake_up_that_fails_delays_a_reader_and_no_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(async_engine: AsyncEngine) -> None:
        loop = asyncio.get_running_loop()
        wake, failures = loop.call_soon_threadsafe, 0

        def fail_often(*args: Any, **options: Any) -> Any:
            nonlocal failures
            if threading.current_thread() is not threading.main_thread() and failures < 40:
                failures += 1
                raise MemoryError
            return wake(*args, **options)

        monkeypatch.setattr(loop, "call_soon_threadsafe", fail_often)
        outputs = await asyncio.gather(
            *(last(async_engine.generate("Hello", params(max_tokens=30))) for _ in range(3))
        )
        assert failures and all(len(output.outputs[0].token_ids) == 30 for output in outputs)

    run(main, engine)


def test_an_engine_outlives_its_loop(engine: Engine) -> None:
    """One AsyncEngine in one loop after another, the first of them closed with a request still running."""
    async_engine = AsyncEngine(engine)
    leaked: list[Any] = []

    async def leave_running() -> None:
        leaked.append(async_engine.stream("Hello", params(max_tokens=None), request_id="left"))
        await anext(leaked[0])

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_running())
    loop.close()

    async def main() -> None:
        await idle(engine)
        assert (await last(async_engine.generate("Hello", params()))).finished

    asyncio.run(asyncio.wait_for(main(), 60))
