"""Guesses change no token, no probability and no end: bit for bit what the same engine gives without them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driver import Driver
from test_determinism import (
    ENGINES,
    MAX_MODEL_LEN,
    Case,
    check_nothing_held,
    check_stream,
    make_cases,
    tight_budget,
)
from tiny_checkpoints import KINDS, random_ids

Files = Callable[..., Path]

SETTINGS: list[dict[str, Any]] = [
    {"num_threads": 2, "max_batched_tokens": 40, "kv": "tight"},
    {"num_threads": 1, "max_batched_tokens": 512, "max_num_seqs": 64},
    {"num_threads": 2, "max_batched_tokens": 16, "max_num_seqs": 3, "prefix_cache": False},
]


def planted(rng: random.Random, kind: str, whole: list[int]) -> list[int]:
    """The output, with so many wrong tokens as chance has it: from none to nearly all."""
    share = rng.choice([0.0, 0.1, 0.3, 0.7])
    vocab_size = KINDS[kind].vocab_size
    return [rng.randrange(vocab_size) if rng.random() < share else token for token in whole]


@pytest.fixture(scope="module")
def cases_of(engine_file: Files) -> Callable[[str, int], list[Case]]:
    made: dict[str, list[Case]] = {}

    def cases(kind: str, count: int) -> list[Case]:
        if kind not in made:
            rng = random.Random(7)
            made[kind] = make_cases(engine_file(kind, **ENGINES[kind]), KINDS[kind], seed=23, count=count)
            for case in made[kind]:
                if rng.random() < 0.8:
                    # The drafter looks for the latest tokens in it: the end of the prompt leads into it.
                    ends = case.request["ids"][-2:]
                    case.request["prediction"] = ends + planted(rng, kind, rng.choice(case.whole).tokens)
        return made[kind]

    return cases


def accepted(driver: Driver) -> int:
    return sum(driver.engine.stats()["speculation"]["accepted"])


def rejected(driver: Driver) -> int:
    return sum(driver.engine.stats()["speculation"]["drafted"]) - accepted(driver)


@pytest.mark.parametrize("drafter", ["ngram", "auto"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(f"{k}_{v}" for k, v in s.items()))
def test_200_requests_give_what_they_give_without(
    drafter: str,
    settings: dict[str, Any],
    engine_file: Files,
    cases_of: Callable[[str, int], list[Case]],
) -> None:
    path = engine_file("int4", **ENGINES["int4"])
    options = {"device": "cpu", "max_model_len": MAX_MODEL_LEN, "max_num_seqs": 16} | settings
    tight = options.pop("kv", None) == "tight"
    if tight:
        options["kv_cache_bytes"] = tight_budget(path)
    with Driver(path, speculate=drafter, **options) as driver:
        check_stream(driver, cases_of("int4", 200))
        if tight:
            assert driver.engine.stats()["preemptions"] > 0, "the budget was meant to be too small"
        if drafter == "ngram":
            assert accepted(driver) > 200 and rejected(driver) > 200, driver.engine.stats()["speculation"]
        check_nothing_held(driver)


@pytest.mark.parametrize("kind", ["maverick", "top2", "all_rope", "no_chunk"])
def test_other_kinds(kind: str, engine_file: Files, cases_of: Callable[[str, int], list[Case]]) -> None:
    """Experts in every second layer, two experts a token; only local layers, only global ones."""
    path = engine_file(kind, **ENGINES[kind])
    with Driver(
        path,
        speculate="ngram",
        max_model_len=MAX_MODEL_LEN,
        kv_cache_bytes=tight_budget(path),
        max_batched_tokens=48,
        max_num_seqs=16,
        num_threads=2,
    ) as driver:
        check_stream(driver, cases_of(kind, 60))
        assert accepted(driver) > 50 and rejected(driver) > 50, driver.engine.stats()["speculation"]
        check_nothing_held(driver)


@pytest.mark.parametrize("draft", ["int4", "maverick"])
def test_a_draft_model_changes_nothing(
    draft: str, engine_file: Files, cases_of: Callable[[str, int], list[Case]]
) -> None:
    """The model itself, built with other weights, guesses well; one of another shape of random weights does not."""
    path = engine_file("int4", **ENGINES["int4"])
    guesser = engine_file(draft, **(ENGINES[draft] | {"weights": "int8", "group_size": 32}))
    with Driver(
        path,
        speculate=str(guesser),
        always_guess=True,
        max_model_len=MAX_MODEL_LEN,
        kv_cache_bytes=tight_budget(path),
        max_batched_tokens=48,
        max_num_seqs=8,
        num_threads=2,
    ) as driver:
        check_stream(driver, cases_of("int4", 200)[:100])
        if draft == "int4":
            assert accepted(driver) > 300, driver.engine.stats()["speculation"]
        assert rejected(driver) > 50, driver.engine.stats()["speculation"]
        check_nothing_held(driver)
    with Driver(path, speculate=str(guesser), max_model_len=MAX_MODEL_LEN) as driver:  # while it pays
        check_stream(driver, cases_of("int4", 200)[:20])


def test_a_draft_model_draws_with_the_same_random_numbers(engine_file: Files) -> None:
    """The model as its own draft guesses everything, sampled or not, over the ends of chunks."""
    path = engine_file("maverick", **ENGINES["maverick"])
    ids = random_ids(KINDS["maverick"], 30)
    hot = {
        "ids": ids,
        "max_tokens": 80,
        "temperature": 0.9,
        "seed": 5,
        "ignore_eos": True,
        "repetition_penalty": 1.2,
    }
    with Driver(path) as plain:
        (whole,) = plain.run([hot])
    with Driver(path, speculate=str(path), always_guess=True) as driver:
        (out,) = driver.run([hot])
        assert out.same_as(whole)
        assert rejected(driver) == 0 and accepted(driver) > 20, driver.engine.stats()["speculation"]


def test_refuses_a_draft_model_of_another_vocabulary(engine_file: Files) -> None:
    from llama4rt.errors import ConfigError

    with pytest.raises(
        ConfigError, match=r"vocabulary of 40 tokens and the model one of 331; a draft model must"
    ):
        Driver(engine_file("int4", **ENGINES["int4"]), speculate=str(engine_file("micro")))


def test_the_prefix_cache_holds_nothing_that_was_only_guessed(
    engine_file: Files, cases_of: Callable[[str, int], list[Case]]
) -> None:
    """What guessing runs have left there serves others, and gives them their own tokens."""
    path = engine_file("int4", **ENGINES["int4"])
    cases = cases_of("int4", 200)
    with Driver(path, speculate="ngram", max_model_len=MAX_MODEL_LEN, kv_cache_bytes=64 << 20) as driver:
        check_stream(driver, cases)
        again = [
            {"ids": case.request["ids"] + out.tokens, "max_tokens": 4, "ignore_eos": True}
            for case in cases
            for out in case.whole[:1]
            if out.tokens and len(case.request["ids"] + out.tokens) < MAX_MODEL_LEN - 4
        ]
        outputs = driver.run(again)
        assert sum(out.cached_tokens for out in outputs) > 1000
    with Driver(path, max_model_len=MAX_MODEL_LEN, prefix_cache=False) as plain:
        for out, whole in zip(outputs, plain.run(again), strict=True):
            assert out.same_as(whole)


def test_a_right_prediction_takes_few_steps(engine_file: Files) -> None:
    """17 tokens a step: one drawn, 16 guessed; and several tokens come in one event."""
    path = engine_file("maverick", **ENGINES["maverick"])
    ids = random_ids(KINDS["maverick"], 20)
    with Driver(path) as plain:
        whole = plain.generate(ids, 100)
    with Driver(path, speculate="ngram") as driver:
        out = driver.generate(ids, 100, prediction=ids[-2:] + whole.tokens)
        assert out.same_as(whole)
        stats = driver.engine.stats()["speculation"]
        # Tiny chunks of 16 positions cut some steps short.
        assert stats["sequence_steps"] <= 100 / 17 + 100 / KINDS["maverick"].chunk + 2, stats
        assert driver.engine.stats()["generated_tokens"] == 100


def test_wrong_predictions_are_not_asked_again_and_again(engine_file: Files) -> None:
    """Text that cannot be guessed: the automatic choice stops guessing."""
    path = engine_file("maverick", **ENGINES["maverick"])
    rng = random.Random(3)
    ids = random_ids(KINDS["maverick"], 20)
    with Driver(path, speculate="auto", max_model_len=1024) as driver:
        out = driver.generate(ids, 600, temperature=1.5, seed=1)
        wrong = [token for a in out.tokens for token in (a, rng.randrange(8, 300))]
        again = driver.generate(ids, 600, temperature=1.5, seed=1, prediction=wrong)
        assert again.tokens == out.tokens
        stats = driver.engine.stats()["speculation"]
        assert sum(stats["drafted"]) < 0.1 * stats["sequence_steps"], stats


@pytest.mark.parametrize("name", ["", "sometimes", "eagle3"])
def test_refuses_other_drafters_by_name(name: str, engine_file: Files) -> None:
    from llama4rt.errors import ConfigError

    with pytest.raises(ConfigError, match=f'speculate is "{name}"'):
        Driver(engine_file("int4", **ENGINES["int4"]), speculate=name)


def test_refuses_predictions_outside_the_vocabulary(engine_file: Files) -> None:
    from llama4rt.errors import RequestError

    refusal = r"prediction\[1\] is 331; token ids of this model are 0..330"
    with (
        Driver(engine_file("int4", **ENGINES["int4"])) as driver,
        pytest.raises(RequestError, match=refusal),
    ):
        driver.submit([5], prediction=[1, 331])
