"""What the evaluation harness asks, answered by the engine: against the engine's own logits. The harness itself runs in
test_server_clients.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import Engine, RequestError, SamplingParams
from llama4rt.lm_eval.harness_requests import HarnessRequests

MAX_LEN = 96


@pytest.fixture(scope="module")
def engine(text_engine_file: Path) -> Iterator[Engine]:
    with Engine(text_engine_file, kv_cache_memory="64MiB", max_model_len=MAX_LEN) as engine:
        yield engine


@pytest.fixture(scope="module")
def harness(engine: Engine) -> HarnessRequests:
    return HarnessRequests(engine)


def by_hand(engine: Engine, ids: list[int], first: int) -> tuple[float, bool]:
    logits = engine.score(ids).astype(np.float64)
    total, greedy = 0.0, True
    for place in range(first, len(ids)):
        row = logits[place - 1]
        total += row[ids[place]] - row.max() - math.log(np.exp(row - row.max()).sum())
        greedy &= int(row.argmax()) == ids[place]
    return total, greedy


def close(found: tuple[float, bool], expected: tuple[float, bool]) -> bool:
    return found[0] == pytest.approx(expected[0], abs=1e-3) and found[1] == expected[1]


def test_log_likelihoods_are_those_of_the_logits(engine: Engine, harness: HarnessRequests) -> None:
    pairs = [
        ("The capital", " of France"),
        ("The capital", " of Spain"),
        ("a", "b"),
        ("The capital", " of France"),
    ]
    counted: list[int] = []
    found = harness.loglikelihood(pairs, counted.append)
    for (context, continuation), answer in zip(pairs, found, strict=True):
        ids = [256, *(context + continuation).encode()]
        assert close(answer, by_hand(engine, ids, 1 + len(context)))
    assert found[0] == found[3] and sum(counted) == len(pairs)
    assert isinstance(found[0][0], float) and isinstance(found[0][1], bool)


def test_the_likeliest_continuation_is_told(engine: Engine, harness: HarnessRequests) -> None:
    best = engine.generate("Hello", SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True))[
        0
    ].outputs[0]
    context = [256, *b"Hello"]
    other = [*best.token_ids[:-1], (best.token_ids[-1] + 1) % 200]
    answers = harness.loglikelihood_tokens([(context, best.token_ids), (context, other)])
    assert [greedy for _, greedy in answers] == [True, False] and answers[0][0] > answers[1][0]


def test_blanks_at_the_end_of_a_context_belong_to_what_follows(
    engine: Engine, harness: HarnessRequests
) -> None:
    (found,) = harness.loglikelihood([("one  ", "two")])
    assert close(found, by_hand(engine, [256, *b"one  two"], 4))
    (blank,) = harness.loglikelihood([("  ", "x")])
    assert close(blank, by_hand(engine, [256, *b"  x"], 3))


def test_without_context_the_begin_token_stands_in_front(engine: Engine, harness: HarnessRequests) -> None:
    (found,) = harness.loglikelihood([("", "abc")])
    assert close(found, by_hand(engine, [256, *b"abc"], 1))
    assert harness.begin_id == 256


def test_what_is_too_long_is_cut_from_the_front(engine: Engine, harness: HarnessRequests) -> None:
    long = "".join(chr(97 + i * i % 26) for i in range(200))
    (found,) = harness.loglikelihood([(long, "yes")])
    ids = [256, *(long + "yes").encode()][-MAX_LEN:]
    assert close(found, by_hand(engine, ids, MAX_LEN - 3))
    with pytest.raises(RequestError, match="continuation has 200 tokens"):
        harness.loglikelihood([("a", long)])
    with pytest.raises(RequestError, match="a token of context"):
        harness.loglikelihood_tokens([([256], [])])


@pytest.mark.parametrize("length", [1, 5, MAX_LEN - 1, MAX_LEN, 2 * MAX_LEN, 250])
def test_rolling_predicts_each_token_once(engine: Engine, harness: HarnessRequests, length: int) -> None:
    text = "".join(chr(97 + i * i % 26) for i in range(length))
    ids = list(text.encode())
    inputs = MAX_LEN - 1
    expected, predicted = 0.0, 0
    while predicted < length:  # written from the harness's description of its windows
        count = min(inputs, length - predicted)
        end = predicted + count
        if predicted == 0:
            prompt = [256, *ids[:end]]
        else:
            prompt = ids[end - inputs - 1 : end]
        expected += by_hand(engine, prompt, len(prompt) - count)[0]
        predicted = end
    counted: list[int] = []
    assert harness.loglikelihood_rolling([text, "ab"], counted.append)[0] == pytest.approx(expected, abs=2e-3)
    assert counted == [1, 1] and harness.loglikelihood_rolling([""]) == [0.0]


def test_a_shared_context_comes_from_the_prefix_cache(engine: Engine, harness: HarnessRequests) -> None:
    context = "".join(chr(65 + i * 7 % 26) for i in range(70))
    before = engine.stats()["prefix_hit_tokens"]
    answers = harness.loglikelihood([(context, f" {i}") for i in range(5)])
    assert engine.stats()["prefix_hit_tokens"] - before >= 4 * 64
    for i, answer in enumerate(answers):
        assert close(answer, by_hand(engine, [256, *f"{context} {i}".encode()], 71))


def test_generation_until_a_text(engine: Engine, harness: HarnessRequests) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=20, repetition_penalty=1.0)
    own = engine.generate("Hello", params)[0].outputs[0].text
    assert len(own) > 5
    stop = own[3:5]
    requests: list[tuple[str, dict[str, Any]]] = [
        ("Hello", {"until": [], "max_gen_toks": 20, "do_sample": False, "temperature": 0.7}),
        ("Hello", {"until": stop, "max_gen_toks": 20}),
        ("Hello", {"until": [stop, ""], "max_gen_toks": 20, "temperature": 0.0}),
    ]
    counted: list[int] = []
    found = harness.generate_until(requests, counted.append)
    assert found == [own, own[: own.index(stop)], own[: own.index(stop)]] and sum(counted) == 3
    with pytest.raises(RequestError, match="num_beams"):
        harness.generate_until([("a", {"num_beams": 4})])
    with pytest.raises(RequestError, match="max_gen_toks is 300"):
        harness.generate_until([("a", {"max_gen_toks": 300})])


def test_chat_templates_keep_their_control_tokens(engine: Engine, harness: HarnessRequests) -> None:
    messages = [{"role": "user", "content": "Say <|eot|> aloud"}]
    text = harness.apply_chat_template(messages, True)
    ids = engine.apply_chat_template(messages)
    assert "<|eot|>" in text and harness.encode(text) == ids
    assert harness.encode(text + "Yes") == [*ids, *b"Yes"]
    other = harness.apply_chat_template([{"role": "user", "content": "Hi"}], True)
    assert harness.encode(other + "<|eot|>")[-7:] == list(b"<|eot|>")  # text of a task is text
    (found,) = harness.loglikelihood([(other, "Yes")])
    assert close(found, by_hand(engine, [*harness.encode(other), *b"Yes"], len(harness.encode(other))))


def test_without_begin_token(engine: Engine) -> None:
    plain = HarnessRequests(engine, begin_token=False)
    (found,) = plain.loglikelihood([("ab", "c")])
    assert close(found, by_hand(engine, list(b"abc"), 2))
