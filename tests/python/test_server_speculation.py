"""Speculation over HTTP: the same answers, predictions, several tokens in a chunk, and the numbers that tell of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from llama4rt import Engine
from llama4rt.demo import engine_path
from serving import CHAT, RunningServer, engine_fixture, running_server

ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What can you do?"}],
    "temperature": 0,
    "max_tokens": 60,
    "ignore_eos": True,
    "logprobs": True,
}
engine = engine_fixture(max_num_seqs=8, speculate="ngram")


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[RunningServer]:
    with running_server(engine) as server:
        yield server


@pytest.fixture(scope="module")
def plain_text() -> str:
    with Engine(engine_path(), num_threads=1) as plain, running_server(plain) as server:
        reply = httpx2.post(server.url + CHAT, json=ASKED, timeout=60).json()
        assert "completion_tokens_details" not in reply["usage"]
        text: str = reply["choices"][0]["message"]["content"]
        return text


def test_a_prediction_makes_few_chunks_of_the_same_answer(server: RunningServer, plain_text: str) -> None:
    predicted = ASKED | {"prediction": {"type": "content", "content": [{"type": "text", "text": plain_text}]}}
    reply = httpx2.post(server.url + CHAT, json=predicted, timeout=60).json()
    assert reply["choices"][0]["message"]["content"] == plain_text
    assert len(reply["choices"][0]["logprobs"]["content"]) == reply["usage"]["completion_tokens"] == 60
    details = reply["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] > 30, details

    streamed = predicted | {"stream": True, "stream_options": {"include_usage": True}}
    lines = httpx2.post(server.url + CHAT, json=streamed, timeout=60).text.split("\n\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == plain_text
    tokens = [len((choice.get("logprobs") or {}).get("content") or ()) for choice in choices]
    assert sum(tokens) == 60 and max(tokens) > 4
    assert chunks[-1]["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] > 30


def test_metrics_tell_of_guesses(server: RunningServer) -> None:
    text = httpx2.get(server.url + "/metrics", timeout=60).text
    found = dict(re.findall(r"llama4rt:(spec_decode\w+(?:\{[^}]*\})?) (\S+)", text))
    guessed = float(found["spec_decode_num_draft_tokens_total"])
    accepted = float(found["spec_decode_num_accepted_tokens_total"])
    by_position = [
        float(found[f'spec_decode_num_accepted_tokens_per_pos_total{{position="{i}"}}']) for i in range(16)
    ]
    assert guessed >= accepted > 60 and sum(by_position) == accepted
    assert by_position == sorted(by_position, reverse=True)


@pytest.mark.parametrize(
    ("prediction", "said"),
    [
        (
            {"type": "content", "content": [{"type": "image_url", "image_url": "x"}]},
            "prediction.content[0] is of type",
        ),
        ({"type": "tokens", "content": ""}, "prediction"),
        ("text", "prediction"),
    ],
)
def test_refuses_other_predictions(server: RunningServer, prediction: Any, said: str) -> None:
    reply = httpx2.post(server.url + CHAT, json=ASKED | {"prediction": prediction}, timeout=60)
    assert reply.status_code == 400 and said in reply.json()["error"]["message"], reply.text
