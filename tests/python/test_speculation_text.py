"""Requests of every kind beside each other, with text: grammars, stop strings, pictures, penalties, probabilities.

Each is answered bit for bit as by an engine that does not speculate, whoever guesses.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("llguidance")

from llama4rt import Engine, RequestError, RequestOutput, SamplingParams, StructuredOutput
from llama4rt.demo import engine_path, load_showcase

PERSON = {
    "type": "object",
    "properties": {
        "first_name": {"type": "string", "maxLength": 12},
        "last_name": {"type": "string", "maxLength": 12},
        "city_of_birth": {"enum": ["Amsterdam", "Amstelveen", "Rotterdam"]},
        "children": {
            "type": "array",
            "maxItems": 3,
            "items": {"type": "integer", "minimum": 1, "maximum": 999},
        },
    },
    "required": ["first_name", "last_name", "city_of_birth", "children"],
    "additionalProperties": False,
}
FORMS = [
    StructuredOutput.json_schema(PERSON),
    StructuredOutput.json_schema(PERSON, complete=True),
    StructuredOutput.json_object(),
    StructuredOutput.regex(r"(abc|abd|[0-9]{3}){2,9}\."),
    StructuredOutput.choice(["yes, of course", "yes, perhaps", "no"]),
    StructuredOutput.grammar('start: ("la" | "lo")+ "end"'),
]


def random_params(rng: random.Random) -> SamplingParams:
    fields: dict[str, Any] = {
        "max_tokens": rng.choice([1, 2, 7, 20, 45]),
        "temperature": rng.choice([0.0, 0.0, 0.7, 1.6]),
        "seed": rng.randrange(2**40),
    }
    optional: dict[str, Any] = {
        "n": rng.choice([2, 3]),
        "logprobs": rng.choice([0, 3]),
        "prompt_logprobs": 1,
        "repetition_penalty": rng.choice([0.8, 1.2]),
        "presence_penalty": 0.7,
        "frequency_penalty": -0.5,
        "top_p": 0.8,
        "top_k": 20,
        "typical_p": 0.9,
        "logit_bias": {rng.randrange(200): 3.0},
        "stop": rng.sample(["e", "th", " a", "one", '"'], 2),
        "prediction": rng.choice(
            ["one two three one two three", "The answer is yes.", '{"first_name": "Ann"'] * 2
        ),
    }
    for name in rng.sample(sorted(optional), rng.randrange(5)):
        fields[name] = optional[name]
    if rng.random() < 0.45:
        fields["structured"] = rng.choice(FORMS)
        if fields["structured"].complete:  # its shortest form takes 49
            fields["max_tokens"] = 70
    else:
        fields["ignore_eos"] = rng.random() < 0.5
        if rng.random() < 0.2:
            fields["bad_words"] = ["the", "one two"]
    return SamplingParams(**fields)


def random_requests(
    rng: random.Random, count: int
) -> tuple[list[str], list[SamplingParams], list[list[Any]]]:
    showcase = load_showcase()
    prompts, params, images = [], [], []
    for _ in range(count):
        words = " ".join(
            rng.choice(["one", "two", "three", "the", "cat", "sat"]) for _ in range(rng.randrange(1, 40))
        )
        picture = rng.random() < 0.2
        prompts.append(("<|image|>" if picture else "") + words + rng.choice(["", " " + words]))
        images.append([rng.choice(showcase.pictures).path] if picture else [])
        params.append(random_params(rng))
    return prompts, params, images


def said(outputs: list[RequestOutput]) -> list[Any]:
    return [
        (output.prompt_logprobs, [replace(completion) for completion in output.outputs]) for output in outputs
    ]


@pytest.mark.parametrize("drafter", ["ngram", "auto"])
def test_everything_at_once(drafter: str, soak: bool) -> None:
    rng = random.Random(99)
    options: dict[str, Any] = {"max_model_len": 512, "max_num_seqs": 6, "kv_cache_memory": "12MiB"}
    with (
        Engine(engine_path(), **options) as plain,
        Engine(engine_path(), speculate=drafter, max_batched_tokens=64, **options) as guessing,
    ):
        for _ in range(25 if soak else 1):
            prompts, params, images = random_requests(rng, 200)
            # One by one in a warm cache, and together.
            expected = plain.generate(prompts, params, images=images)
            outputs = guessing.generate(prompts, params, images=images)
            for one, other, what in zip(said(expected), said(outputs), params, strict=True):
                assert one == other, what
        stats = guessing.stats()
        speculation = stats["speculation"]
        if drafter == "ngram":
            assert sum(speculation["accepted"]) > 100, speculation
            assert sum(speculation["drafted"]) > sum(speculation["accepted"]) + 100, speculation
        assert sum(output.num_guessed_right for output in outputs) <= sum(speculation["accepted"])
        assert all(group["used"] == 0 for group in stats["blocks"].values())


def test_what_a_grammar_forces_is_guessed() -> None:
    params = SamplingParams(max_tokens=120, temperature=0.8, seed=3, structured=FORMS[0])
    with Engine(engine_path()) as plain:
        (expected,) = plain.generate(["a person:"], params)[0].outputs
    with Engine(engine_path(), speculate="ngram") as guessing:
        (output,) = guessing.generate(["a person:"], params)[0].outputs
        stats = guessing.stats()["speculation"]
    assert output == expected and output.finish_reason == "stop"
    # The names of the properties and what stands between them are most of it.
    assert stats["sequence_steps"] < 0.8 * stats["tokens"], stats


def test_several_tokens_come_in_one_delta_and_stop_strings_cut_inside_it() -> None:
    prompt = "one two three four one two three four one two three four one two three"
    predicted = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True, logprobs=1)
    with Engine(engine_path()) as plain:
        text = plain.generate([prompt], predicted)[0].outputs[0].text
    predicted = replace(predicted, prediction=prompt[-12:] + text)
    for stop in (text[5:8], text[9:12], text[20:24]):
        params = replace(predicted, stop=stop)
        with Engine(engine_path()) as plain:
            expected = plain.generate([prompt], params)[0].outputs[0]
        with Engine(engine_path(), speculate="ngram") as guessing:
            deltas = list(guessing.stream(prompt, params))
        assert "".join(delta.text for delta in deltas) == expected.text
        assert [i for delta in deltas for i in delta.token_ids] == expected.token_ids
        assert [p for delta in deltas for p in delta.logprobs or ()] == expected.logprobs
        assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", stop)
    with Engine(engine_path(), speculate="ngram") as guessing:
        deltas = list(guessing.stream(prompt, predicted))
    assert max(len(delta.token_ids) for delta in deltas) > 4
    assert sum(delta.guessed_right for delta in deltas) >= 60 - len(deltas)


def test_refuses_a_prediction_that_is_no_text() -> None:
    with pytest.raises(RequestError, match=r"prediction is \[1, 2\]; it must be None or a string"):
        SamplingParams(prediction=[1, 2])  # type: ignore[arg-type]
