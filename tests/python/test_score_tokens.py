"""Engine.score_tokens: the log-probabilities of score()'s logits, bit for bit those of prompt_logprobs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from llama4rt import Engine, RequestError, SamplingParams
from numpy.typing import NDArray


@pytest.fixture(scope="module")
def engine(text_engine_file: Path) -> Iterator[Engine]:
    with Engine(text_engine_file, kv_cache_memory="64MiB", max_model_len=256) as engine:
        yield engine


def prompts(count: int, seed: int = 1) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[256, *rng.integers(0, 256, int(length)).tolist()] for length in rng.integers(1, 200, count)]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return np.asarray(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))


def test_they_are_those_of_the_logits(engine: Engine) -> None:
    for ids in prompts(5):
        (scores,) = engine.score_tokens(ids, top=3)
        exact = log_softmax(engine.score(ids))[:-1]
        assert scores.first == 1 and scores.logprobs.dtype == np.float32 and scores.top_ids.dtype == np.int32
        assert np.allclose(scores.logprobs, exact[np.arange(len(ids) - 1), ids[1:]], atol=2e-5)
        assert scores.top_ids.shape == scores.top_logprobs.shape == (len(ids) - 1, 3)
        assert np.array_equal(scores.top_ids[:, 0], exact.argmax(axis=1))
        assert np.allclose(scores.top_logprobs, np.take_along_axis(exact, scores.top_ids, 1), atol=2e-5)


def test_they_are_the_bits_of_prompt_logprobs_whatever_runs_beside(engine: Engine) -> None:
    many = prompts(24, seed=2)
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1)
    for ids, scores in zip(many, engine.score_tokens(many, top=1), strict=True):
        entries = engine.generate(ids, params)[0].prompt_logprobs
        assert entries is not None
        told = [(entry.logprob, entry.top[0]) for entry in entries if entry is not None]
        assert [logprob for logprob, _ in told] == scores.logprobs.tolist()
        assert [best for _, best in told] == list(
            zip(scores.top_ids[:, 0].tolist(), scores.top_logprobs[:, 0].tolist(), strict=True)
        )


def test_a_context_is_only_read_and_may_be_cached(engine: Engine) -> None:
    (ids,) = prompts(1, seed=3)
    ids = (ids * 8)[:160]
    whole = engine.score_tokens(ids)[0]
    for first in (2, 100, len(ids) - 1):
        (part,) = engine.score_tokens(ids, first=first)
        assert part.first == first and np.array_equal(part.logprobs, whole.logprobs[first - 1 :])
    assert part.num_cached_tokens >= 128 and whole.num_cached_tokens == 0
    firsts = [1, 2, 3]
    together = engine.score_tokens([ids[:4]] * 3, first=firsts)
    assert [len(scores.logprobs) for scores in together] == [3, 2, 1]


def test_text_begins_as_prompts_do(engine: Engine) -> None:
    assert len(engine.score_tokens("Hello")[0].logprobs) == 5
    with pytest.raises(RequestError, match="empty"):
        engine.score_tokens([[]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first": 0}, "first is 0"),
        ({"first": 4}, "score_from is 4"),
        ({"first": [1, 1]}, "there are 1 prompts and `first` has 2 places"),
        ({"top": 21}, "top is 21"),
        ({"top": -1}, "top is -1"),
    ],
)
def test_what_it_refuses(engine: Engine, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        engine.score_tokens([[256, 1, 2, 3]], **arguments)  # type: ignore[arg-type]
    assert len(engine.score_tokens([256, 1, 2, 3])[0].logprobs) == 3  # the engine goes on


def test_a_prompt_may_fill_the_model_and_not_more(engine: Engine) -> None:
    assert len(engine.score_tokens([256] + [1] * 255)[0].logprobs) == 255
    with pytest.raises(RequestError, match="max_model_len is 256"):
        engine.score_tokens([256] + [1] * 256)


def test_many_threads_at_once(engine: Engine) -> None:
    many = prompts(8, seed=4)
    expected = engine.score_tokens(many)
    found: dict[int, bytes] = {}

    def work(i: int) -> None:
        found[i] = engine.score_tokens(many[i])[0].logprobs.tobytes()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(many))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(len(many))] == [scores.logprobs.tobytes() for scores in expected]
