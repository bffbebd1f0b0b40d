"""The first things that people write: no path, a name of the hub, HF's habits, and what is said of mistakes."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import (
    AsyncEngine,
    CheckpointError,
    Engine,
    EngineFileError,
    RequestError,
    SamplingParams,
)
from llama4rt.demo import engine_path
from random_checkpoints import SMALL, random_values, write_values

SMALL_ENGINE: dict[str, Any] = {"num_threads": 1, "kv_cache_memory": "32MiB", "max_model_len": 512}
HELLO = [{"role": "user", "content": "Hello"}]
GREEDY = SamplingParams(temperature=0.0, max_tokens=24)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(**SMALL_ENGINE) as engine:
        yield engine


def test_without_a_path_it_is_the_demo(engine: Engine) -> None:
    assert engine.path == str(engine_path())
    (answer,) = engine.chat(HELLO, GREEDY)
    assert answer.text == answer.outputs[0].text and answer.text.strip()
    assert "".join(delta.text for delta in engine.stream_chat(HELLO, GREEDY)) == answer.text
    repr(engine)


def test_async_has_it_all_too(engine: Engine) -> None:
    """Each call beside the blocking one, awaited; and read while it grows."""
    texts = ["Hello", "The sky"]
    chats = [HELLO, [{"role": "user", "content": "What can you do?"}]]

    async def main() -> None:
        a = AsyncEngine(engine)
        assert [r.outputs for r in await a.generate(texts, GREEDY)] == [
            r.outputs for r in engine.generate(texts, GREEDY)
        ]
        assert [r.outputs for r in await a.chat(chats, GREEDY)] == [
            r.outputs for r in engine.chat(chats, GREEDY)
        ]
        (one,) = await a.chat(HELLO, GREEDY, request_id="mine")
        assert one.request_id == "mine" and one.finished
        assert [out async for out in a.chat(HELLO, GREEDY)][-1].text == one.text
        assert "".join([d.text async for d in a.stream_chat(HELLO, GREEDY)]) == one.text
        assert await a.apply_chat_template(HELLO) == engine.apply_chat_template(HELLO)
        assert await a.encode_prompt("Hello") == engine.encode_prompt("Hello")
        assert np.array_equal(await a.score("Hello there"), engine.score("Hello there"))
        for mine, theirs in zip(
            await a.score_tokens(texts, top=2), engine.score_tokens(texts, top=2), strict=True
        ):
            assert np.array_equal(mine.logprobs, theirs.logprobs)
            assert np.array_equal(mine.top_ids, theirs.top_ids)
        picture = np.zeros((48, 48, 3), np.uint8)
        assert (await a.load_image(picture)).size == (48, 48)
        assert await a.generate([]) == [] and await a.chat([]) == [] and await a.score_tokens([]) == []
        assert a.tokenizer is engine.tokenizer and a.config == engine.config and a.device == engine.device
        with pytest.raises(RequestError, match="2 prompts; only one"):
            async for _ in a.generate(texts, GREEDY):
                pass
        with pytest.raises(RequestError, match="a prompt is empty"):
            await a.generate(["Hello", []], GREEDY)
        with pytest.raises(RequestError, match="image"):
            await a.score_tokens(["a", "b"], images=[["none.png"]])
        assert not a._requests._active

    asyncio.run(asyncio.wait_for(main(), 60))
    assert engine.stats()["running"] == 0


def test_awaiting_ends_with_its_task(engine: Engine) -> None:
    async def main() -> None:
        a = AsyncEngine(engine)
        endless = SamplingParams(max_tokens=None, ignore_eos=True)
        for work in (a.generate(["a", "b"], endless), a.chat(HELLO, endless, request_id="x")):
            task = asyncio.ensure_future(_awaited(work))
            while engine.stats()["running"] == 0:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while engine.stats()["running"]:
                await asyncio.sleep(0.005)
        assert not a._requests._active

    asyncio.run(asyncio.wait_for(main(), 60))


async def _awaited(work: Any) -> Any:
    return await work


# --- from a checkpoint ------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMA4RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("opened", [Engine, Engine.from_pretrained])
def test_a_directory_is_built_into_the_cache(
    opened: Callable[..., Engine], cache: Path, tmp_path: Path
) -> None:
    source = write_values(tmp_path / "source", SMALL, random_values(SMALL))
    seen: list[tuple[int, int]] = []
    told = lambda done, total: seen.append((done, total))  # noqa: E731
    with opened(source, build_progress=told, **SMALL_ENGINE) as engine:
        assert Path(engine.path).parent == cache and seen[-1][0] == seen[-1][1] > 0
        ids = engine.generate([1, 2, 3], GREEDY)[0].outputs[0].token_ids
    seen.clear()
    with AsyncEngine(str(source), build_progress=told, **SMALL_ENGINE).engine as engine:
        assert not seen and engine.generate([1, 2, 3], GREEDY)[0].outputs[0].token_ids == ids
    with opened(source, weights="bf16", **SMALL_ENGINE) as engine:
        assert engine.path != ids
    assert len(list(cache.iterdir())) == 2


def test_a_name_of_the_hub_is_fetched_and_built(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    source = write_values(tmp_path / "source", SMALL, random_values(SMALL))
    asked: list[str] = []

    def snapshot(name: str, **_: Any) -> str:
        asked.append(name)
        return str(source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with Engine("owner/name", **SMALL_ENGINE) as engine:
        assert asked == ["owner/name"] and "name" in Path(engine.path).name


def test_a_failed_build_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    source = write_values(tmp_path / "source", SMALL, random_values(SMALL))
    weights = next(source.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        Engine(source, **SMALL_ENGINE)
    assert not cache.exists() or not list(cache.iterdir())


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(EngineFileError, match=r"absent\.l4e: cannot be opened"):
        Engine(tmp_path / "absent.l4e")
    with pytest.raises(CheckpointError, match="not a hub id"):
        Engine(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="could not be had from the hub"):  # HF_HUB_OFFLINE
        Engine("nobody/nothing")


# --- habits -----------------------------------------------------------------------------------------------------------


def test_the_tokenizer_does_as_transformers_does(engine: Engine) -> None:
    tokenizer = engine.tokenizer
    assert tokenizer is not None and len(tokenizer) == tokenizer.vocab_size and tokenizer
    ids = tokenizer("Hello").input_ids
    assert ids == engine.encode_prompt("Hello") and tokenizer("Hello")["attention_mask"] == [1] * len(ids)
    assert tokenizer(["Hello", "a b"], add_special_tokens=False).input_ids == [
        tokenizer.encode("Hello"),
        tokenizer.encode("a b"),
    ]
    with pytest.raises(RequestError, match="a str or a list"):
        tokenizer(5)  # type: ignore[arg-type]
    assert tokenizer.apply_chat_template(HELLO, add_generation_prompt=True) == engine.apply_chat_template(
        HELLO
    )
    text = tokenizer.apply_chat_template(HELLO, tokenize=False)
    assert text == engine.chat_template.render(HELLO, add_generation_prompt=False) and "Hello" in text
    with pytest.raises(RequestError, match="does not know"):
        tokenizer.apply_chat_template(HELLO, enable_thinking=True)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy("Hello").input_ids == ids
    with pytest.raises(RequestError, match=r"take engine\.tokenizer"):
        copy.apply_chat_template(HELLO)


def test_mistakes_are_answered_with_what_is_right(engine: Engine) -> None:
    call: Any
    for call, says in (
        (
            lambda: engine.generate("x", {"max_tokens": 3}),
            r"params is a dict; write SamplingParams\(max_tokens=3\)",
        ),  # type: ignore[arg-type]
        (lambda: engine.stream("x", {"max_tokens": 3}), r"write SamplingParams\(max_tokens=3\)"),  # type: ignore[arg-type]
        (lambda: engine.chat(HELLO, 3), "params is a int; it must be a SamplingParams"),  # type: ignore[arg-type]
        (lambda: engine.chat(HELLO, [{}]), r"write SamplingParams\(\)"),  # type: ignore[list-item]
        (lambda: engine.chat(HELLO[0]), "one message; it must be a list"),  # type: ignore[arg-type]
        (lambda: engine.stream_chat(HELLO[0]), "one message; it must be a list"),  # type: ignore[arg-type]
        (lambda: engine.generate(HELLO[0]), "a conversation is for chat"),  # type: ignore[arg-type]
        (lambda: engine.generate(HELLO), "a conversation is for chat"),  # type: ignore[arg-type]
    ):
        with pytest.raises(RequestError, match=says):
            call()


def test_an_engine_is_not_pickled(engine: Engine) -> None:
    for one in (engine, AsyncEngine(engine)):
        with pytest.raises(TypeError, match="With multiprocessing, open one in each process"):
            pickle.dumps(one)


def test_an_empty_list_of_pictures_is_no_text(engine: Engine) -> None:
    with pytest.raises(RequestError, match="0 images"):
        engine.generate("<|image|>x", images=[])
    assert engine.generate("<|image|>x", GREEDY)[0].prompt_token_ids  # without pictures it is text


def test_a_missing_extra_names_itself() -> None:
    program = """
import sys
for name in ("llguidance", "starlette", "msgspec"):
    sys.modules[name] = None
from llama4rt import Engine, SamplingParams, StructuredOutput
with Engine(num_threads=1, kv_cache_memory="16MiB", max_model_len=128) as engine:
    try:
        engine.generate("x", SamplingParams(structured=StructuredOutput.regex("a+")))
    except Exception as error:
        print(type(error).__name__, error)
try:
    from llama4rt.server import build_app
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == [
        "RequestError structured output needs llguidance: pip install 'llama4rt[serve]'",
        "llama4rt.server needs the package starlette: pip install 'llama4rt[serve]'",
    ]
