"""Sessions of AsyncEngine: the same tokens as Session's, and an event loop that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from llama4rt import AsyncEngine, Engine, RequestError, SamplingParams
from llama4rt.sessions.async_session import AsyncSession
from llama4rt.sessions.session import Session

TEXT = "A long time ago there was a red square. "
LONG = SamplingParams(temperature=0, max_tokens=2000, ignore_eos=True)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(num_threads=1, kv_cache_memory="64MiB", kv_store=tmp_path / "kv") as engine:
        yield engine


def run(main: Callable[[AsyncEngine], Coroutine[Any, Any, None]], engine: Engine) -> None:
    async def all_of_it() -> None:
        await asyncio.wait_for(main(AsyncEngine(engine)), 60)

    asyncio.run(all_of_it())


def test_it_says_what_a_session_says(engine: Engine, tmp_path: Path) -> None:
    params = SamplingParams(temperature=0.8, seed=3, max_tokens=12, ignore_eos=True)
    with engine.session("plain") as plain:
        plain.append(TEXT * 8)
        whole, more = plain.generate("What?", params), plain.generate(None, params)

    async def main(async_engine: AsyncEngine) -> None:
        async with await async_engine.session("mine") as session:
            assert await session.append(TEXT * 8) >= 32, "the blocks of the other session serve"
            first = await session.generate("What?", params)
            assert first.outputs[0] == whole.outputs[0]
            assert first.prompt_token_ids == whole.prompt_token_ids
            async with await session.fork("branch") as branch:
                text = "".join([delta.text async for delta in branch.stream(None, params)])
            assert text == more.outputs[0].text and branch.name == "branch"
            assert await session.export(tmp_path / "mine.l4s") > 0
            assert session.num_tokens == len(session.token_ids) and session.messages is None
        assert [info.name for info in await async_engine.sessions()] == ["branch", "mine", "plain"]
        await async_engine.delete_session("mine")
        assert await async_engine.import_session(tmp_path / "mine.l4s") == "mine"
        await session.close()
        with pytest.raises(RequestError, match="is closed"):
            await session.append("x")

    run(main, engine)


def test_a_task_that_is_cancelled_leaves_what_was_said(engine: Engine) -> None:
    async def main(async_engine: AsyncEngine) -> None:
        session = await async_engine.session("s")
        task = asyncio.ensure_future(session.generate(TEXT, LONG))
        while engine.stats()["running"] == 0:
            await asyncio.sleep(0.005)
        waiting = asyncio.ensure_future(session.append("more"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await waiting
        said = session.num_tokens
        async with aclosing(session.stream(None, LONG)) as deltas:
            async for _ in deltas:
                break
        await session.close()
        assert said < session.num_tokens < said + 1000
        assert engine.stats()["running"] == 0
        with pytest.raises(RequestError, match="open already"):
            async with await async_engine.session("s"):
                await async_engine.session("s")

    run(main, engine)


def test_nothing_of_a_session_is_missing() -> None:
    public = {name for name in dir(Session) if not name.startswith("_")}
    assert public - set(dir(AsyncSession)) == {"abandon"}
